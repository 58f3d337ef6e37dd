//! The producer's metrics.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::registry::{Register, Registry};

pub(super) struct ProducerVecs {
    records: IntCounterVec,
    bytes: IntCounterVec,
    errors: IntCounterVec,
    send: HistogramVec,
    flush: HistogramVec,
    batch_records: HistogramVec,
    batch_bytes: HistogramVec,
    pending: IntGaugeVec,
    /// Whether a topic has series; before, an empty label stands for the topics to come.
    has_topics: Mutex<bool>,
}

/// The label while no topic is known: to Prometheus no label at all.
const NO_TOPIC: &[&str] = &[""];

impl ProducerVecs {
    pub(super) fn new(r: &Register<'_>) -> Self {
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
                "Records that failed for good.",
                topic,
            ),
            send: r.durations(
                "streamhouse_producer_send_duration_seconds",
                "From the first send of a batch to its acknowledgement: the longest of its records.",
                topic,
            ),
            flush: r.durations(
                "streamhouse_producer_batch_flush_duration_seconds",
                "From the request with a batch to the agent's answer.",
                topic,
            ),
            batch_records: r.histogram(
                "streamhouse_producer_batch_size_records",
                "Records of a batch.",
                topic,
                1.0,
                18,
            ),
            batch_bytes: r.histogram(
                "streamhouse_producer_batch_size_bytes",
                "Bytes of a batch, before compression.",
                topic,
                256.0,
                16,
            ),
            pending: r.gauge(
                "streamhouse_producer_pending_records",
                "Records that wait or are on their way.",
                topic,
            ),
            has_topics: Mutex::new(false),
        }
    }

    /// Shows every metric, at zero, before there is a topic: what scrapes a producer finds what it asks for from its start.
    fn show_all(&self) {
        let has_topics = self.has_topics.lock();
        if !*has_topics {
            for counter in [&self.records, &self.bytes, &self.errors] {
                counter.with_label_values(NO_TOPIC);
            }
            for histogram in self.histograms() {
                histogram.with_label_values(NO_TOPIC);
            }
            self.pending.with_label_values(NO_TOPIC);
        }
    }

    /// Makes place for the series of the first topic.
    fn show_topics(&self) {
        let mut has_topics = self.has_topics.lock();
        if std::mem::replace(&mut *has_topics, true) {
            return;
        }
        // What is not there need not be removed.
        for counter in [&self.records, &self.bytes, &self.errors] {
            let _ = counter.remove_label_values(NO_TOPIC);
        }
        for histogram in self.histograms() {
            let _ = histogram.remove_label_values(NO_TOPIC);
        }
        let _ = self.pending.remove_label_values(NO_TOPIC);
    }

    fn histograms(&self) -> [&HistogramVec; 4] {
        [&self.send, &self.flush, &self.batch_records, &self.batch_bytes]
    }
}

/// A producer's metrics.
#[derive(Debug, Clone)]
pub struct ProducerMetrics(Registry);

impl ProducerMetrics {
    /// A producer that shows what it measures at this registry.
    pub fn new(registry: &Registry) -> Self {
        registry.inner.producer.show_all();
        Self(registry.clone())
    }

    /// A topic's, with the labels looked up once.
    pub fn topic(&self, topic: &str) -> ProducerTopicMetrics {
        let topic = self.0.topic_label(topic);
        let (label, vecs) = (&[topic.as_str()][..], &self.0.inner.producer);
        vecs.show_topics();
        ProducerTopicMetrics {
            records: vecs.records.with_label_values(label),
            bytes: vecs.bytes.with_label_values(label),
            errors: vecs.errors.with_label_values(label),
            send: vecs.send.with_label_values(label),
            flush: vecs.flush.with_label_values(label),
            batch_records: vecs.batch_records.with_label_values(label),
            batch_bytes: vecs.batch_bytes.with_label_values(label),
            pending: vecs.pending.with_label_values(label),
            shown: Mutex::new(0),
        }
    }
}

/// A producer's metrics of one topic.
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
    /// This producer's part of the gauge, which others may share.
    shown: Mutex<i64>,
}

impl ProducerTopicMetrics {
    /// A batch is made.
    pub fn batch(&self, records: u32, bytes: usize) {
        self.batch_records.observe(records.into());
        self.batch_bytes.observe(bytes as f64);
    }

    /// A batch is acknowledged, so long after its first record was sent.
    pub fn sent(&self, records: u32, bytes: usize, took: Duration) {
        self.records.inc_by(records.into());
        self.bytes.inc_by(bytes as u64);
        self.send.observe(took.as_secs_f64());
    }

    /// A request with batches is answered, so long after it was made.
    pub fn flushed(&self, took: Duration) {
        self.flush.observe(took.as_secs_f64());
    }

    /// Records failed for good.
    pub fn failed(&self, records: u32) {
        self.errors.inc_by(records.into());
    }

    /// So many records of this producer wait or are on their way.
    pub fn set_pending(&self, pending: i64) {
        let mut shown = self.shown.lock();
        self.pending.add(pending - *shown);
        *shown = pending;
    }
}
