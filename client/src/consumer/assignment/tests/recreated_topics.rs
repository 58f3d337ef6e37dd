//! Topics that are deleted and recreated, and topics that grow.

use super::*;

struct RecreatedTopicReader {
    assignment: AssignmentState,
    key: TopicPartition,
    now: Instant,
}

fn id(id: &str) -> Arc<str> {
    id.into()
}

fn changed() -> Error {
    streamhouse_core::Error::new(ErrorCode::UnknownTopicId, "made anew").into()
}

impl RecreatedTopicReader {
    /// Reads the topic "old" from offset 7.
    fn on_old_topic() -> Self {
        let key = TopicPartition::new("t", 0);
        let mut assignment = AssignmentState::default();
        assignment.add(
            std::slice::from_ref(&key),
            &ConsumerMetrics::new(&MetricsRegistry::new(), "g"),
        );
        let now = Instant::now();
        let mut reader = Self { assignment, key, now };
        let wanted = reader.lookup("old");
        reader
            .assignment
            .complete_lookup(&wanted, FetchPosition::At(7), Some(7));
        reader
    }

    fn lookup(&mut self, topic: &str) -> PartitionRequest {
        let mut wanted = self.assignment.take_lookups(self.now).remove(0);
        self.assignment.bind_topic_id(&mut wanted, &id(topic));
        wanted
    }

    fn fetch(&mut self, topic: &str) -> PartitionRequest {
        let mut wanted = self.assignment.take_fetches(self.now, usize::MAX).remove(0);
        self.assignment.bind_topic_id(&mut wanted, &id(topic));
        wanted
    }
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning_and_nothing_of_the_old_one_is_returned() {
    let mut reader = RecreatedTopicReader::on_old_topic();
    let wanted = reader.fetch("new");
    assert_eq!(wanted.topic_id, id("old"), "a position stays bound to its topic");
    reader
        .assignment
        .add_fetched(&wanted, vec![batch(7, 2), batch(9, 2)], 20, 0);
    assert_eq!(poll(&mut reader.assignment, 2), [7, 8]);

    let wanted = reader.fetch("old");
    let change = reader
        .assignment
        .handle_topic_recreated(&wanted, changed(), reader.now, true);
    let expected = TopicRecreation {
        former_id: id("old"),
        position: 9,
    };
    assert_eq!(change, Some(expected));
    assert_eq!(poll(&mut reader.assignment, 9), [0_i64; 0]);
    assert_eq!(reader.assignment.position(&reader.key).unwrap(), None);
    assert!(reader.assignment.uncommitted().is_empty());
    assert!(reader.assignment.take_due_error(reader.now).is_none());

    // The cached id may be outdated for a while.
    let wanted = reader.lookup("old");
    assert_eq!(
        reader
            .assignment
            .handle_topic_recreated(&wanted, changed(), reader.now, true),
        None
    );
    let wanted = reader.lookup("new");
    assert_eq!(
        (wanted.position, &wanted.topic_id),
        (FetchPosition::Committed, &id("new"))
    );
    assert!(
        reader.assignment.is_new_partition(&wanted),
        "it was not there when reading began"
    );
    reader
        .assignment
        .complete_lookup(&wanted, FetchPosition::At(0), None);
    let wanted = reader.fetch("newer");
    assert_eq!(wanted.topic_id, id("new"));
    reader.assignment.add_fetched(&wanted, vec![batch(0, 3)], 3, 0);
    assert_eq!(poll(&mut reader.assignment, 9), [0, 1, 2]);
    assert_eq!(reader.assignment.uncommitted()[&reader.key], 3);
}

#[test]
fn an_offset_of_the_old_topic_is_never_committed_for_the_new_one() {
    let mut reader = RecreatedTopicReader::on_old_topic();
    assert_eq!(reader.assignment.topic_id(&reader.key, 7), id("old"));
    let wanted = reader.fetch("old");
    reader
        .assignment
        .handle_topic_recreated(&wanted, changed(), reader.now, true);
    assert_eq!(
        reader.assignment.topic_id(&reader.key, 0),
        id("old"),
        "not even before the new one is known"
    );
    let wanted = reader.lookup("new");
    reader
        .assignment
        .complete_lookup(&wanted, FetchPosition::At(0), None);
    assert_eq!(reader.assignment.topic_id(&reader.key, 7), id("old"));
    assert_eq!(reader.assignment.topic_id(&reader.key, 0), id("new"));
}

#[test]
fn without_a_policy_a_topic_made_anew_stops_whoever_read_the_old_one_until_a_seek() {
    let mut reader = RecreatedTopicReader::on_old_topic();
    let wanted = reader.fetch("old");
    assert_eq!(
        reader
            .assignment
            .handle_topic_recreated(&wanted, changed(), reader.now, false),
        None
    );
    assert_eq!(reader.assignment.take_due_error(reader.now), Some(changed()));
    assert!(reader.assignment.take_fetches(reader.now, usize::MAX).is_empty());
    assert!(reader.assignment.take_lookups(reader.now).is_empty());
    assert_eq!(reader.assignment.position(&reader.key).unwrap(), Some(7));

    // A seek refers to the current topic, even if the cached id is outdated.
    reader.assignment.seek(&reader.key, FetchPosition::At(0)).unwrap();
    let wanted = reader.fetch("old");
    assert_eq!(
        reader
            .assignment
            .handle_topic_recreated(&wanted, changed(), reader.now, false),
        None
    );
    assert_eq!(reader.fetch("new").topic_id, id("new"));
    assert_eq!(error(&reader.assignment), None);
}

#[test]
fn the_offset_of_a_seek_in_a_topic_that_went_is_not_read_on_at() {
    let mut reader = RecreatedTopicReader::on_old_topic();
    reader
        .assignment
        .seek(&reader.key, FetchPosition::At(500))
        .unwrap();
    let wanted = reader.fetch("old");
    let change = reader
        .assignment
        .handle_topic_recreated(&wanted, changed(), reader.now, true);
    assert_eq!(change.map(|change| change.position), Some(500));
    assert_eq!(reader.lookup("new").position, FetchPosition::Committed);
}

fn sight(topic_id: &str, partitions: i32) -> TopicObservation {
    TopicObservation {
        id: id(topic_id),
        partitions,
    }
}

fn wanted(partition: i32, topic_id: &str) -> PartitionRequest {
    PartitionRequest {
        key: TopicPartition::new("t", partition),
        serial: 0,
        position: FetchPosition::Committed,
        topic_id: id(topic_id),
    }
}

#[test]
fn a_topic_that_matches_a_pattern_later_is_new_as_a_whole() {
    let metrics = ConsumerMetrics::new(&MetricsRegistry::new(), "g");
    let mut assignment = AssignmentState::default();
    assignment.subscribe(&["orders-1".to_owned()], false);
    assignment.observe_topic("orders-1", &sight("a", 1), &metrics);
    assignment.subscribe_matches(&["orders-1".to_owned(), "orders-2".to_owned()]);
    assignment.observe_topic("orders-2", &sight("b", 1), &metrics);
    let keys = ["orders-1", "orders-2"].map(|topic| TopicPartition::new(topic, 0));
    assignment.add(&keys, &metrics);
    let wanted = assignment.take_lookups(Instant::now());
    let new: Vec<_> = wanted
        .iter()
        .map(|wanted| assignment.is_new_partition(wanted))
        .collect();
    assert_eq!(new, [false, true]);
}

#[test]
fn partitions_that_come_up_while_a_topic_is_followed_are_new() {
    let metrics = ConsumerMetrics::new(&MetricsRegistry::new(), "g");
    let mut assignment = AssignmentState::default();
    assignment.subscribe(&["t".to_owned(), "later".to_owned()], false);
    assert!(assignment.observe_topic("t", &sight("a", 2), &metrics));
    assert!(
        !assignment.observe_topic("t", &sight("a", 2), &metrics),
        "that is no news"
    );
    assert!(assignment.observe_topic("t", &sight("a", 3), &metrics));
    assert!(assignment.partitions().is_empty(), "the group shares them");
    let new: Vec<_> = (0..4)
        .map(|partition| assignment.is_new_partition(&wanted(partition, "a")))
        .collect();
    assert_eq!(new, [false, false, true, true]);
    assert!(
        assignment.is_new_partition(&wanted(0, "b")),
        "a topic made anew is new as a whole"
    );
    assignment.observe_topic("t", &sight("b", 1), &metrics);

    assignment.observe_topic("later", &sight("", 0), &metrics);
    assignment.observe_topic("later", &sight("c", 1), &metrics);
    let mut first = wanted(0, "c");
    first.key.topic = "later".to_owned();
    assert!(assignment.is_new_partition(&first), "it was missing at first");
    assignment.subscribe(&["t".to_owned()], false);
    assert!(
        assignment.is_new_partition(&wanted(2, "a")),
        "what is followed still is known"
    );
    assert!(!assignment.is_new_partition(&first));
}

#[test]
fn topics_without_a_group_are_read_as_a_whole_as_they_grow_and_shrink() {
    let metrics = ConsumerMetrics::new(&MetricsRegistry::new(), "");
    let mut assignment = AssignmentState::default();
    let held = |assignment: &AssignmentState| -> Vec<i32> {
        let all = assignment.partitions();
        all.iter().map(|key| key.partition).collect()
    };
    assignment.subscribe(&["t".to_owned()], true);
    assignment.observe_topic("t", &sight("a", 1), &metrics);
    assert_eq!(held(&assignment), [0]);
    assignment.observe_topic("t", &sight("a", 3), &metrics);
    assert_eq!(held(&assignment), [0, 1, 2]);
    assignment.observe_topic("t", &sight("", 0), &metrics);
    assert_eq!(
        held(&assignment),
        [0, 1, 2],
        "a topic that is gone is told of, and may come back"
    );
    assignment.observe_topic("t", &sight("b", 2), &metrics);
    assert_eq!(held(&assignment), [0, 1]);
}
