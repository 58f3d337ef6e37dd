//! Helpers of the client's tests: clusters with records, consumers and what they read.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use streamhouse_client::{
    AutoOffsetReset, ClientConfig, Consumer, ConsumerBuilder, Error, OwnedRecord, Producer, Record,
    TopicPartition,
    consumer::{ConsumerHandle, ListenerFuture, OffsetCommitter, RebalanceListener},
    metrics::MetricsRegistry,
};
use tokio::time::timeout;

use super::FakeCluster;

/// Longer than anything in these tests takes unless it hangs.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);
pub const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Returns the configuration of a client that retries at once.
pub fn impatient_config(cluster: &FakeCluster) -> ClientConfig {
    ClientConfig::new(cluster.bootstrap())
        .with_retry_backoff(Duration::from_millis(5))
        .with_retry_backoff_max(Duration::from_millis(50))
}

pub fn builder(cluster: &FakeCluster) -> ConsumerBuilder {
    Consumer::builder()
        .bootstrap(cluster.bootstrap())
        .metrics_registry(MetricsRegistry::new())
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .heartbeat(Duration::from_millis(50))
        .fetch_max_wait(Duration::from_millis(100))
}

pub async fn produce(cluster: &FakeCluster, topic: &str, partitions: i32, numbers: std::ops::Range<usize>) {
    let producer = Producer::builder()
        .bootstrap(cluster.bootstrap())
        .metrics_registry(MetricsRegistry::new())
        .batch_size(2048)
        .build()
        .await
        .unwrap();
    for number in numbers {
        let record = Record::new(topic, format!("{number:06}"))
            .with_partition(i32::try_from(number).unwrap() % partitions)
            .with_timestamp(1_000_000 + i64::try_from(number).unwrap())
            .with_header("number", number.to_string());
        drop(producer.send(record).await.unwrap());
    }
    producer.close(TEST_TIMEOUT).await.unwrap();
}

/// Starts a cluster whose topic `t` holds these numbers, in its partitions in turn.
pub async fn cluster_with_records(
    agents: usize,
    partitions: i32,
    numbers: std::ops::Range<usize>,
) -> FakeCluster {
    let cluster = FakeCluster::start(agents).await;
    cluster.create("t", partitions.unsigned_abs() as usize);
    produce(&cluster, "t", partitions, numbers).await;
    cluster
}

/// Returns a builder of a consumer of the first `partitions` partitions of the topic `t`.
pub fn reader(cluster: &FakeCluster, partitions: i32) -> ConsumerBuilder {
    builder(cluster).assign((0..partitions).map(|partition| of("t", partition)))
}

/// Returns a builder of a member of the group `g` that reads the topic `t`.
pub fn member(cluster: &FakeCluster) -> ConsumerBuilder {
    builder(cluster).group("g").topics(["t"])
}

/// Fails if the future does not complete.
pub async fn within_timeout<T>(what: impl Future<Output = T>) -> T {
    timeout(TEST_TIMEOUT, what).await.expect("it does not get there")
}

/// Polls until this many records were returned.
pub async fn read_records(consumer: &mut Consumer, count: usize) -> Vec<OwnedRecord> {
    let mut read = Vec::new();
    let reading = async {
        while read.len() < count {
            let records = consumer.poll(POLL_TIMEOUT).await.unwrap();
            read.extend(records.iter().map(|record| record.to_owned()));
        }
    };
    timeout(TEST_TIMEOUT, reading)
        .await
        .expect("the records do not come");
    read
}

/// Polls until this many records were returned, and returns their values.
pub async fn read(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let records = read_records(consumer, count).await.into_iter();
    records
        .map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap())
        .collect()
}

/// Like [`read`], with the values in order.
pub async fn read_sorted(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = read(consumer, count).await;
    values.sort();
    values
}

/// Polls until this many partitions are assigned.
pub async fn poll_until_assigned(consumer: &mut Consumer, partitions: usize) {
    within_timeout(async {
        while consumer.assignment().len() != partitions {
            consumer.poll(Duration::from_millis(20)).await.unwrap();
        }
    })
    .await;
}

/// Logs the rebalance callbacks of a member.
#[derive(Clone, Default)]
pub struct ListenerLog(pub Arc<Mutex<Vec<String>>>);

impl ListenerLog {
    pub fn write(&self, what: &str, partitions: &[TopicPartition]) {
        self.0.lock().push(format!("{what} {}", partitions.len()));
    }
}

impl RebalanceListener for ListenerLog {
    fn on_revoked<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        _: &'a OffsetCommitter,
    ) -> ListenerFuture<'a> {
        self.write("revoked", partitions);
        Box::pin(async {})
    }

    fn on_assigned<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        _: &'a ConsumerHandle,
    ) -> ListenerFuture<'a> {
        self.write("assigned", partitions);
        Box::pin(async {})
    }

    fn on_lost<'a>(&'a self, partitions: &'a [TopicPartition]) -> ListenerFuture<'a> {
        self.write("lost", partitions);
        Box::pin(async {})
    }
}

/// Polls until an error.
pub async fn next_error(consumer: &mut Consumer) -> Error {
    let polling = async {
        loop {
            if let Err(error) = consumer.poll(POLL_TIMEOUT).await {
                return error;
            }
        }
    };
    timeout(TEST_TIMEOUT, polling).await.expect("nothing fails")
}

pub fn expected(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| format!("{number:06}")).collect()
}

pub fn of(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}
