//! Lag of the partitions, for applications and metrics.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

use super::{AssignedPartition, AssignmentState, FetchPosition, PartitionRequest};
use crate::consumer::PartitionLag;

impl AssignmentState {
    /// Returns the lag of each partition whose end is known.
    pub(in crate::consumer) fn lags(&self, now_ms: i64) -> BTreeMap<TopicPartition, PartitionLag> {
        self.assigned
            .iter()
            .filter_map(|(key, held)| Some((key.clone(), held.lag(now_ms)?)))
            .collect()
    }

    /// Returns the partitions that are not fetched (paused, or with an error) and whose end was not
    /// requested within `every`, and marks their ends as requested now.
    pub(in crate::consumer) fn take_stale_ends(
        &mut self,
        now: Instant,
        every: Duration,
    ) -> Vec<PartitionRequest> {
        let mut stale = Vec::new();
        for (key, held) in &mut self.assigned {
            let is_fetched = !held.paused && held.error_state.is_none();
            let is_known = matches!(held.position, FetchPosition::At(_));
            if is_fetched || !is_known || held.end_requested_at.is_some_and(|at| now < at + every) {
                continue;
            }
            held.end_requested_at = Some(now);
            stale.push(PartitionRequest {
                key: key.clone(),
                serial: held.serial,
                position: held.position,
                topic_id: held.topic_id.clone(),
            });
        }
        stale
    }
}

impl AssignedPartition {
    pub(super) fn lag(&self, now_ms: i64) -> Option<PartitionLag> {
        let (FetchPosition::At(offset), Some(end)) = (self.position, self.high_watermark) else {
            return None;
        };
        let records = (end - offset).max(0);
        let age = self
            .timestamp
            .map_or(0, |timestamp| now_ms.saturating_sub(timestamp).max(0));
        Some(PartitionLag {
            records,
            seconds: if records == 0 { 0.0 } else { age as f64 / 1000.0 },
        })
    }

    pub(super) fn report_lag(&self, now_ms: i64) {
        if let Some(lag) = self.lag(now_ms) {
            self.metrics.set_lag(lag.records, lag.seconds);
        }
    }
}
