//! Helpers of the consumer tests: fill a topic, read it.

use std::time::Duration;

use streamhouse_client::{
    AutoOffsetReset, Consumer, ConsumerBuilder, Error, Producer, Record, TopicPartition,
    metrics::MetricsRegistry,
};
use tokio::time::timeout;

use super::FakeCluster;

/// Longer than anything in these tests takes unless it hangs.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);
pub const POLL_TIMEOUT: Duration = Duration::from_millis(200);

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

/// Polls until this many records were returned.
pub async fn read(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    let reading = async {
        while values.len() < count {
            for record in &consumer.poll(POLL_TIMEOUT).await.unwrap() {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
    };
    timeout(TEST_TIMEOUT, reading)
        .await
        .expect("the records do not come");
    values
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
