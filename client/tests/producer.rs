//! The producer against a cluster with scripted faults: acknowledged records are stored once and in
//! order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fake_agent::{FakeCluster, ProduceFault, helpers::impatient_config};
use parking_lot::Mutex;
use streamhouse_client::{
    Client, ClientConfig, Error, ErrorCode, Producer, ProducerBuilder, Record, RecordRef,
    metrics::MetricsRegistry,
    producer::{Compression, key_partition},
};

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn builder(cluster: &FakeCluster) -> ProducerBuilder {
    Producer::builder()
        .client_config(impatient_config(cluster))
        .metrics_registry(MetricsRegistry::new())
        .linger(Duration::from_millis(1))
}

/// Returns incompressible bytes.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mixed = (state ^ (state >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
        (mixed >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// Sends numbered records to the partitions in turn, in small batches, and waits for all.
async fn send_numbered(
    producer: &Producer,
    topic: &str,
    count: usize,
    partitions: i32,
) -> Vec<streamhouse_client::Result<i64>> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        let partition = i32::try_from(number).unwrap() % partitions;
        let record = Record::new(topic, format!("{number:06}")).with_partition(partition);
        deliveries.push(producer.send(record).await.unwrap());
        if number % 7 == 0 {
            // Close batches early, so that many are in flight.
            tokio::task::yield_now().await;
        }
    }
    let mut results = Vec::new();
    for delivery in deliveries {
        results.push(delivery.await.map(|metadata| metadata.offset));
    }
    results
}

/// Asserts that every acknowledged record is stored at its offset, once, and in the order sent.
fn assert_stored(
    cluster: &FakeCluster,
    topic: &str,
    partitions: usize,
    results: &[streamhouse_client::Result<i64>],
) {
    let stored = cluster.all_values(topic);
    for (number, result) in results.iter().enumerate() {
        if let Ok(offset) = result {
            assert_eq!(
                stored[number % partitions][usize::try_from(*offset).unwrap()],
                format!("{number:06}")
            );
        }
    }
    for values in stored {
        assert!(values.is_sorted(), "out of order: {values:?}");
        let mut once = values.clone();
        once.dedup();
        assert_eq!(once, values, "stored twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_where_and_as_they_were_sent() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 4);
    let producer = builder(&cluster).build().await.unwrap();
    let results = send_numbered(&producer, "t", 1000, 4).await;
    assert!(results.iter().all(Result::is_ok));
    assert_stored(&cluster, "t", 4, &results);
    assert_eq!(cluster.all_values("t").iter().map(Vec::len).sum::<usize>(), 1000);
    let stats = producer.metrics();
    assert_eq!(
        (stats.records_sent, stats.pending_records, stats.buffered_bytes),
        (1000, 0, 0)
    );
    producer.close(TEST_TIMEOUT).await.unwrap();
    // A rejected record is returned.
    let late = Record::new("t", "late").with_key("k").with_header("h", "v");
    let refused = producer.send(late.clone()).await.unwrap_err();
    assert_eq!(refused.into_parts(), (late.clone(), Error::Closed));
    let refused = producer
        .send_with_callback(late.clone(), |_| ())
        .await
        .unwrap_err();
    assert_eq!((refused.record(), refused.error()), (&late, &Error::Closed));
    assert_eq!(Error::from(refused), Error::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_choose_partitions_as_kafka_does_and_the_rest_spreads() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 3);
    let producer = builder(&cluster).build().await.unwrap();
    let topic = producer.topic("t").await.unwrap();
    for number in 0..200 {
        let key = format!("key-{number}");
        let delivery = producer
            .send_ref(&topic, RecordRef::keyed(key.as_bytes(), b"v"))
            .await
            .unwrap();
        assert_eq!(delivery.partition(), key_partition(key.as_bytes(), 3));
    }
    let mut used = HashMap::new();
    for _ in 0..30 {
        let metadata = producer
            .send_ref(&topic, RecordRef::new(b"v"))
            .await
            .unwrap()
            .await
            .unwrap();
        *used.entry(metadata.partition).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 3, "sticky for ever: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_whatever_goes_wrong() {
    use ProduceFault::{LoseAnswer, LoseRequest, MoveLeader, Refuse, Throttle};
    let faults = [
        LoseAnswer,
        LoseRequest,
        MoveLeader,
        Throttle(5),
        Refuse(ErrorCode::ResourceExhausted),
        Refuse(ErrorCode::StorageUnavailable),
        Refuse(ErrorCode::MetadataUnavailable),
        Refuse(ErrorCode::LeaderNotAvailable),
        ProduceFault::None,
    ];
    for seed in 0..6_usize {
        let cluster = FakeCluster::start(3).await;
        cluster.create("t", 3);
        cluster.state.lock().hints = seed % 2 == 0;
        cluster.script_faults((0..60).map(|at| faults[(at * 7 + seed * 5 + at * at * seed) % faults.len()]));
        let producer = builder(&cluster)
            .batch_size(1024)
            .linger(Duration::ZERO)
            .max_in_flight(1 + seed)
            .build()
            .await
            .unwrap();
        let results = send_numbered(&producer, "t", 1500, 3).await;
        let failed: Vec<_> = results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .collect();
        assert!(failed.is_empty(), "seed {seed}: {failed:?}");
        assert_stored(&cluster, "t", 3, &results);
        assert_eq!(
            cluster.all_values("t").iter().map(Vec::len).sum::<usize>(),
            1500,
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_idempotence_order_still_holds_and_nothing_is_lost() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 2);
    cluster.script_faults([
        ProduceFault::Refuse(ErrorCode::ResourceExhausted),
        ProduceFault::None,
        ProduceFault::MoveLeader,
        ProduceFault::Refuse(ErrorCode::LeaderNotAvailable),
    ]);
    let producer = builder(&cluster)
        .idempotent(false)
        .batch_size(1024)
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    let results = send_numbered(&producer, "t", 500, 2).await;
    assert!(results.iter().all(Result::is_ok));
    assert_stored(&cluster, "t", 2, &results);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_fails_alone_and_those_behind_it_are_renumbered() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::None, ProduceFault::Refuse(ErrorCode::InvalidRecord)]);
    let producer = builder(&cluster)
        .batch_size(1024)
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    let results = send_numbered(&producer, "t", 800, 1).await;
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert!(failed > 0 && failed < 100, "{failed} failed");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.code(), ErrorCode::InvalidRecord);
    }
    assert_stored(&cluster, "t", 1, &results);
    assert_eq!(cluster.values("t", 0).len(), 800 - failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_is_followed_without_asking_for_metadata() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    producer.send(Record::new("t", "a")).await.unwrap().await.unwrap();
    let asked = cluster.state.lock().metadata_asked;
    cluster.script_faults([ProduceFault::MoveLeader]);
    producer.send(Record::new("t", "b")).await.unwrap().await.unwrap();
    assert_eq!(cluster.state.lock().metadata_asked, asked);
    assert_eq!(cluster.values("t", 0), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bootstrap_agent_may_go_away() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 2);
    let producer = Producer::builder()
        .bootstrap(cluster.address(0))
        .metrics_registry(MetricsRegistry::new())
        .build()
        .await
        .unwrap();
    let before = send_numbered(&producer, "t", 100, 2).await;
    cluster.kill(0);
    let after = send_numbered(&producer, "t", 100, 2).await;
    assert!(before.iter().chain(&after).all(Result::is_ok));
    assert_eq!(cluster.all_values("t").iter().map(Vec::len).sum::<usize>(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_producer_waits() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::Throttle(150)]);
    let producer = builder(&cluster).linger(Duration::ZERO).build().await.unwrap();
    producer.send(Record::new("t", "a")).await.unwrap().await.unwrap();
    producer.send(Record::new("t", "b")).await.unwrap().await.unwrap();
    let arrivals = cluster.state.lock().arrivals.clone();
    assert!(arrivals[1].at - arrivals[0].at >= Duration::from_millis(150));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_blocks_neither_send_nor_delivery_for_ever() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::Silence; 50]);
    let producer = builder(&cluster)
        .batch_size(1024)
        .buffer_memory(4096)
        .max_block(Duration::from_millis(50))
        .delivery_timeout(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    // Measure the buffer, not how long a busy machine takes to connect.
    while producer.topic("t").await.is_err() {}
    let mut deliveries = Vec::new();
    let refused = loop {
        match producer.send(Record::new("t", vec![0; 500])).await {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.error(), &Error::BufferFull);
    assert!(
        (4..=7).contains(&deliveries.len()),
        "{} were taken",
        deliveries.len()
    );
    assert_eq!(
        producer.try_send(&Record::new("t", vec![0; 500])).unwrap_err(),
        Error::BufferFull
    );
    for delivery in deliveries {
        assert!(matches!(delivery.await, Err(Error::Timeout { .. })));
    }
    assert_eq!(producer.metrics().buffered_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_after_the_request_timeout() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::Silence]);
    let producer = builder(&cluster)
        .request_timeout(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let metadata = producer
        .send(Record::new("t", "once"))
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(metadata.offset, 0);
    assert_eq!(cluster.values("t", 0), ["once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_unknown_outcome_times_out_and_the_next_ones_go_on() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::None, ProduceFault::Silence]);
    let producer = builder(&cluster)
        .delivery_timeout(Duration::from_millis(300))
        .request_timeout(Duration::from_millis(150))
        .linger(Duration::ZERO)
        .build()
        .await
        .unwrap();
    producer
        .send(Record::new("t", "000000"))
        .await
        .unwrap()
        .await
        .unwrap();
    // The answer to the second is lost for longer than its time limit, and its retries are
    // rejected.
    cluster.script_faults(std::iter::repeat_n(
        ProduceFault::Refuse(ErrorCode::StorageUnavailable),
        30,
    ));
    let second = producer.send(Record::new("t", "000001")).await.unwrap().await;
    assert!(matches!(second, Err(Error::Timeout { .. })), "{second:?}");
    cluster.state.lock().faults.clear();
    let third = producer
        .send(Record::new("t", "000002"))
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(
        cluster.values("t", 0)[usize::try_from(third.offset).unwrap()],
        "000002"
    );
    assert!(cluster.values("t", 0).is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_callback_is_called_once() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 2);
    cluster.script_faults([
        ProduceFault::LoseAnswer,
        ProduceFault::None,
        ProduceFault::Refuse(ErrorCode::InvalidRecord),
        ProduceFault::LoseRequest,
    ]);
    let producer = builder(&cluster).batch_size(1024).build().await.unwrap();
    let calls: Arc<Vec<AtomicUsize>> = Arc::new((0..300).map(|_| AtomicUsize::new(0)).collect());
    let offsets = Arc::new(Mutex::new(Vec::new()));
    for number in 0..300 {
        let (calls, offsets) = (calls.clone(), offsets.clone());
        let record = Record::new("t", format!("{number}")).with_partition(0);
        let callback = move |result: streamhouse_client::Result<streamhouse_client::RecordMetadata>| {
            calls[number].fetch_add(1, Ordering::SeqCst);
            offsets.lock().extend(result.map(|metadata| metadata.offset));
        };
        producer.send_with_callback(record, callback).await.unwrap();
    }
    producer.flush().await.unwrap();
    assert!(calls.iter().all(|calls| calls.load(Ordering::SeqCst) == 1));
    assert!(
        offsets.lock().is_sorted(),
        "callbacks of a partition come in its order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn close_settles_everything_even_when_nobody_answers() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    cluster.script_faults([ProduceFault::Silence; 10]);
    let producer = builder(&cluster).build().await.unwrap();
    let delivery = producer.send(Record::new("t", "a")).await.unwrap();
    assert!(matches!(
        producer.close(Duration::from_millis(100)).await,
        Err(Error::Timeout { .. })
    ));
    // The record was sent, so it may be stored; here it is.
    assert!(matches!(delivery.await, Err(Error::OutcomeUnknown { .. })));
    assert_eq!(cluster.values("t", 0), ["a"]);
    assert_eq!(producer.metrics().records_failed, 1);
    let dropped = lingering(&cluster).build().await.unwrap();
    let delivery = dropped.send(Record::new("t", "b")).await.unwrap();
    drop(dropped);
    assert_eq!(delivery.await.unwrap_err(), Error::Closed, "it was not sent");
}

/// Builds a producer that sends nothing before a flush.
fn lingering(cluster: &FakeCluster) -> ProducerBuilder {
    builder(cluster)
        .linger(Duration::from_secs(3600))
        .delivery_timeout(Duration::from_secs(7200))
}

#[tokio::test(flavor = "multi_thread")]
async fn linger_does_not_hold_up_a_flush() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 3);
    let producer = builder(&cluster)
        .linger(Duration::from_secs(3600))
        .delivery_timeout(Duration::from_secs(7200));
    let producer = producer.build().await.unwrap();
    let deliveries = futures::future::join_all(
        (0..3).map(|partition| producer.send(Record::new("t", "a").with_partition(partition))),
    );
    let deliveries = deliveries.await;
    producer.flush().await.unwrap();
    assert!(
        deliveries
            .into_iter()
            .all(|delivery| delivery.unwrap().try_result().unwrap().is_ok())
    );
    let last = producer.send(Record::new("t", "b")).await.unwrap();
    producer.close(TEST_TIMEOUT).await.unwrap();
    assert!(last.try_result().unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_at_once() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let producer = builder(&cluster)
        .batch_size(1024)
        .max_request_size(100_000)
        .build()
        .await
        .unwrap();
    let large = producer
        .send(Record::new("t", noise(200_000, 1)))
        .await
        .unwrap_err();
    assert_eq!(large.code(), ErrorCode::MessageTooLarge);
    let beyond = producer
        .send(Record::new("t", "a").with_partition(5))
        .await
        .unwrap_err();
    assert_eq!(beyond.code(), ErrorCode::UnknownTopicOrPartition);
    let unknown = producer.try_send(&Record::new("nowhere", "a")).unwrap_err();
    assert!(matches!(&unknown, Error::TopicNotKnown { topic } if topic == "nowhere"));
    assert!(unknown.is_retryable());
    producer
        .send(Record::new("t", vec![0; 50_000]))
        .await
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agent_that_says_nothing_does_not_hide_the_others() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    // These accept connections and never answer, like the address of a deleted pod. Which agent is
    // called first is random.
    let silent: Vec<_> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut bootstrap = cluster.bootstrap();
    for listener in &silent {
        bootstrap = format!("{},{bootstrap}", listener.local_addr().unwrap());
    }
    for _ in 0..4 {
        let hour = Duration::from_secs(3600);
        let settings = ClientConfig::new(bootstrap.clone())
            .with_connect_timeout(hour)
            .with_request_timeout(hour);
        let producer = builder(&cluster)
            .client_config(settings)
            .idempotent(false)
            .max_block(TEST_TIMEOUT)
            .delivery_timeout(Duration::from_secs(7200))
            .build()
            .await
            .unwrap();
        producer.send(Record::new("t", "a")).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn an_unknown_topic_is_named_in_the_error() {
    let cluster = FakeCluster::start(1).await;
    let producer = builder(&cluster)
        .max_block(Duration::from_millis(200))
        .build()
        .await
        .unwrap();
    let error = producer.send(Record::new("nowhere", "a")).await.unwrap_err();
    assert!(error.to_string().contains("topic"), "{error}");
}

#[tokio::test]
async fn contradictory_settings_are_refused() {
    let refused =
        |builder: ProducerBuilder| async move { matches!(builder.build().await, Err(Error::Config(_))) };
    let base = || {
        Producer::builder()
            .bootstrap("localhost:1")
            .metrics_registry(MetricsRegistry::new())
    };
    assert!(refused(Producer::builder()).await);
    assert!(refused(base().bootstrap("ftp://x")).await);
    assert!(refused(base().max_in_flight(0)).await);
    assert!(refused(base().batch_size(1)).await);
    assert!(refused(base().batch_size(9 << 20)).await);
    assert!(refused(base().buffer_memory(1000)).await);
    assert!(refused(base().compression(Compression::Zstd)).await);
    assert!(
        refused(
            base()
                .linger(TEST_TIMEOUT)
                .delivery_timeout(Duration::from_secs(1))
        )
        .await
    );
    assert!(base().build().await.is_ok());
    // A shared client has its own settings.
    let client = Client::connect("localhost:1").unwrap();
    let shared = || client.producer().metrics_registry(MetricsRegistry::new());
    let refusal = shared()
        .request_timeout(TEST_TIMEOUT * 2)
        .client_id("me")
        .build()
        .await
        .unwrap_err();
    let text = refusal.to_string();
    assert!(
        text.contains("client_id, request_timeout") && text.contains("shared client"),
        "{text}"
    );
    assert!(refused(shared().client_config(ClientConfig::new("localhost:2"))).await);
    assert!(shared().linger(TEST_TIMEOUT).build().await.is_ok());
    let consumer = client.consumer().request_timeout(TEST_TIMEOUT * 2).build().await;
    assert!(matches!(consumer, Err(Error::Config(_))));
}
