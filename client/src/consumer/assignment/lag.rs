//! Lag of the partitions, for applications and metrics.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

use super::{Assignment, Held, Position, Wanted};
use crate::consumer::Lag;

impl Assignment {
    /// Returns the lag of each partition whose end is known.
    pub(in crate::consumer) fn lags(&self, now_ms: i64) -> BTreeMap<TopicPartition, Lag> {
        self.held
            .iter()
            .filter_map(|(key, held)| Some((key.clone(), held.lag(now_ms)?)))
            .collect()
    }

    /// Returns the partitions that are not fetched (paused, or with an error) and whose end was not
    /// requested within `every`, and marks their ends as requested now.
    pub(in crate::consumer) fn stale_ends(&mut self, now: Instant, every: Duration) -> Vec<Wanted> {
        let mut stale = Vec::new();
        for (key, held) in &mut self.held {
            let is_fetched = !held.paused && held.trouble.is_none();
            let is_known = matches!(held.position, Position::At(_));
            if is_fetched || !is_known || held.end_asked.is_some_and(|at| now < at + every) {
                continue;
            }
            held.end_asked = Some(now);
            stale.push(Wanted {
                key: key.clone(),
                serial: held.serial,
                position: held.position,
                topic_id: held.topic_id.clone(),
            });
        }
        stale
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
