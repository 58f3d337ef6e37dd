//! Distribution of records without a key, and the size of batches.

use std::time::Duration;

use tokio::time::Instant;

use streamhouse_core::batch::Compression;

use super::{
    super::{
        delivery::BatchTicket,
        encode::BatchEncoder,
        partition_buffer::{AppendOutcome, BatchOpening},
        partitioner::DefaultPartitioner,
        record::RecordRef,
    },
    *,
};
use crate::metrics::{MetricsRegistry, ProducerMetrics};

const LINGER: Duration = Duration::from_millis(5);

fn known(max_message_bytes: usize) -> TopicSnapshot {
    TopicSnapshot {
        topic_id: "1".into(),
        partitions: 0,
        max_message_bytes,
    }
}

fn topic(partitions: i32) -> ProducerTopic {
    let metrics = ProducerMetrics::new(&MetricsRegistry::new()).for_topic("t");
    let topic = ProducerTopic::new("t".into(), &known(0), 0, metrics);
    let new = (0..partitions).map(|index| {
        Arc::new(PartitionBuffer::new(
            "t".into(),
            "1".into(),
            index,
            index as usize,
        ))
    });
    *topic.partitions.write() = new.collect::<Vec<_>>().into();
    topic
}

/// Appends a record without a key, as `send` does. Returns its partition.
fn append(topic: &ProducerTopic, batch_size: usize) -> i32 {
    let mut moved_on = false;
    loop {
        let choice = topic.choose_partition(&DefaultPartitioner, None, None).unwrap();
        let new = |_| {
            (
                BatchEncoder::new(Compression::None),
                BatchTicket::new(0, "t".into(), 0),
            )
        };
        let opening = BatchOpening {
            batch_size,
            prefers: if moved_on {
                PartitionPreference::This
            } else {
                choice.preference()
            },
            new: &new,
        };
        let record = RecordRef::new(&[7; 100]);
        match choice.partition.append(&record, 0, 136, None, &opening) {
            AppendOutcome::Done { .. } => return choice.partition.index,
            _ => {
                topic.advance_sticky(choice.sticky.unwrap_or(0));
                moved_on = true;
            }
        }
    }
}

/// Sends `records` records per linger; the leader of partition 0 accepts a batch only every `slow`
/// lingers, the others as soon as they are due. Returns the number of records per partition.
fn spread(records: usize, slow: u32, rounds: u32, batch_size: usize) -> [usize; 3] {
    let topic = topic(3);
    let mut got = [0; 3];
    for round in 0..rounds {
        for _ in 0..records {
            got[append(&topic, batch_size) as usize] += 1;
        }
        // The linger is over: the dispatcher checks each partition.
        let later = Instant::now() + LINGER;
        for partition in topic.partitions.read().iter() {
            let _ = partition.pull_state(later, LINGER);
            if partition.index > 0 || round % slow == 0 {
                while partition.pull(later, LINGER).is_some() {}
            }
        }
    }
    got
}

#[test]
fn a_slow_leader_gets_no_more_records_than_the_others() {
    for records in [1, 10, 200] {
        let [slow, second, third] = spread(records, 10, 300, 1 << 20);
        let fair = (slow + second + third) / 3;
        assert!(
            slow <= fair + fair / 10,
            "{records} records a linger: {slow} of 3 * {fair}"
        );
        assert!(
            second.abs_diff(third) <= fair / 5 + records,
            "{second} and {third}"
        );
        assert!(slow > 0, "it keeps its turns");
    }
}

#[test]
fn where_all_leaders_keep_up_the_shares_are_equal() {
    let got = spread(50, 1, 300, 1 << 20);
    assert!(got.iter().all(|share| *share == 5000), "{got:?}");
}

#[test]
fn where_no_leader_keeps_up_batches_still_fill() {
    let topic = topic(3);
    for _ in 0..3 {
        append(&topic, 10_000);
        for partition in topic.partitions.read().iter() {
            let _ = partition.pull_state(Instant::now() + LINGER, LINGER);
        }
    }
    // All open batches are due and cannot be sent. One of them is filled, then the next.
    let chosen: Vec<i32> = (0..150).map(|_| append(&topic, 10_000)).collect();
    let moves = chosen.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(moves <= 4, "{chosen:?}");
}

#[test]
fn batches_fill_by_what_compression_leaves() {
    let topic = topic(1);
    assert_eq!(topic.fill_limit(1 << 20), 1 << 20, "no limit is known");
    topic.set_max_message_bytes(16_384);
    assert_eq!(
        topic.fill_limit(1 << 20),
        16_384,
        "nothing is known of compression"
    );
    for _ in 0..300 {
        topic.observe_compression(10_000, 2500);
    }
    assert_eq!(topic.fill_limit(1 << 20), 16_384 * 1000 / (250 + 250 / 16));
    topic.observe_compression(10_000, 10_100);
    assert_eq!(topic.fill_limit(1 << 20), 16_384, "it is careful at once");
    topic.set_max_message_bytes(0);
    assert_eq!(topic.max_message_bytes(), 16_384, "0 says nothing");
    topic.reduce_limit(10_000);
    assert_eq!(topic.max_message_bytes(), 5000);
    topic.reduce_limit(16_384);
    assert_eq!(topic.max_message_bytes(), 5000, "that was known");
}

#[test]
fn an_id_that_is_gone_does_not_come_back() {
    let topic = topic(1);
    let [first, second, none] = ["1", "2", ""].map(Arc::<str>::from);
    assert!(!topic.adopt_id(&first) && !topic.adopt_id(&none));
    assert!(topic.adopt_id(&second));
    assert!(
        !topic.adopt_id(&second) && !topic.adopt_id(&first),
        "an old answer"
    );
    assert_eq!(topic.id(), second);
}
