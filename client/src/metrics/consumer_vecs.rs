//! Metric vectors of consumers, by group and topic.

use prometheus::{HistogramVec, IntCounterVec};

use super::factory::MetricFactory;

/// Metrics of all consumers of a registry.
pub(super) struct ConsumerVecs {
    pub(super) records: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) poll: HistogramVec,
}

impl ConsumerVecs {
    pub(super) fn new(r: &MetricFactory<'_>) -> Self {
        let topic = &["group", "topic"][..];
        Self {
            records: r.counter(
                "streamhouse_consumer_records_consumed_total",
                "Records returned by poll.",
                topic,
            ),
            bytes: r.counter(
                "streamhouse_consumer_bytes_consumed_total",
                "Bytes of the records returned by poll, decompressed.",
                topic,
            ),
            poll: r.duration_histogram(
                "streamhouse_consumer_poll_duration_seconds",
                "Time in poll, for polls that returned records.",
                &["group"],
            ),
        }
    }
}
