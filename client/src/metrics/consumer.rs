//! Metrics of consumers.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, IntCounter};

use super::{partition::PartitionGauges, registry::MetricsRegistry};

/// Metrics of one consumer.
#[derive(Debug, Clone)]
pub struct ConsumerMetrics {
    registry: MetricsRegistry,
    group: String,
    poll: Histogram,
}

impl ConsumerMetrics {
    /// Creates the metrics of a consumer in this group.
    pub fn new(registry: &MetricsRegistry, group: &str) -> Self {
        let group = registry.group_label(group);
        let poll = registry.inner.consumer.poll.with_label_values(&[&group]);
        Self {
            registry: registry.clone(),
            group,
            poll,
        }
    }

    /// Records a poll that returned records after `took`.
    pub fn record_poll(&self, took: Duration) {
        self.poll.observe(took.as_secs_f64());
    }

    /// Returns the metrics of a partition. Its gauges are exported until the result is dropped.
    pub fn for_partition(&self, topic: &str, partition: i32) -> Arc<ConsumerPartitionMetrics> {
        let topic = self.registry.topic_label(topic);
        let vecs = &self.registry.inner.consumer;
        let label = &[self.group.as_str(), &topic][..];
        let (records, bytes) = (
            vecs.records.with_label_values(label),
            vecs.bytes.with_label_values(label),
        );
        let gauges = PartitionGauges::new(&self.registry.inner.partitions, [&self.group, &topic], partition);
        Arc::new(ConsumerPartitionMetrics {
            records,
            bytes,
            gauges,
        })
    }
}

/// A consumer's metrics of one partition.
#[derive(Debug)]
pub struct ConsumerPartitionMetrics {
    records: IntCounter,
    bytes: IntCounter,
    gauges: PartitionGauges,
}

impl ConsumerPartitionMetrics {
    /// Records that a poll returned records of this partition.
    pub fn record_consumed(&self, records: usize, bytes: usize) {
        self.records.inc_by(records as u64);
        self.bytes.inc_by(bytes as u64);
    }

    /// Sets the offset that poll returns next.
    pub fn set_position(&self, offset: i64) {
        self.gauges.set_position(offset);
    }

    /// Sets the last committed offset.
    pub fn set_committed(&self, offset: i64) {
        self.gauges.set_committed(offset);
    }

    /// Sets the distance from the end of the partition.
    pub fn set_lag(&self, records: i64, seconds: f64) {
        self.gauges.set_lag(records, seconds);
    }
}
