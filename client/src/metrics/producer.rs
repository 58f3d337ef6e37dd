//! Metrics of producers.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter, IntGauge};

use super::registry::MetricsRegistry;

/// Metrics of one producer.
#[derive(Debug, Clone)]
pub struct ProducerMetrics(MetricsRegistry);

impl ProducerMetrics {
    /// Creates the metrics of a producer.
    pub fn new(registry: &MetricsRegistry) -> Self {
        registry.inner.producer.init_series();
        Self(registry.clone())
    }

    /// Returns the metrics of a topic, with its labels resolved once.
    pub fn for_topic(&self, topic: &str) -> ProducerTopicMetrics {
        let topic = self.0.topic_label(topic);
        let (label, vecs) = (&[topic.as_str()][..], &self.0.inner.producer);
        vecs.remove_placeholder_series();
        ProducerTopicMetrics {
            records: vecs.records.with_label_values(label),
            bytes: vecs.bytes.with_label_values(label),
            errors: vecs.errors.with_label_values(label),
            send: vecs.send.with_label_values(label),
            flush: vecs.flush.with_label_values(label),
            batch_records: vecs.batch_records.with_label_values(label),
            batch_bytes: vecs.batch_bytes.with_label_values(label),
            pending: vecs.pending.with_label_values(label),
            reported: Mutex::new(0),
        }
    }
}

/// Metrics of one producer for one topic.
#[derive(Debug)]
pub struct ProducerTopicMetrics {
    records: IntCounter,
    bytes: IntCounter,
    errors: IntCounter,
    send: Histogram,
    flush: Histogram,
    batch_records: Histogram,
    batch_bytes: Histogram,
    pending: IntGauge,
    /// This producer's share of the gauge, which other producers may share.
    reported: Mutex<i64>,
}

impl ProducerTopicMetrics {
    /// Records that a batch was closed.
    pub fn record_batch(&self, records: u32, bytes: usize) {
        self.batch_records.observe(records.into());
        self.batch_bytes.observe(bytes as f64);
    }

    /// Records that a batch was acknowledged, `took` after its first record was sent.
    pub fn record_sent(&self, records: u32, bytes: usize, took: Duration) {
        self.records.inc_by(records.into());
        self.bytes.inc_by(bytes as u64);
        self.send.observe(took.as_secs_f64());
    }

    /// Records that a request with batches was answered after `took`.
    pub fn record_flush(&self, took: Duration) {
        self.flush.observe(took.as_secs_f64());
    }

    /// Records that records failed finally.
    pub fn record_failed(&self, records: u32) {
        self.errors.inc_by(records.into());
    }

    /// Sets the number of this producer's records that are not settled.
    pub fn set_pending(&self, pending: i64) {
        let mut shown = self.reported.lock();
        self.pending.add(pending - *shown);
        *shown = pending;
    }
}
