//! Empty stand-ins for the metrics, for builds without the feature `metrics`.

use std::{sync::Arc, time::Duration};

/// Placeholder for a metrics registry.
#[derive(Debug, Clone, Default)]
pub struct MetricsRegistry;

impl MetricsRegistry {
    /// Creates a placeholder.
    pub fn new() -> Self {
        Self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ProducerMetrics;

impl ProducerMetrics {
    pub(crate) fn new(_: &MetricsRegistry) -> Self {
        Self
    }

    pub(crate) fn for_topic(&self, _: &str) -> ProducerTopicMetrics {
        ProducerTopicMetrics
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ProducerTopicMetrics;

impl ProducerTopicMetrics {
    pub(crate) fn record_batch(&self, _: u32, _: usize) {}
    pub(crate) fn record_sent(&self, _: u32, _: usize, _: Duration) {}
    pub(crate) fn record_flush(&self, _: Duration) {}
    pub(crate) fn record_failed(&self, _: u32) {}
    pub(crate) fn set_pending(&self, _: i64) {}
}

#[derive(Debug, Clone)]
pub(crate) struct ConsumerMetrics;

impl ConsumerMetrics {
    pub(crate) fn new(_: &MetricsRegistry, _: &str) -> Self {
        Self
    }

    pub(crate) fn record_poll(&self, _: Duration) {}

    pub(crate) fn for_partition(&self, _: &str, _: i32) -> Arc<ConsumerPartitionMetrics> {
        Arc::new(ConsumerPartitionMetrics)
    }
}

#[derive(Debug)]
pub(crate) struct ConsumerPartitionMetrics;

impl ConsumerPartitionMetrics {
    pub(crate) fn record_consumed(&self, _: usize, _: usize) {}
    pub(crate) fn set_position(&self, _: i64) {}
    pub(crate) fn set_committed(&self, _: i64) {}
    pub(crate) fn set_lag(&self, _: i64, _: f64) {}
}
