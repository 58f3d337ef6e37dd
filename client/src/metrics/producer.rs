//! Metrics of producers.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::registry::{MetricFactory, MetricsRegistry};

pub(super) struct ProducerVecs {
    records: IntCounterVec,
    bytes: IntCounterVec,
    errors: IntCounterVec,
    send: HistogramVec,
    flush: HistogramVec,
    batch_records: HistogramVec,
    batch_bytes: HistogramVec,
    pending: IntGaugeVec,
    /// Whether a topic has series. Before that, an empty label value stands for future topics.
    has_topics: Mutex<bool>,
}

/// Label value before the first topic: for Prometheus, an empty value is no label.
const PLACEHOLDER_LABEL: &[&str] = &[""];

impl ProducerVecs {
    pub(super) fn new(r: &MetricFactory<'_>) -> Self {
        let topic = &["topic"][..];
        Self {
            records: r.counter(
                "streamhouse_producer_records_sent_total",
                "Records acknowledged.",
                topic,
            ),
            bytes: r.counter(
                "streamhouse_producer_bytes_sent_total",
                "Bytes acknowledged, as sent (compressed).",
                topic,
            ),
            errors: r.counter(
                "streamhouse_producer_send_errors_total",
                "Records that failed finally.",
                topic,
            ),
            send: r.duration_histogram(
                "streamhouse_producer_send_duration_seconds",
                "Time from the first send of a batch to its acknowledgement: that of its oldest record.",
                topic,
            ),
            flush: r.duration_histogram(
                "streamhouse_producer_batch_flush_duration_seconds",
                "Time from the request with a batch to the agent's answer.",
                topic,
            ),
            batch_records: r.histogram(
                "streamhouse_producer_batch_size_records",
                "Records per batch.",
                topic,
                1.0,
                18,
            ),
            batch_bytes: r.histogram(
                "streamhouse_producer_batch_size_bytes",
                "Bytes per batch, before compression.",
                topic,
                256.0,
                16,
            ),
            pending: r.gauge(
                "streamhouse_producer_pending_records",
                "Records that are buffered or in flight.",
                topic,
            ),
            has_topics: Mutex::new(false),
        }
    }

    /// Exports every metric with value zero before the first topic, so that a scrape always finds
    /// them.
    fn init_series(&self) {
        let has_topics = self.has_topics.lock();
        if !*has_topics {
            for counter in [&self.records, &self.bytes, &self.errors] {
                counter.with_label_values(PLACEHOLDER_LABEL);
            }
            for histogram in self.histograms() {
                histogram.with_label_values(PLACEHOLDER_LABEL);
            }
            self.pending.with_label_values(PLACEHOLDER_LABEL);
        }
    }

    /// Removes the placeholder series, before the first topic gets its own.
    fn remove_placeholder_series(&self) {
        let mut has_topics = self.has_topics.lock();
        if std::mem::replace(&mut *has_topics, true) {
            return;
        }
        // Removing series that do not exist is harmless.
        for counter in [&self.records, &self.bytes, &self.errors] {
            let _ = counter.remove_label_values(PLACEHOLDER_LABEL);
        }
        for histogram in self.histograms() {
            let _ = histogram.remove_label_values(PLACEHOLDER_LABEL);
        }
        let _ = self.pending.remove_label_values(PLACEHOLDER_LABEL);
    }

    fn histograms(&self) -> [&HistogramVec; 4] {
        [&self.send, &self.flush, &self.batch_records, &self.batch_bytes]
    }
}

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
