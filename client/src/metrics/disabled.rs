//! Empty stand-ins for the metrics, for builds without the feature `metrics`.

use std::{sync::Arc, time::Duration};

/// Placeholder for a metrics registry.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DisabledRegistry;

impl DisabledRegistry {
    /// Creates a placeholder.
    pub fn new() -> Self {
        Self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DisabledProducerMetrics;

impl DisabledProducerMetrics {
    pub(crate) fn new(_: &DisabledRegistry) -> Self {
        Self
    }

    pub(crate) fn for_topic(&self, _: &str) -> DisabledTopicMetrics {
        DisabledTopicMetrics
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DisabledTopicMetrics;

impl DisabledTopicMetrics {
    pub(crate) fn record_batch(&self, _: u32, _: usize) {}
    pub(crate) fn record_sent(&self, _: u32, _: usize, _: Duration) {}
    pub(crate) fn record_flush(&self, _: Duration) {}
    pub(crate) fn record_failed(&self, _: u32) {}
    pub(crate) fn set_pending(&self, _: i64) {}
}

#[derive(Debug, Clone)]
pub(crate) struct DisabledConsumerMetrics;

impl DisabledConsumerMetrics {
    pub(crate) fn new(_: &DisabledRegistry, _: &str) -> Self {
        Self
    }

    pub(crate) fn record_poll(&self, _: Duration) {}

    pub(crate) fn for_partition(&self, _: &str, _: i32) -> Arc<DisabledPartitionMetrics> {
        Arc::new(DisabledPartitionMetrics)
    }
}

#[derive(Debug)]
pub(crate) struct DisabledPartitionMetrics;

impl DisabledPartitionMetrics {
    pub(crate) fn record_consumed(&self, _: usize, _: usize) {}
    pub(crate) fn set_position(&self, _: i64) {}
    pub(crate) fn set_committed(&self, _: i64) {}
    pub(crate) fn set_lag(&self, _: i64, _: f64) {}
}
