//! Wrong answers: what an agent returns for offsets, batches, timestamps and settings must be
//! correct also when its memory is behind, when a store returns false answers, and when a client
//! sends invalid requests.

use bytes::Bytes;
use streamhouse_core::{
    PartitionUid, murmur2::group_slot, protocol::v1::group_service_client::GroupServiceClient,
};
use streamhouse_metadata::{
    BatchOutcome, CommitOutcome, Error as MetadataError, GROUP_SLOTS, NewTopic, PartitionOutcome,
};

use super::{
    false_answers::FalseMetadataStore,
    stores::{FaultyStores, start_agent_on},
    *,
};
use crate::{
    faulty_metadata::{MetadataFault, MetadataFaultKind, MetadataMethod},
    fetch,
    invariant::Invariant,
    maintenance::{delete, retention, roll::SegmentRoller, sweep::OrphanSweeper},
    partition::LedPartition,
    store::{
        GetRange, StoreErrorKind, StoreOperation,
        fault::{Toxic, ToxicKind},
    },
};

/// The jobs run only when a test runs them.
const MANUAL_JOBS: &[&str] = &["--maintenance-interval=1h"];

async fn produce_bytes(agent: &Agent, topic: &str, records: Bytes) -> Result<i64, streamhouse_core::Error> {
    let part = v1::PartitionProduce {
        topic: topic.to_owned(),
        partition: 0,
        records,
        ..Default::default()
    };
    let request = v1::ProduceRequest {
        partitions: vec![part],
        ..Default::default()
    };
    let pending = handler::accept(&agent.node.produce(), request).await;
    let result = pending.finish(&agent.node.produce()).await.partitions.remove(0);
    result
        .error
        .map_or(Ok(result.base_offset), |error| Err(error.into()))
}

/// Returns a batch of one record with a timestamp.
fn single_record(timestamp: i64, value: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None);
    batch
        .append::<&str, &str>(timestamp, None, Some(value), &[])
        .unwrap();
    batch.finish().unwrap()
}

/// Returns the high watermark, the number of record bytes, and the error of a fetch that does not
/// wait.
async fn fetch_once(agent: &Agent, topic: &str, offset: i64) -> (i64, usize, Option<ErrorCode>) {
    let wanted = v1::PartitionFetch {
        topic: topic.to_owned(),
        partition: 0,
        offset,
        max_bytes: 1 << 20,
        ..Default::default()
    };
    let request = v1::FetchRequest {
        partitions: vec![wanted],
        max_bytes: 1 << 20,
        ..Default::default()
    };
    let part = fetch::fetch(&agent.node.fetch(), request)
        .await
        .unwrap()
        .0
        .partitions
        .remove(0);
    let error = part
        .error
        .map(|error| streamhouse_core::Error::from(error).code());
    (part.high_watermark, part.records.len(), error)
}

pub(super) async fn create_configured_topic(agent: &Agent, name: &str, config: &[(&str, &str)]) {
    let config = config
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        config: config.collect(),
        ..Default::default()
    };
    topics::create(&agent.node.topics(), request).await.unwrap();
}

fn led_partition(agent: &Agent, topic: &str) -> Arc<LedPartition> {
    let uid = partition_uid(agent, topic);
    agent.node.session().unwrap().partitions.get(uid).unwrap()
}

fn partition_uid(agent: &Agent, topic: &str) -> PartitionUid {
    agent.node.directory.view().partition(topic, 0).unwrap().uid
}

async fn stored_high_watermark(stores: &FaultyStores, uid: PartitionUid) -> i64 {
    stores.metadata.inner().bounds(&[uid]).await.unwrap()[0]
        .1
        .high_watermark
}

/// Returns how often each violated invariant was counted.
fn violation_counts(agent: &Agent) -> Vec<(&'static str, f64)> {
    let all = Invariant::ALL.iter().map(|invariant| {
        let series = format!("invariant_violations_total{{invariant=\"{}\"}}", invariant.name());
        (invariant.name(), scrape_values(agent, [series.as_str()])[0])
    });
    all.filter(|(_, count)| *count > 0.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_waits_for_its_commits_answer_knows_what_is_committed() {
    let stores = FaultyStores::new().await;
    let one = Arc::new(stores.start_ready_agent("one", MANUAL_JOBS).await);
    create_topic(&one, "orders", 1).await;
    produce(&one, "orders", 0, "a").await.unwrap();
    let uid = partition_uid(&one, "orders");
    let lost = stores.metadata.lose_after([MetadataMethod::commit_object]);
    let writer = one.clone();
    let write = tokio::spawn(async move { produce(&writer, "orders", 0, "b").await });
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while stored_high_watermark(&stores, uid).await < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        led_partition(&one, "orders").high_watermark(),
        1,
        "its memory is behind"
    );

    let page = console::get_data(&one, "records?topic=orders&partition=0&offset=2").await;
    assert_eq!(page["high_watermark"], 2, "{page}");
    // The position of a consumer that has read from another agent.
    assert_eq!(fetch_once(&one, "orders", 2).await, (2, 0, None));
    assert_eq!(
        fetch_once(&one, "orders", 3).await.2,
        Some(ErrorCode::OffsetOutOfRange)
    );
    // What is committed is served, though the leader's own commit is not answered yet.
    let (high_watermark, bytes, error) = fetch_once(&one, "orders", 1).await;
    assert_eq!((high_watermark, error), (2, None));
    assert!(bytes > 0);
    let away = stores
        .metadata
        .lose_before([MetadataMethod::read_log, MetadataMethod::bounds]);
    let unknown = fetch_once(&one, "orders", 9).await.2.unwrap();
    assert!(unknown.is_retryable(), "the end is unknown: {unknown}");
    away.release();

    lost.release();
    assert_eq!(write.await.unwrap(), Ok(1));
    assert_eq!(produce(&one, "orders", 0, "c").await, Ok(2));
    assert_eq!(fetch_once(&one, "orders", 2).await.0, 3);
    assert_eq!(violation_counts(&one), []);
    Arc::into_inner(one).unwrap().drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_up_to_what_the_store_has_committed() {
    let stores = FaultyStores::new().await;
    let one = Arc::new(stores.start_ready_agent("one", MANUAL_JOBS).await);
    create_topic(&one, "orders", 1).await;
    let uid = partition_uid(&one, "orders");
    let lost = stores.metadata.lose_after([MetadataMethod::commit_object]);
    let writer = one.clone();
    let write = tokio::spawn(async move { produce(&writer, "orders", 0, "a").await });
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while stored_high_watermark(&stores, uid).await < 1 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    let request = |before_offset| v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        before_offset,
        ..Default::default()
    };
    let beyond = topics::delete_records(&one.node.topics(), request(2))
        .await
        .unwrap_err();
    assert_eq!(beyond.code(), ErrorCode::OffsetOutOfRange);
    assert_eq!(
        topics::delete_records(&one.node.topics(), request(1)).await,
        Ok(1)
    );
    assert_eq!(fetch_once(&one, "orders", 1).await, (1, 0, None));
    lost.release();
    assert_eq!(write.await.unwrap(), Ok(0));
    assert_eq!(violation_counts(&one), []);
    Arc::into_inner(one).unwrap().drain().await;
}

/// Starts an agent on a store that can return false answers.
async fn start_on_false_store(stores: &FaultyStores) -> (Agent, Arc<FalseMetadataStore>) {
    let lying = FalseMetadataStore::new(stores.metadata.clone());
    let one = start_agent_on("one", MANUAL_JOBS, lying.clone(), stores.store.clone()).await;
    wait_ready(&one).await;
    create_topic(&one, "orders", 1).await;
    produce(&one, "orders", 0, "a").await.unwrap();
    (one, lying)
}

fn committed_outcome(outcome: &mut CommitOutcome) -> (&mut Vec<BatchOutcome>, &mut i64) {
    match &mut outcome.partitions[0] {
        PartitionOutcome::Committed {
            batches,
            high_watermark,
            ..
        } => (batches, high_watermark),
        other => panic!("{other:?}"),
    }
}

type FalseCommit = fn(&mut CommitOutcome);

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_true_is_not_acknowledged_and_ends_the_life() {
    let lies: [(&str, FalseCommit); 4] = [
        ("INV-P1", |outcome| *committed_outcome(outcome).1 -= 1),
        ("INV-P2", |outcome| {
            let (batches, high_watermark) = committed_outcome(outcome);
            batches[0] = BatchOutcome::Appended { base_offset: 0 };
            *high_watermark = 1;
        }),
        ("INV-P3", |outcome| {
            let (batches, high_watermark) = committed_outcome(outcome);
            batches[0] = BatchOutcome::Duplicate { base_offset: 77 };
            *high_watermark = 1;
        }),
        ("INV-L1", |outcome| *committed_outcome(outcome).1 += 5),
    ];
    for (invariant, lie) in lies {
        let stores = FaultyStores::new().await;
        let (one, lying) = start_on_false_store(&stores).await;
        let (before, held) = (incarnation(&one).unwrap(), led_partition(&one, "orders"));
        *lying.commit.lock() = Some(lie);
        let error = produce(&one, "orders", 0, "b").await.unwrap_err();
        assert!(
            error.is_retryable() && !error.code().has_no_side_effects(),
            "{error}"
        );
        assert_eq!(violation_counts(&one), [(invariant, 1.0)]);
        assert_eq!(held.high_watermark(), 1, "nothing of it is published");
        if invariant == "INV-P2" {
            // Acknowledged commits are lost: the agent must not continue before `recover`.
            wait_until("it says what to do", || {
                one.node
                    .health
                    .reason(ReadinessCondition::Cluster)
                    .is_some_and(|why| why.contains("streamhouse-agent recover"))
            })
            .await;
            assert_eq!(incarnation(&one), None);
        } else {
            wait_until("a new incarnation begins", || {
                incarnation(&one).is_some_and(|life| life > before)
            })
            .await;
        }
        one.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_what_was_published_ends_the_life() {
    let stores = FaultyStores::new().await;
    let (one, lying) = start_on_false_store(&stores).await;
    let before = incarnation(&one).unwrap();
    *lying.behind.lock() = 1;
    let request = v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        before_offset: 1,
        ..Default::default()
    };
    let error = topics::delete_records(&one.node.topics(), request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::MetadataUnavailable);
    assert_eq!(violation_counts(&one), [("INV-P2", 1.0)]);
    *lying.behind.lock() = 0;
    wait_until("a new incarnation begins", || {
        incarnation(&one).is_some_and(|life| life > before)
    })
    .await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_outcome_is_forgotten_is_not_called_clean() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_topic(&one, "orders", 1).await;
    stores.metadata.fail_with([MetadataMethod::commit_object], || {
        MetadataError::OutcomeExpired("_wal/1/0".to_owned())
    });
    let error = produce(&one, "orders", 0, "a").await.unwrap_err();
    assert!(
        error.is_retryable() && !error.code().has_no_side_effects(),
        "{error}"
    );
    stores.metadata.clear();
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_and_a_damaged_object_are_counted_and_never_served() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_topic(&one, "orders", 1).await;
    create_topic(&one, "payments", 1).await;
    produce(&one, "orders", 0, "a").await.unwrap();
    produce(&one, "payments", 0, "b").await.unwrap();
    // It leads nothing, so it reads from the object store.
    let two = stores.start_ready_agent("two", MANUAL_JOBS).await;
    wait_until("each leads one", || (led_count(&one), led_count(&two)) == (1, 1)).await;
    let (mine, reader) = match one
        .node
        .session()
        .unwrap()
        .partitions
        .get(partition_uid(&one, "orders"))
    {
        Some(_) => ("orders", &two),
        None => ("payments", &two),
    };
    let mut wal = stores.objects.keys();
    wal.retain(|key| key.starts_with("_wal/"));
    for key in &wal {
        let mut object = stores.objects.get(key, GetRange::Full).await.unwrap().to_vec();
        *object.last_mut().unwrap() ^= 1;
        stores.objects.delete(std::slice::from_ref(key)).await.unwrap();
        stores.objects.put_new(key, object.into()).await.unwrap();
    }
    let damaged = fetch_once(reader, mine, 0).await;
    assert_eq!((damaged.1, damaged.2), (0, Some(ErrorCode::StorageCorrupt)));
    assert_eq!(violation_counts(reader), [("INV-F1", 1.0)]);

    stores.objects.delete(&wal).await.unwrap();
    let other = if mine == "orders" { "payments" } else { "orders" };
    let missing = fetch_once(&one, other, 0).await;
    assert_eq!((missing.1, missing.2), (0, Some(ErrorCode::StorageCorrupt)));
    assert_eq!(violation_counts(&one), [("INV-G1", 1.0)]);
    one.drain().await;
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_damaged_records_is_served_and_the_error_names_them() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_topic(&one, "orders", 1).await;
    let wal = || {
        let mut keys = stores.objects.keys();
        keys.retain(|key| key.starts_with("_wal/"));
        keys
    };
    produce(&one, "orders", 0, "a").await.unwrap();
    let before = wal();
    produce(&one, "orders", 0, "b").await.unwrap();
    let mut second = wal();
    second.retain(|key| !before.contains(key));
    let key = second[0].clone();
    let mut object = stores.objects.get(&key, GetRange::Full).await.unwrap().to_vec();
    *object.last_mut().unwrap() ^= 1;
    stores.objects.delete(&second).await.unwrap();
    stores.objects.put_new(&key, object.into()).await.unwrap();
    // Read from the store, whatever the leader has in memory.
    let read = async |offset| {
        one.node
            .log()
            .read_range(partition_uid(&one, "orders"), offset, 1 << 20)
            .await
    };
    let served = read(0).await.unwrap();
    assert!(!served.records.is_empty());
    assert_eq!(served.next_offset, 1);
    let error = read(1).await.unwrap_err();
    assert_eq!(
        (error.code(), error.next_offset()),
        (ErrorCode::StorageCorrupt, Some(2))
    );
    assert!(
        error.message().contains("1..2") && error.message().contains(&*key),
        "{error}"
    );
    stores.objects.delete(&second).await.unwrap();
    let error = read(1).await.unwrap_err();
    assert_eq!(
        (error.code(), error.next_offset()),
        (ErrorCode::StorageCorrupt, Some(2))
    );
    assert!(
        error.message().contains("1..2") && error.message().contains(&*key),
        "{error}"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_nonsense_is_refused_though_its_crc_is_right() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_topic(&one, "orders", 1).await;
    let mut batch = single_record(5, b"")[..62].to_vec();
    batch[8..12].copy_from_slice(&50_i32.to_be_bytes());
    batch[23..27].copy_from_slice(&999_i32.to_be_bytes());
    batch[57..61].copy_from_slice(&1000_i32.to_be_bytes());
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    let error = produce_bytes(&one, "orders", batch.into()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidRecord, "{error}");
    assert_eq!(
        produce(&one, "orders", 0, "x").await,
        Ok(0),
        "the log did not move"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_out_of_bounds_are_refused() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_topic(&one, "orders", 1).await;
    create_configured_topic(&one, "strict", &[("message.timestamp.before.max.ms", "60000")]).await;
    create_configured_topic(
        &one,
        "lax",
        &[("message.timestamp.after.max.ms", "9223372036854775807")],
    )
    .await;
    let now = one.node.clock.now_ms();
    let sent = async |topic, timestamp| {
        let sent = produce_bytes(&one, topic, single_record(timestamp, b"x")).await;
        sent.map(drop).map_err(|error| error.code())
    };
    let refused = Err(ErrorCode::InvalidTimestamp);
    // Microseconds instead of milliseconds, just too far ahead, and invalid timestamps.
    for timestamp in [now * 1000, now + 3_700_000, -2, i64::MIN] {
        assert_eq!(sent("orders", timestamp).await, refused, "{timestamp}");
    }
    for timestamp in [-1, 0, 1, now, now + 3_000_000] {
        assert_eq!(sent("orders", timestamp).await, Ok(()), "{timestamp}");
    }
    for timestamp in [0, now - 120_000] {
        assert_eq!(sent("strict", timestamp).await, refused, "{timestamp}");
    }
    assert_eq!(sent("strict", now).await, Ok(()));
    assert_eq!(sent("strict", -1).await, Ok(()));
    assert_eq!(sent("lax", now * 1000).await, Ok(()));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_no_record_at_once_and_is_stopped_by_none() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    let after = ("message.timestamp.after.max.ms", "9223372036854775807");
    create_configured_topic(&one, "young", &[("retention.ms", "3600000"), after]).await;
    create_configured_topic(&one, "gone", &[("retention.ms", "0"), after]).await;
    let now = one.node.clock.now_ms();
    for timestamp in [-1, 0, now * 1000] {
        for topic in ["young", "gone"] {
            produce_bytes(&one, topic, single_record(timestamp, b"x"))
                .await
                .unwrap();
        }
    }
    let session = one.node.session().unwrap();
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while led_partition(&one, "gone").log_start() < 3 {
        retention::run(&one.node.maintenance(), &session).await.unwrap();
        assert!(Instant::now() < deadline, "a span stops retention");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        led_partition(&one, "young").log_start(),
        0,
        "nothing is older than an hour"
    );
    // An old record expires by its own timestamp, as in Kafka.
    create_configured_topic(&one, "old", &[("retention.ms", "3600000")]).await;
    produce_bytes(&one, "old", single_record(now - 7_200_000, b"x"))
        .await
        .unwrap();
    retention::run(&one.node.maintenance(), &session).await.unwrap();
    assert_eq!(led_partition(&one, "old").log_start(), 1);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partitions_trouble_does_not_end_the_round_of_the_others() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    let names: Vec<String> = (0..6).map(|n| format!("topic-{n}")).collect();
    for name in &names {
        create_configured_topic(&one, name, &[("retention.ms", "1000"), ("segment.ms", "100")]).await;
        produce_bytes(&one, name, single_record(5, b"x")).await.unwrap();
    }
    let trouble = partition_uid(&one, &names[3]);
    let fault = MetadataFault::new(MetadataFaultKind::LoseBefore, [MetadataMethod::read_log]);
    stores
        .metadata
        .add_fault(fault.with_argument(format!("{trouble:?}")));
    let session = one.node.session().unwrap();
    assert!(retention::run(&one.node.maintenance(), &session).await.is_err());
    for name in &names {
        let expected = i64::from(*name != names[3]);
        assert_eq!(led_partition(&one, name).log_start(), expected, "{name}");
    }
    stores.metadata.clear();
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_deleted_does_not_keep_the_others() {
    let stores = FaultyStores::new().await;
    let one = stores
        .start_ready_agent("one", &["--maintenance-interval=1h", "--object-grace=1s"])
        .await;
    create_configured_topic(&one, "orders", &[("retention.ms", "0")]).await;
    for _ in 0..5 {
        produce_bytes(&one, "orders", single_record(5, b"x"))
            .await
            .unwrap();
    }
    let wal = || {
        let mut keys = stores.objects.keys();
        keys.retain(|key| key.starts_with("_wal/"));
        keys
    };
    let stuck = wal()[2].clone();
    let denied = ToxicKind::Error(StoreErrorKind::Unauthorized);
    stores.store.add(
        Toxic::new(denied)
            .on(&[StoreOperation::Delete])
            .with_prefix(stuck.clone()),
    );
    let session = one.node.session().unwrap();
    retention::run(&one.node.maintenance(), &session).await.unwrap();
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while wal() != [stuck.clone()] {
        let _told = delete::run(&one.node.maintenance()).await;
        assert!(Instant::now() < deadline, "{:?}", wal());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        delete::run(&one.node.maintenance()).await.is_err(),
        "and it is reported"
    );
    stores.store.clear();
    delete::run(&one.node.maintenance()).await.unwrap();
    assert_eq!(wal(), Vec::<String>::new());
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_cannot_be_swept_does_not_keep_the_others_and_counts_when_it_leaks() {
    let stores = FaultyStores::new().await;
    let metadata = stores.metadata.inner();
    let mut incarnations = Vec::new();
    for id in ["a", "b", "c"] {
        let mut registration = registration_of(id);
        registration.agent_id = id.to_owned();
        let incarnation = metadata.register_agent(&registration).await.unwrap().incarnation;
        metadata.seal(incarnation).await.unwrap();
        incarnations.push(incarnation);
    }
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    let mut snapshot = metadata.snapshot(None).await.unwrap().unwrap();
    let ages = [
        Duration::from_secs(3600),
        Duration::from_secs(8 * 24 * 3600),
        Duration::from_secs(3600),
    ];
    snapshot.unswept = incarnations.iter().copied().zip(ages).collect();
    one.node.directory.replace(snapshot.clone());
    let fault = MetadataFault::new(MetadataFaultKind::LoseBefore, [MetadataMethod::orphans]);
    stores
        .metadata
        .add_fault(fault.with_argument(format!("{:?}", incarnations[1])));
    let session = one.node.session().unwrap();
    let mut sweeper = OrphanSweeper::default();
    for _ in 0..2 {
        one.node.directory.replace(snapshot.clone());
        assert!(sweeper.run(&one.node.maintenance(), &session).await.is_err());
    }
    let left = metadata.snapshot(None).await.unwrap().unwrap().unswept;
    assert_eq!(
        left.iter()
            .map(|(incarnation, _)| *incarnation)
            .collect::<Vec<_>>(),
        [incarnations[1]]
    );
    assert_eq!(
        violation_counts(&one),
        [("INV-G2", 1.0)],
        "once, however often it is tried"
    );
    stores.metadata.clear();
    one.drain().await;
}

fn registration_of(id: &str) -> streamhouse_metadata::AgentRegistration {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    registration(
        &settings(Path::new("/nowhere"), id, &[]),
        (address, address),
        None,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_rolled_is_counted_over_rolls_and_leaders() {
    const CONFIG: &[(&str, &str)] = &[("segment.bytes", "65536"), ("segment.ms", "86400000")];
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_configured_topic(&one, "orders", CONFIG).await;
    let large = single_record(5, &[b'x'; 70_000]);
    let (session, mut roller) = (one.node.session().unwrap(), SegmentRoller::default());
    let rolled = |agent: &Agent| scrape_values(agent, ["segments_rolled_total"])[0];
    for n in 1..=8 {
        produce_bytes(&one, "orders", large.clone()).await.unwrap();
        roller.run(&one.node.maintenance(), &session).await.unwrap();
        assert_eq!(
            (rolled(&one), led_partition(&one, "orders").unrolled_bytes()),
            (f64::from(n), 0)
        );
        produce_bytes(&one, "orders", single_record(5, b"small"))
            .await
            .unwrap();
        roller.run(&one.node.maintenance(), &session).await.unwrap();
        assert_eq!(rolled(&one), f64::from(n), "a few bytes are no segment");
    }
    // Deleted records no longer wait to be rolled.
    produce_bytes(&one, "orders", single_record(5, &[b'x'; 60_000]))
        .await
        .unwrap();
    let all = v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        before_offset: -1,
        ..Default::default()
    };
    topics::delete_records(&one.node.topics(), all).await.unwrap();
    assert_eq!(led_partition(&one, "orders").unrolled_bytes(), 0);
    produce_bytes(&one, "orders", single_record(5, &[b'x'; 30_000]))
        .await
        .unwrap();
    roller.run(&one.node.maintenance(), &session).await.unwrap();
    assert_eq!(rolled(&one), 8.0);
    // The next leader rolls what this one left once there is enough.
    produce_bytes(&one, "orders", single_record(5, &[b'x'; 30_000]))
        .await
        .unwrap();
    drop(session);
    one.drain().await;
    let two = stores.start_ready_agent("two", MANUAL_JOBS).await;
    wait_until("it leads", || led_count(&two) == 1).await;
    let (session, mut roller) = (two.node.session().unwrap(), SegmentRoller::default());
    roller.run(&two.node.maintenance(), &session).await.unwrap();
    assert_eq!(rolled(&two), 0.0, "60,000 bytes are not enough");
    assert!(led_partition(&two, "orders").unrolled_bytes() >= 60_000);
    produce_bytes(&two, "orders", single_record(5, &[b'x'; 10_000]))
        .await
        .unwrap();
    roller.run(&two.node.maintenance(), &session).await.unwrap();
    assert_eq!(
        (rolled(&two), led_partition(&two, "orders").unrolled_bytes()),
        (1.0, 0)
    );
    drop(session);
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_nothing_honours_is_refused_and_a_topic_that_has_it_works() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    let gzip = [("compression.type".to_owned(), "gzip".to_owned())];
    let request = v1::CreateTopicRequest {
        name: "new".to_owned(),
        partitions: 1,
        config: gzip.clone().into(),
        ..Default::default()
    };
    let error = topics::create(&one.node.topics(), request).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.message().contains("only \"producer\""), "{error}");

    // As an earlier version stored it.
    let retention = ("retention.ms".to_owned(), "5000".to_owned());
    let old = NewTopic {
        name: "old".to_owned(),
        partitions: 1,
        config: gzip.clone().into_iter().chain([retention]).collect(),
    };
    stores.metadata.inner().create_topic(&old).await.unwrap();
    one.node.directory.refresh().await;
    wait_until("it is led", || led_count(&one) == 1).await;
    assert_eq!(produce(&one, "old", 0, "x").await, Ok(0));
    let config = |agent: &Agent| agent.node.directory.view().topic("old").unwrap().config;
    assert_eq!(config(&one).retention_ms, Some(5000), "the other settings hold");
    let alter = async |key: &str, value: &str| {
        let request = v1::AlterTopicRequest {
            name: "old".to_owned(),
            set_config: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        topics::alter(&one.node.topics(), request).await
    };
    alter("retention.ms", "6000").await.unwrap();
    assert_eq!(config(&one).retention_ms, Some(6000));
    assert!(alter("compression.type", "lz4").await.is_err());
    alter("compression.type", "producer").await.unwrap();
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_and_times_of_a_topic_are_honoured() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", MANUAL_JOBS).await;
    create_configured_topic(&one, "small", &[("max.message.bytes", "1024")]).await;
    let error = produce_bytes(&one, "small", single_record(5, &[b'x'; 2000]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::MessageTooLarge);
    create_configured_topic(&one, "kept", &[("retention.bytes", "1"), ("retention.ms", "-1")]).await;
    for _ in 0..3 {
        produce_bytes(&one, "kept", single_record(5, b"x")).await.unwrap();
    }
    let session = one.node.session().unwrap();
    retention::run(&one.node.maintenance(), &session).await.unwrap();
    assert_eq!(
        led_partition(&one, "kept").log_start(),
        2,
        "the last one holds what is to be kept"
    );
    create_configured_topic(&one, "rolled", &[("segment.ms", "100")]).await;
    produce_bytes(&one, "rolled", single_record(5, b"x"))
        .await
        .unwrap();
    let mut roller = SegmentRoller::default();
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while led_partition(&one, "rolled").rolled_offset() == 0 {
        roller.run(&one.node.maintenance(), &session).await.unwrap();
        assert!(Instant::now() < deadline, "it is old enough");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        led_partition(&one, "kept").rolled_offset(),
        0,
        "the others are not"
    );
    drop(session);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_groups_cannot_be_read_does_not_keep_the_others_without_a_coordinator() {
    let stores = FaultyStores::new().await;
    let broken = MetadataFault::new(MetadataFaultKind::LoseBefore, [MetadataMethod::groups]);
    stores.metadata.add_fault(broken.with_argument("Slot(3)"));
    let one = stores.start_agent("one", MANUAL_JOBS).await;
    wait_until("it is registered", || incarnation(&one).is_some()).await;
    let address = format!("http://{}", one.addresses().0);
    let mut client = GroupServiceClient::connect(address).await.unwrap();
    let deadline = Instant::now() + EVENT_TIMEOUT;
    for slot in (0..GROUP_SLOTS).filter(|slot| *slot != 3) {
        let mut ids = (0..).map(|n| format!("group-{n}"));
        let group_id = ids.find(|id| group_slot(id, GROUP_SLOTS) == slot).unwrap();
        let request = v1::CommitOffsetsRequest {
            group_id,
            generation: -1,
            ..Default::default()
        };
        while client.commit_offsets(request.clone()).await.is_err() {
            assert!(Instant::now() < deadline, "slot {slot} has no coordinator");
            sleep(Duration::from_millis(10)).await;
        }
    }
    stores.metadata.clear();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_kept_as_long_as_the_agent_is_told() {
    let stores = FaultyStores::new().await;
    let more = ["--maintenance-interval=1h", "--offsets-retention=77s"];
    let one = stores.start_ready_agent("one", &more).await;
    let asked = MetadataFault::new(MetadataFaultKind::LoseBefore, [MetadataMethod::collect_garbage]);
    let asked = stores
        .metadata
        .add_fault(asked.with_argument("offsets_retention: 77s"));
    assert!(delete::run(&one.node.maintenance()).await.is_err());
    assert_eq!(asked.hit_count(), 1);
    stores.metadata.clear();
    one.drain().await;
}
