//! Topic names that are used again: a topic that is deleted and created again under its name shares
//! nothing with the one before (INV-K1), and late requests can neither damage it nor leave objects
//! behind (INV-G1, INV-G2).

use bytes::Bytes;
use streamhouse_core::{
    PartitionUid,
    batch::{BatchIter, DecodedRecords},
    protocol::v1::{
        data_service_client::DataServiceClient, group_service_client::GroupServiceClient,
        partition_offset_query::Position,
    },
};
use streamhouse_metadata::{Error as MetadataError, GarbagePolicy, LogPosition, SpanLocation, keys};

use super::*;
use crate::{
    maintenance::{delete, roll::SegmentRoller, sweep},
    store::{GetRange, StoreErrorKind},
};

/// The jobs run only when a test runs them, and segments are then written at once.
const MANUAL_JOBS: [&str; 2] = ["--maintenance-interval=1h", "--object-grace=1s"];

async fn start_manual_agent(dir: &Path, id: &str) -> Agent {
    let agent = Agent::start(settings(dir, id, &MANUAL_JOBS)).await.unwrap();
    wait_until("it is ready", || agent.node.health.is_ready()).await;
    agent
}

/// Creates a topic with one partition that is rolled in every round.
async fn create_rolled_topic(agent: &Agent, name: &str) -> PartitionUid {
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        config: [("segment.ms".to_owned(), "100".to_owned())].into(),
        ..v1::CreateTopicRequest::default()
    };
    topics::create(&agent.node.topics(), request).await.unwrap();
    partition_uid(agent, name)
}

fn partition_uid(agent: &Agent, name: &str) -> PartitionUid {
    agent.node.directory.view().partition(name, 0).unwrap().uid
}

/// Rolls until the whole log of a led partition is in segments, and returns the key of the last
/// one.
async fn roll_everything(agent: &Agent, uid: PartitionUid) -> String {
    let (mut roller, deadline) = (SegmentRoller::default(), Instant::now() + EVENT_TIMEOUT);
    loop {
        let session = agent.node.session().unwrap();
        roller.run(&agent.node.maintenance(), &session).await.unwrap();
        let view = agent
            .node
            .metadata
            .read_log(uid, LogPosition::Offset(0), 100)
            .await
            .unwrap();
        if let Some(SpanLocation::Segment { key, .. }) = view.spans.last().map(|span| span.place.clone()) {
            return key;
        }
        assert!(Instant::now() < deadline, "nothing is rolled");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Reads the values of a partition's records from the objects, through the block cache.
async fn read_values(agent: &Agent, uid: PartitionUid) -> Vec<String> {
    let read = agent.node.log().read_range(uid, 0, 1 << 20).await.unwrap();
    let mut values = Vec::new();
    for batch in BatchIter::owned(&read.records) {
        let (_, batch) = batch.unwrap();
        for record in DecodedRecords::decode(batch, 1 << 20).unwrap() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

async fn is_stored(agent: &Agent, key: &str) -> bool {
    match agent.node.store.get(key, GetRange::Full).await {
        Ok(_) => true,
        Err(error) if error.kind() == StoreErrorKind::NotFound => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs the deleter until an object is deleted.
async fn delete_until_gone(agent: &Agent, key: &str) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while is_stored(agent, key).await {
        delete::run(&agent.node.maintenance()).await.unwrap();
        assert!(Instant::now() < deadline, "{key} stays");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the deleter until no garbage is left.
async fn delete_all_garbage(agent: &Agent) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    loop {
        delete::run(&agent.node.maintenance()).await.unwrap();
        if agent.node.metrics.garbage_waiting.get() == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "garbage is never deleted");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_topic_of_a_name_serves_its_own_records_only() {
    let dir = TempDir::new().unwrap();
    let one = start_manual_agent(dir.path(), "one").await;
    let mut keys = Vec::new();
    // The same base offset, with the same size and with others.
    for value in ["first!", "second", "the third, which is longer", "4"] {
        let uid = create_rolled_topic(&one, "orders").await;
        assert_eq!(produce(&one, "orders", 0, value).await, Ok(0));
        keys.push(roll_everything(&one, uid).await);
        // Twice: from the object, from the cache.
        assert_eq!(read_values(&one, uid).await, [value]);
        assert_eq!(read_values(&one, uid).await, [value]);
        topics::delete(&one.node.topics(), "orders").await.unwrap();
    }
    let expected = ["orders", "orders@2", "orders@3", "orders@4"];
    assert_eq!(
        keys,
        expected.map(|folder| format!("{folder}/0/segment_0000000000.dat"))
    );
    for key in &keys {
        delete_until_gone(&one, key).await;
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agents_late_delete_takes_nothing_from_the_next_topic() {
    let dir = TempDir::new().unwrap();
    let one = start_manual_agent(dir.path(), "one").await;
    let old = create_rolled_topic(&one, "orders").await;
    produce(&one, "orders", 0, "old").await.unwrap();
    let old_key = roll_everything(&one, old).await;
    let two = Arc::new(start_manual_agent(dir.path(), "two").await);
    topics::delete(&one.node.topics(), "orders").await.unwrap();
    // The second agent lists the old topic's objects, and blocks before it deletes them.
    let paused = two.node.failpoints.hold(FailPoint::BeforeDelete);
    let late = tokio::spawn({
        let two = two.clone();
        async move {
            // The first round may run before the grace has elapsed.
            for _ in 0..3000 {
                delete::run(&two.node.maintenance()).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
    paused.wait_reached().await;
    delete_until_gone(&one, &old_key).await;
    delete_all_garbage(&one).await;
    // Everything of the old topic is deleted, and its name belongs to another topic.
    let new = create_rolled_topic(&one, "orders").await;
    produce_to_any(&[&one, &*two], "orders", "new").await;
    let leader = [&one, &*two]
        .into_iter()
        .find(|agent| leads_partition(agent, new))
        .unwrap();
    let new_key = roll_everything(leader, new).await;
    drop(paused);
    delete_all_garbage(&two).await;
    late.abort();
    let _ = late.await;
    assert!(is_stored(&one, &new_key).await);
    for agent in [&one, &*two] {
        assert_eq!(read_values(agent, new).await, ["new"]);
    }
    Arc::into_inner(two).unwrap().drain().await;
    one.drain().await;
}

fn leads_partition(agent: &Agent, uid: PartitionUid) -> bool {
    agent
        .node
        .session()
        .is_some_and(|life| life.partitions.get(uid).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_put_after_the_purge_blocks_nobody_and_does_not_stay() {
    let dir = TempDir::new().unwrap();
    let one = Arc::new(start_manual_agent(dir.path(), "one").await);
    create_rolled_topic(&one, "orders").await;
    produce(&one, "orders", 0, "old").await.unwrap();
    let paused = one.node.failpoints.hold(FailPoint::BeforeSegmentPut);
    let roll = tokio::spawn({
        let one = one.clone();
        async move {
            let (session, mut roller) = (one.node.session().unwrap(), SegmentRoller::default());
            while roller.run(&one.node.maintenance(), &session).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        }
    });
    paused.wait_reached().await;
    topics::delete(&one.node.topics(), "orders").await.unwrap();
    delete_all_garbage(&one).await;
    drop(paused);
    // The swap is refused since the partition does not exist any more. The object is stored.
    roll.await.unwrap();
    let late = "orders/0/segment_0000000000.dat";
    assert!(is_stored(&one, late).await, "the test must put it late");
    delete_all_garbage(&one).await;
    let new = create_rolled_topic(&one, "orders").await;
    produce(&one, "orders", 0, "new").await.unwrap();
    let key = roll_everything(&one, new).await;
    assert_ne!(key, late);
    let two = start_manual_agent(dir.path(), "two").await;
    Arc::into_inner(one).unwrap().crash().await;
    wait_until("the crashed incarnation is sealed", || {
        two.node.directory.view().snapshot.agents.len() == 1
    })
    .await;
    delete_until_gone(&two, late).await;
    assert!(is_stored(&two, &key).await);
    assert_eq!(read_values(&two, new).await, ["new"]);
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_object_put_after_the_sweep_does_not_stay() {
    let dir = TempDir::new().unwrap();
    let one = start_manual_agent(dir.path(), "one").await;
    let two = start_manual_agent(dir.path(), "two").await;
    let gone = incarnation(&one).unwrap();
    one.crash().await;
    let is_unswept = |two: &Agent| {
        let view = two.node.directory.view();
        view.snapshot.unswept.iter().any(|(unswept, _)| *unswept == gone)
    };
    wait_until("the crashed incarnation is sealed", || is_unswept(&two)).await;
    sweep_until(&two, || !is_unswept(&two)).await;
    // A delayed upload is stored.
    let late = keys::wal_key(gone, 5);
    two.node
        .store
        .put_new(&late, Bytes::from_static(b"late"))
        .await
        .unwrap();
    let policy = GarbagePolicy {
        object_grace: Duration::from_secs(3600),
        producer_expiry: Duration::from_secs(3600),
        offsets_retention: Duration::from_secs(3600),
        incarnation_retention: Duration::ZERO,
    };
    two.node.metadata.collect_garbage(&policy, 1).await.unwrap();
    wait_until("it is to be swept once more", || is_unswept(&two)).await;
    sweep_until(&two, || !is_unswept(&two)).await;
    assert!(!is_stored(&two, &late).await);
    // The row is dropped as soon as no partition names the incarnation any more.
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !matches!(
        two.node.metadata.orphans(gone, &[5]).await,
        Err(MetadataError::NotSealed(_))
    ) {
        two.node.metadata.collect_garbage(&policy, 1).await.unwrap();
        assert!(Instant::now() < deadline, "the incarnation is never dropped");
        sleep(Duration::from_millis(20)).await;
    }
    two.drain().await;
}

/// Sweeps until a condition holds.
async fn sweep_until(agent: &Agent, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !holds() {
        // A slow machine may miss a renewal; the next session sweeps then.
        if let Some(session) = agent.node.session() {
            sweep::run(&agent.node.maintenance(), &session).await.unwrap();
        }
        assert!(Instant::now() < deadline, "it is not swept");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_old_topic_is_told() {
    let dir = TempDir::new().unwrap();
    let one = start_manual_agent(dir.path(), "one").await;
    create_rolled_topic(&one, "orders").await;
    let id = |agent: &Agent| agent.node.directory.view().topic("orders").unwrap().id.clone();
    let old = id(&one);
    topics::delete(&one.node.topics(), "orders").await.unwrap();
    create_rolled_topic(&one, "orders").await;
    produce(&one, "orders", 0, "new").await.unwrap();
    let new = id(&one);
    assert_ne!(old, new);
    let reported = ErrorCode::UnknownTopicId;
    for (id, expected) in [
        (old.as_str(), reported),
        (new.as_str(), ErrorCode::None),
        ("", ErrorCode::None),
    ] {
        assert_eq!(call_all_methods(&one, id).await, [expected; 5], "{id}");
    }
    let view = one.node.directory.view();
    let error = view.find_partition("orders", &old, 0).unwrap_err();
    assert!(error.is_retryable() && error.code().has_no_side_effects());
    assert!(
        error.message().contains(&old) && error.message().contains(&new),
        "{error}"
    );
    one.drain().await;
}

fn error_code(error: Option<v1::Error>) -> ErrorCode {
    error.map_or(ErrorCode::None, |error| ErrorCode::from_number(error.code))
}

/// Commits an offset once the coordinator has read its groups.
async fn commit_offset(
    groups: &mut GroupServiceClient<tonic::transport::Channel>,
    topic: &str,
    topic_id: &str,
) -> v1::CommitOffsetsResponse {
    let request = v1::CommitOffsetsRequest {
        group_id: "billing".to_owned(),
        generation: -1,
        offsets: vec![v1::CommitOffset {
            topic: topic.to_owned(),
            partition: 0,
            offset: 1,
            leader_epoch: -1,
            metadata: String::new(),
            topic_id: topic_id.to_owned(),
        }],
        ..Default::default()
    };
    let deadline = Instant::now() + EVENT_TIMEOUT;
    loop {
        match groups.commit_offsets(request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            // The coordinator may still be reading its groups.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the error codes of a produce, a fetch, an offset query, a commit and a fetch of
/// committed offsets.
async fn call_all_methods(agent: &Agent, topic_id: &str) -> [ErrorCode; 5] {
    let address = format!("http://{}", agent.addresses().0);
    let mut data = DataServiceClient::connect(address.clone()).await.unwrap();
    let mut groups = GroupServiceClient::connect(address).await.unwrap();
    let (topic, topic_id) = ("orders".to_owned(), topic_id.to_owned());
    let mut batch = BatchBuilder::new(Compression::None);
    batch.append::<&str, &str>(0, None, Some(b"x"), &[]).unwrap();
    let part = v1::PartitionProduce {
        topic: topic.clone(),
        partition: 0,
        records: batch.finish().unwrap(),
        topic_id: topic_id.clone(),
    };
    let request = v1::ProduceRequest {
        request_id: 1,
        partitions: vec![part],
        ..Default::default()
    };
    let produced = data.produce(futures::stream::iter([request])).await.unwrap();
    let produced = produced.into_inner().message().await.unwrap().unwrap();
    let request = v1::FetchRequest {
        max_bytes: 1 << 20,
        partitions: vec![v1::PartitionFetch {
            topic: topic.clone(),
            partition: 0,
            offset: 0,
            max_bytes: 1 << 20,
            topic_id: topic_id.clone(),
        }],
        ..Default::default()
    };
    let fetched = data.fetch(request).await.unwrap().into_inner();
    assert_eq!(
        fetched.partitions[0].records.is_empty(),
        fetched.partitions[0].error.is_some()
    );
    let query = v1::PartitionOffsetQuery {
        topic: topic.clone(),
        partition: 0,
        position: Some(Position::Latest(v1::Latest {})),
        topic_id: topic_id.clone(),
    };
    let request = v1::ListOffsetsRequest {
        partitions: vec![query],
    };
    let listed = data.list_offsets(request).await.unwrap().into_inner();
    let committed = commit_offset(&mut groups, &topic, &topic_id).await;
    let request = v1::FetchOffsetsRequest {
        group_id: "billing".to_owned(),
        partitions: vec![v1::TopicPartition {
            topic,
            partition: 0,
            topic_id,
        }],
    };
    let found = groups.fetch_offsets(request).await.unwrap().into_inner();
    [
        error_code(produced.partitions[0].error.clone()),
        error_code(fetched.partitions[0].error.clone()),
        error_code(listed.partitions[0].error.clone()),
        error_code(committed.offsets[0].error.clone()),
        error_code(found.offsets[0].error.clone()),
    ]
}
