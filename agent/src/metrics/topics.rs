//! Metrics by topic. The number of series is bounded: topics beyond [`MAX_TOPICS`] share one.
//! Partitions keep the counters of their topic, so that counting needs no lookup.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts, Result};

use super::{OTHER_LABEL_VALUE, register::MetricRegistrar};

/// Maximum number of topics with series of their own, per agent.
pub(super) const MAX_TOPICS: usize = 200;

/// The counters of one topic.
#[derive(Debug)]
pub struct TopicTraffic {
    produced_records: IntCounter,
    produced_bytes: IntCounter,
    fetched_records: IntCounter,
    fetched_bytes: IntCounter,
}

impl TopicTraffic {
    /// Counts records acknowledged with an offset.
    pub fn record_produced(&self, records: u64, bytes: u64) {
        self.produced_records.inc_by(records);
        self.produced_bytes.inc_by(bytes);
    }

    /// Counts records served to a consumer.
    pub fn record_fetched(&self, records: u64, bytes: u64) {
        self.fetched_records.inc_by(records);
        self.fetched_bytes.inc_by(bytes);
    }
}

/// The counters of all topics.
pub(super) struct TopicMetrics {
    produced_records: IntCounterVec,
    produced_bytes: IntCounterVec,
    fetched_records: IntCounterVec,
    fetched_bytes: IntCounterVec,
    known: Mutex<HashMap<Arc<str>, Arc<TopicTraffic>>>,
    other: OnceLock<Arc<TopicTraffic>>,
}

impl fmt::Debug for TopicMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topics({})", self.known.lock().len())
    }
}

impl TopicMetrics {
    pub(super) fn new(register: &MetricRegistrar) -> Result<Self> {
        let counters = |name: &str, help: &str| {
            let opts = Opts::new(format!("streamhouse_topic_{name}"), help);
            register.register(IntCounterVec::new(opts, &["topic"])?)
        };
        Ok(Self {
            produced_records: counters("produced_records_total", "Records acknowledged with an offset.")?,
            produced_bytes: counters(
                "produced_bytes_total",
                "Bytes acknowledged with an offset, as sent (compressed).",
            )?,
            fetched_records: counters("fetched_records_total", "Records given to readers.")?,
            fetched_bytes: counters("fetched_bytes_total", "Bytes given to readers (compressed).")?,
            known: Mutex::default(),
            other: OnceLock::new(),
        })
    }

    /// Returns the counters of this topic, or the shared ones of the topics beyond the limit.
    pub(super) fn get_or_create(&self, topic: &str) -> Arc<TopicTraffic> {
        let mut known = self.known.lock();
        if let Some(traffic) = known.get(topic) {
            return traffic.clone();
        }
        if known.len() >= MAX_TOPICS {
            return self
                .other
                .get_or_init(|| Arc::new(self.with_topic_label(OTHER_LABEL_VALUE)))
                .clone();
        }
        let traffic = Arc::new(self.with_topic_label(topic));
        known.insert(topic.into(), traffic.clone());
        traffic
    }

    /// Removes the series of deleted topics, once no partition counts in them.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.known.lock().retain(|topic, traffic| {
            let keep = exists(topic) || Arc::strong_count(traffic) > 1;
            if !keep {
                for counters in [
                    &self.produced_records,
                    &self.produced_bytes,
                    &self.fetched_records,
                    &self.fetched_bytes,
                ] {
                    // Fails only if the series is already removed.
                    let _ = counters.remove_label_values(&[topic]);
                }
            }
            keep
        });
    }

    fn with_topic_label(&self, topic: &str) -> TopicTraffic {
        TopicTraffic {
            produced_records: self.produced_records.with_label_values(&[topic]),
            produced_bytes: self.produced_bytes.with_label_values(&[topic]),
            fetched_records: self.fetched_records.with_label_values(&[topic]),
            fetched_bytes: self.fetched_bytes.with_label_values(&[topic]),
        }
    }
}
