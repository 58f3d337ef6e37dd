//! How far partitions are behind their ends, for applications and metrics.

use std::collections::BTreeMap;

use streamhouse_core::TopicPartition;

use super::{Assignment, Held, Position};
use crate::consumer::Lag;

impl Assignment {
    /// How far each partition is behind, those that were fetched once.
    pub(in crate::consumer) fn lags(&self, now_ms: i64) -> BTreeMap<TopicPartition, Lag> {
        self.held
            .iter()
            .filter_map(|(key, held)| Some((key.clone(), held.lag(now_ms)?)))
            .collect()
    }
}

impl Held {
    pub(super) fn lag(&self, now_ms: i64) -> Option<Lag> {
        let (Position::At(offset), Some(end)) = (self.position, self.high_watermark) else {
            return None;
        };
        let records = (end - offset).max(0);
        let age = self
            .timestamp
            .map_or(0, |timestamp| now_ms.saturating_sub(timestamp).max(0));
        Some(Lag {
            records,
            seconds: if records == 0 { 0.0 } else { age as f64 / 1000.0 },
        })
    }

    pub(super) fn show_lag(&self, now_ms: i64) {
        if let Some(lag) = self.lag(now_ms) {
            self.metrics.lag(lag.records, lag.seconds);
        }
    }
}
