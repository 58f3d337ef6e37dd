//! The consumer's metrics.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use super::registry::{OTHER, Register, Registry};

/// Partitions with gauges of their own, per registry.
const MOST_PARTITIONS: usize = 10_000;

pub(super) struct ConsumerVecs {
    records: IntCounterVec,
    bytes: IntCounterVec,
    poll: HistogramVec,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    committed: IntGaugeVec,
    current: IntGaugeVec,
}

impl ConsumerVecs {
    pub(super) fn new(r: &Register<'_>) -> Self {
        let (topic, partition) = (&["group", "topic"][..], &["group", "topic", "partition"][..]);
        Self {
            records: r.counter(
                "streamhouse_consumer_records_consumed_total",
                "Records returned by poll.",
                topic,
            ),
            bytes: r.counter(
                "streamhouse_consumer_bytes_consumed_total",
                "Their bytes, decompressed.",
                topic,
            ),
            poll: r.durations(
                "streamhouse_consumer_poll_duration_seconds",
                "Time in poll, for polls that returned records.",
                &["group"],
            ),
            lag_records: r.gauge(
                "streamhouse_consumer_lag_records",
                "Records between position and end.",
                partition,
            ),
            lag_seconds: r.real_gauge(
                "streamhouse_consumer_lag_seconds",
                "Age of the record read next.",
                partition,
            ),
            committed: r.gauge(
                "streamhouse_consumer_last_committed_offset",
                "The offset last committed.",
                partition,
            ),
            current: r.gauge(
                "streamhouse_consumer_current_offset",
                "The offset that poll returns next.",
                partition,
            ),
        }
    }
}

/// A consumer's metrics.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerMetrics {
    registry: Registry,
    group: String,
    poll: Histogram,
}

impl ConsumerMetrics {
    pub(crate) fn new(registry: &Registry, group: &str) -> Self {
        let poll = registry.inner.consumer.poll.with_label_values(&[group]);
        Self {
            registry: registry.clone(),
            group: group.to_owned(),
            poll,
        }
    }

    pub(crate) fn polled(&self, took: Duration) {
        self.poll.observe(took.as_secs_f64());
    }

    /// A partition's; its gauges are shown until the result is dropped.
    pub(crate) fn partition(&self, topic: &str, partition: i32) -> Arc<ConsumerPartitionMetrics> {
        let topic = self.registry.topic_label(topic);
        let vecs = &self.registry.inner.consumer;
        let label = &[self.group.as_str(), &topic][..];
        let (records, bytes) = (
            vecs.records.with_label_values(label),
            vecs.bytes.with_label_values(label),
        );
        let mut shown = self.registry.inner.partitions.lock();
        let gauges = (*shown < MOST_PARTITIONS && topic != OTHER).then(|| {
            *shown += 1;
            let labels = [self.group.clone(), topic, partition.to_string()];
            PartitionGauges {
                lag_records: vecs.lag_records.with_label_values(&labels),
                lag_seconds: vecs.lag_seconds.with_label_values(&labels),
                committed: vecs.committed.with_label_values(&labels),
                current: vecs.current.with_label_values(&labels),
                labels,
                registry: self.registry.clone(),
            }
        });
        Arc::new(ConsumerPartitionMetrics {
            records,
            bytes,
            gauges,
        })
    }
}

/// A consumer's metrics of one partition.
#[derive(Debug)]
pub(crate) struct ConsumerPartitionMetrics {
    records: IntCounter,
    bytes: IntCounter,
    gauges: Option<PartitionGauges>,
}

#[derive(Debug)]
struct PartitionGauges {
    lag_records: IntGauge,
    lag_seconds: Gauge,
    committed: IntGauge,
    current: IntGauge,
    labels: [String; 3],
    registry: Registry,
}

impl Drop for PartitionGauges {
    fn drop(&mut self) {
        // Another member reads the partition now: a gauge that stands still would look like a lag that does not shrink.
        let vecs = &self.registry.inner.consumer;
        for gauge in [&vecs.lag_records, &vecs.committed, &vecs.current] {
            let _ = gauge.remove_label_values(&self.labels);
        }
        let _ = vecs.lag_seconds.remove_label_values(&self.labels);
        *self.registry.inner.partitions.lock() -= 1;
    }
}

impl ConsumerPartitionMetrics {
    pub(crate) fn consumed(&self, records: usize, bytes: usize) {
        self.records.inc_by(records as u64);
        self.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn position(&self, offset: i64) {
        self.with(|gauges| gauges.current.set(offset));
    }

    pub(crate) fn committed(&self, offset: i64) {
        self.with(|gauges| gauges.committed.set(offset));
    }

    pub(crate) fn lag(&self, records: i64, seconds: f64) {
        self.with(|gauges| {
            gauges.lag_records.set(records);
            gauges.lag_seconds.set(seconds);
        });
    }

    fn with(&self, update: impl FnOnce(&PartitionGauges)) {
        if let Some(gauges) = &self.gauges {
            update(gauges);
        }
    }
}
