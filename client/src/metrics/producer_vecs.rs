//! Metric vectors of producers, by topic.

use parking_lot::Mutex;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::factory::MetricFactory;

/// Metrics of all producers of a registry.
pub(super) struct ProducerVecs {
    pub(super) records: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) send: HistogramVec,
    pub(super) flush: HistogramVec,
    pub(super) batch_records: HistogramVec,
    pub(super) batch_bytes: HistogramVec,
    pub(super) pending: IntGaugeVec,
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
    pub(super) fn init_series(&self) {
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
    pub(super) fn remove_placeholder_series(&self) {
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
