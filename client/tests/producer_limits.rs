//! The producer with records that are too large, topics that change, and an early end: accepted
//! records are stored, or their delivery says that they are not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake_agent::{FakeCluster, ProduceFault, helpers::impatient_config};
use parking_lot::Mutex;
use streamhouse_client::{
    Delivery, Error, ErrorCode, Producer, ProducerBuilder, Record, RecordRef,
    metrics::MetricsRegistry,
    producer::{Compression, key_partition},
};
use streamhouse_core::time::Entropy;
use tokio::time::timeout;

/// Longer than anything in these tests takes unless it hangs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Default limit of a topic.
const DEFAULT_LIMIT: usize = 1_048_588;

fn builder(cluster: &FakeCluster) -> ProducerBuilder {
    Producer::builder()
        .client_config(impatient_config(cluster))
        .metrics_registry(MetricsRegistry::new())
}

/// Builds a producer that sends nothing before a flush.
fn lingering(cluster: &FakeCluster) -> ProducerBuilder {
    builder(cluster)
        .linger(Duration::from_secs(3600))
        .delivery_timeout(Duration::from_secs(7200))
}

/// Returns incompressible bytes, as text, because the fake cluster shows values as text.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state ^ (state >> 31)).wrapping_mul(0x7fb5_d329_728e_a185) >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// Waits for all deliveries. Returns the number of failures and one of the errors.
async fn await_all(deliveries: Vec<Delivery>) -> (usize, Option<Error>) {
    let mut failed = (0, None);
    for delivery in deliveries {
        if let Err(error) = timeout(TEST_TIMEOUT, delivery).await.expect("a delivery hangs") {
            failed = (failed.0 + 1, Some(error));
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_compress_are_stored_at_defaults() {
    let cluster = FakeCluster::start(1).await;
    for codec in [Compression::Lz4, Compression::Snappy, Compression::Gzip] {
        let topic = codec.name();
        cluster.create(topic, 1);
        cluster.limit_batches(topic, DEFAULT_LIMIT, false);
        let producer = builder(&cluster).compression(codec).build().await.unwrap();
        let handle = producer.topic(topic).await.unwrap();
        let pool = noise(1 << 20, 7);
        let mut deliveries = Vec::new();
        for number in 0..3000 {
            let at = number * 331 % (pool.len() - 1021);
            let record = RecordRef::new(&pool[at..at + 1021]);
            deliveries.push(producer.send_ref(&handle, record).await.unwrap());
        }
        assert_eq!(await_all(deliveries).await, (0, None), "{codec}");
        assert_eq!(cluster.values(topic, 0).len(), 3000);
        assert_eq!(producer.metrics().batches_retried, 0, "none was refused");
    }
}

/// Sends lines of 120 bytes to a topic with a limit of 16384 bytes. Returns the producer.
async fn send_lines(cluster: &FakeCluster, said: bool, codec: Compression) -> Producer {
    cluster.create("t", 1);
    cluster.limit_batches("t", 16_384, said);
    // Batches close by size, however slowly the records arrive.
    let producer = lingering(cluster).compression(codec).build().await.unwrap();
    let topic = producer.topic("t").await.unwrap();
    let mut deliveries = Vec::new();
    for number in 0..20_000 {
        let line = format!("{number:06} {:->113}", number % 7);
        let record = RecordRef::new(line.as_bytes());
        deliveries.push(producer.send_ref(&topic, record).await.unwrap());
    }
    producer.flush().await.unwrap();
    for (number, delivery) in deliveries.into_iter().enumerate() {
        let stored = timeout(TEST_TIMEOUT, delivery).await.unwrap().unwrap();
        assert_eq!(usize::try_from(stored.offset).unwrap(), number);
    }
    let values = cluster.values("t", 0);
    assert!(values.is_sorted() && values.len() == 20_000);
    producer
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_keep_to_the_limit_that_metadata_name() {
    let cluster = FakeCluster::start(1).await;
    let producer = send_lines(&cluster, true, Compression::None).await;
    assert_eq!(producer.metrics().batches_retried, 0, "none was refused");
    let cluster = FakeCluster::start(1).await;
    let producer = send_lines(&cluster, true, Compression::Lz4).await;
    let stats = producer.metrics();
    assert_eq!(
        stats.batches_retried, 0,
        "one that comes out too large is cut before it is sent"
    );
    // The compression ratio of these records is known by now.
    let topic = producer.topic("t").await.unwrap();
    let line = format!("{:->120}", 1);
    let mut deliveries = Vec::new();
    for _ in 0..10_000 {
        let record = RecordRef::new(line.as_bytes());
        deliveries.push(producer.send_ref(&topic, record).await.unwrap());
    }
    producer.flush().await.unwrap();
    for delivery in deliveries {
        timeout(TEST_TIMEOUT, delivery).await.unwrap().unwrap();
    }
    let more = producer.metrics().batches_sent - stats.batches_sent;
    assert!(more < 40, "batches are as full as compression lets them: {more}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_as_too_large_is_sent_in_parts_in_order() {
    let cluster = FakeCluster::start(1).await;
    let producer = send_lines(&cluster, false, Compression::None).await;
    let stats = producer.metrics();
    assert_eq!(
        (stats.records_failed, stats.pending_records, stats.buffered_bytes),
        (0, 0, 0)
    );
    // A record that is too large alone fails, and its error says so.
    let large = producer.send(Record::new("t", noise(20_000, 1))).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(large.await.unwrap_err().code(), ErrorCode::MessageTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_a_batch_in_parts_come_once_and_in_order() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.limit_batches("t", 2000, false);
    let producer = lingering(&cluster)
        .compression(Compression::None)
        .build()
        .await
        .unwrap();
    let offsets = Arc::new(Mutex::new(Vec::new()));
    for number in 0..100_u64 {
        let offsets = offsets.clone();
        let callback = move |stored: streamhouse_client::Result<streamhouse_client::RecordMetadata>| {
            offsets.lock().push(stored.map(|stored| stored.offset));
        };
        producer
            .send_with_callback(Record::new("t", noise(100, number)), callback)
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    assert_eq!(*offsets.lock(), (0..100).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_record_that_compresses_well_is_sent() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.limit_batches("t", DEFAULT_LIMIT, true);
    let producer = builder(&cluster).build().await.unwrap();
    let large = producer
        .send(Record::new("t", vec![b'x'; 10 << 20]))
        .await
        .unwrap();
    large.await.unwrap();
    assert_eq!(cluster.values("t", 0)[0].len(), 10 << 20);
    let refused = producer
        .send(Record::new("t", noise(10 << 20, 1)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::MessageTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_become_smaller_for_an_agent_that_takes_less() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 4);
    cluster.state.lock().largest_request = 100_000;
    let producer = lingering(&cluster)
        .compression(Compression::None)
        .build()
        .await
        .unwrap();
    let mut deliveries = Vec::new();
    for number in 0..2000 {
        let record = Record::new("t", noise(500, number)).with_partition((number % 4) as i32);
        deliveries.push(producer.send(record).await.unwrap());
    }
    timeout(TEST_TIMEOUT, producer.flush())
        .await
        .expect("it tries for ever")
        .unwrap();
    assert_eq!(await_all(deliveries).await, (0, None));
    assert_eq!(cluster.all_values("t").iter().map(Vec::len).sum::<usize>(), 2000);
    let alone = producer.send(Record::new("t", noise(200_000, 1))).await.unwrap();
    timeout(TEST_TIMEOUT, producer.flush())
        .await
        .expect("it tries for ever")
        .unwrap();
    assert_eq!(alone.await.unwrap_err().code(), ErrorCode::MessageTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_unknown_outcome_does_not_swallow_the_next_one() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::None, ProduceFault::StoreAndFail(ErrorCode::Unknown)]);
    let producer = builder(&cluster).linger(Duration::ZERO).build().await.unwrap();
    let mut outcomes = Vec::new();
    for value in ["a", "b", "c", "d"] {
        let delivery = producer.send(Record::new("t", value)).await.unwrap();
        outcomes.push(
            delivery
                .await
                .map(|stored| stored.offset)
                .map_err(|error| error.code()),
        );
    }
    assert_eq!(outcomes, [Ok(0), Err(ErrorCode::Unknown), Ok(2), Ok(3)]);
    assert_eq!(cluster.values("t", 0), ["a", "b", "c", "d"]);
}

/// Returns the values of the topic that begin with a key, by key, in the order stored.
fn by_key(cluster: &FakeCluster) -> HashMap<String, Vec<String>> {
    let mut by_key: HashMap<String, Vec<String>> = HashMap::new();
    let values = cluster.all_values("t").into_iter().flatten();
    for value in values.filter(|value| value.starts_with("key")) {
        by_key.entry(value[..5].to_owned()).or_default().push(value);
    }
    by_key
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_to_the_topic_that_was_made_anew() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 4);
    let producer = lingering(&cluster).build().await.unwrap();
    let old = producer
        .send(Record::new("t", "old").with_partition(3))
        .await
        .unwrap();
    producer.flush().await.unwrap();
    old.await.unwrap();
    let mut keyed = Vec::new();
    for number in 0..60 {
        let key = format!("key-{}", number % 10);
        let value = format!("{key} {number:03}");
        keyed.push((
            key.clone(),
            producer
                .send(Record::new("t", value).with_key(key))
                .await
                .unwrap(),
        ));
    }
    let stays = producer
        .send(Record::new("t", "stays").with_key("k").with_partition(1))
        .await
        .unwrap();
    let gone = producer
        .send(Record::new("t", "gone").with_key("k").with_partition(3))
        .await
        .unwrap();
    let free = producer.send(Record::new("t", "free")).await.unwrap();
    cluster.create("t", 2);
    timeout(TEST_TIMEOUT, producer.flush())
        .await
        .expect("records wait for partitions that are gone")
        .unwrap();
    for (key, delivery) in keyed {
        let stored = delivery.await.unwrap();
        assert_eq!(stored.partition, key_partition(key.as_bytes(), 2), "{key}");
        let value = &cluster.values("t", stored.partition as usize)[stored.offset as usize];
        assert!(value.starts_with(&key), "{key}: {value}");
    }
    assert_eq!(stays.await.unwrap().partition, 1);
    assert_eq!(gone.await.unwrap_err().code(), ErrorCode::UnknownTopicOrPartition);
    free.await.unwrap();
    let by_key = by_key(&cluster);
    assert!(
        by_key
            .values()
            .all(|values| values.len() == 6 && values.is_sorted()),
        "{by_key:?}"
    );
    let stats = producer.metrics();
    assert_eq!(
        (stats.records_failed, stats.pending_records, stats.buffered_bytes),
        (1, 0, 0)
    );
    // The existing handle chooses among the new partitions.
    let next = producer
        .send(Record::new("t", "next").with_key("key-7"))
        .await
        .unwrap();
    assert_eq!(next.partition(), key_partition(b"key-7", 2));
    producer.close(TEST_TIMEOUT).await.unwrap();
    next.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_to_a_deleted_topic_is_stored_once_in_the_new_one() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 2);
    let producer = builder(&cluster)
        .request_timeout(Duration::from_millis(300))
        .build()
        .await
        .unwrap();
    let first = producer
        .send(Record::new("t", "first").with_partition(0))
        .await
        .unwrap();
    first.await.unwrap();
    cluster.script_faults([ProduceFault::Silence]);
    let arrived = cluster.state.lock().arrivals.len();
    let second = producer
        .send(Record::new("t", "second").with_partition(0))
        .await
        .unwrap();
    cluster
        .wait_until(|cluster| cluster.state.lock().arrivals.len() > arrived)
        .await;
    cluster.create("t", 1);
    let stored = timeout(TEST_TIMEOUT, second).await.expect("it hangs").unwrap();
    assert_eq!((stored.partition, stored.offset), (0, 0));
    let third = producer
        .send(Record::new("t", "third").with_partition(0))
        .await
        .unwrap();
    third.await.unwrap();
    assert_eq!(cluster.values("t", 0), ["second", "third"]);
}

/// Entropy that panics once it is armed.
#[derive(Debug, Default)]
struct PanickingEntropy(AtomicBool);

impl Entropy for PanickingEntropy {
    fn next_u64(&self) -> u64 {
        assert!(!self.0.load(Ordering::SeqCst), "blown on purpose");
        7
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_dies_settles_everything_and_takes_nothing_more() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 2);
    let fuse = Arc::new(PanickingEntropy::default());
    let settings = impatient_config(&cluster).with_entropy(fuse.clone());
    let producer = lingering(&cluster).client_config(settings).build().await.unwrap();
    let sent = producer
        .send(Record::new("t", "a").with_partition(0))
        .await
        .unwrap();
    fuse.0.store(true, Ordering::SeqCst);
    cluster.script_faults([ProduceFault::Refuse(ErrorCode::StorageUnavailable)]);
    let flushed = timeout(TEST_TIMEOUT, producer.flush())
        .await
        .expect("a flush hangs");
    assert!(matches!(flushed, Err(Error::ProducerEnded { .. })), "{flushed:?}");
    let outcome = timeout(TEST_TIMEOUT, sent).await.expect("a delivery hangs");
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
    let refused = producer.send(Record::new("t", "b")).await.unwrap_err();
    assert!(
        matches!(refused.error(), Error::ProducerEnded { .. }),
        "{refused}"
    );
    let closed = timeout(TEST_TIMEOUT, producer.close(TEST_TIMEOUT))
        .await
        .expect("a close hangs");
    assert!(matches!(closed, Err(Error::ProducerEnded { .. })), "{closed:?}");
    assert_eq!(producer.metrics().records_failed, 1);
}

#[test]
fn a_producer_whose_runtime_has_ended_says_so() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let servers = runtime();
    let cluster = servers.block_on(FakeCluster::start(1));
    cluster.create("t", 1);
    let theirs = runtime();
    let producer = theirs.block_on(lingering(&cluster).build()).unwrap();
    let waiting = theirs.block_on(producer.send(Record::new("t", "a"))).unwrap();
    drop(theirs);
    let ours = runtime();
    ours.block_on(async {
        let outcome = timeout(TEST_TIMEOUT, waiting)
            .await
            .expect("a delivery hangs")
            .unwrap_err();
        assert!(outcome.to_string().contains("runtime"), "{outcome}");
        let flushed = timeout(TEST_TIMEOUT, producer.flush())
            .await
            .expect("a flush hangs");
        assert!(matches!(flushed, Err(Error::ProducerEnded { .. })), "{flushed:?}");
        let refused = producer.send(Record::new("t", "b")).await.unwrap_err();
        assert!(
            matches!(refused.error(), Error::ProducerEnded { .. }),
            "{refused}"
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_panics_does_not_end_the_producer() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    for number in 0..20 {
        let called = called.clone();
        let callback = move |_| {
            called.fetch_add(1, Ordering::SeqCst);
            assert!(number % 5 != 0, "on purpose");
        };
        producer
            .send_with_callback(Record::new("t", "a"), callback)
            .await
            .unwrap();
    }
    timeout(TEST_TIMEOUT, producer.flush())
        .await
        .expect("a flush hangs")
        .unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 20);
    producer.send(Record::new("t", "b")).await.unwrap().await.unwrap();
}

/// Captures log output.
#[derive(Clone, Default)]
struct LogCapture(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogCapture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_producer_that_is_dropped_with_records_warns() {
    let logged = LogCapture::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let warned = || {
        String::from_utf8_lossy(&logged.0.lock())
            .matches("dropped with unacknowledged records")
            .count()
    };
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let producer = lingering(&cluster).build().await.unwrap();
    drop(producer.send(Record::new("t", "a")).await.unwrap());
    drop(producer.clone());
    assert_eq!(warned(), 0, "another clone has them");
    producer.flush().await.unwrap();
    drop(producer.send(Record::new("t", "b")).await.unwrap());
    drop(producer);
    assert_eq!(warned(), 1);
    let closed = lingering(&cluster).build().await.unwrap();
    drop(closed.send(Record::new("t", "c")).await.unwrap());
    closed.close(TEST_TIMEOUT).await.unwrap();
    drop(closed);
    assert_eq!(warned(), 1, "nothing was lost");
}
