//! Empty stand-ins for the metrics, for builds without the feature `metrics`.

use std::{sync::Arc, time::Duration};

/// Placeholder for a metrics registry.
#[derive(Debug, Clone, Default)]
pub struct Registry;

impl Registry {
    /// Creates a placeholder.
    pub fn new() -> Self {
        Self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ProducerMetrics;

impl ProducerMetrics {
    pub(crate) fn new(_: &Registry) -> Self {
        Self
    }

    pub(crate) fn topic(&self, _: &str) -> ProducerTopicMetrics {
        ProducerTopicMetrics
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ProducerTopicMetrics;

impl ProducerTopicMetrics {
    pub(crate) fn batch(&self, _: u32, _: usize) {}
    pub(crate) fn sent(&self, _: u32, _: usize, _: Duration) {}
    pub(crate) fn flushed(&self, _: Duration) {}
    pub(crate) fn failed(&self, _: u32) {}
    pub(crate) fn set_pending(&self, _: i64) {}
}

#[derive(Debug, Clone)]
pub(crate) struct ConsumerMetrics;

impl ConsumerMetrics {
    pub(crate) fn new(_: &Registry, _: &str) -> Self {
        Self
    }

    pub(crate) fn polled(&self, _: Duration) {}

    pub(crate) fn partition(&self, _: &str, _: i32) -> Arc<ConsumerPartitionMetrics> {
        Arc::new(ConsumerPartitionMetrics)
    }
}

#[derive(Debug)]
pub(crate) struct ConsumerPartitionMetrics;

impl ConsumerPartitionMetrics {
    pub(crate) fn consumed(&self, _: usize, _: usize) {}
    pub(crate) fn position(&self, _: i64) {}
    pub(crate) fn committed(&self, _: i64) {}
    pub(crate) fn lag(&self, _: i64, _: f64) {}
}
