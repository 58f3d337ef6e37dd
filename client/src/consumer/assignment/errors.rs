//! Errors that keep partitions from being read, and when `poll` returns them: each at once and,
//! while it lasts, again after a pause, so that a caller that keeps polling gets the records of the
//! other partitions and no flood of errors.

use std::time::Duration;

use streamhouse_core::ErrorCode;
use tokio::time::Instant;

use super::{AssignmentState, FetchPosition, PartitionRequest};
use crate::error::Error;

/// Pause before a lasting error is returned again.
const ERROR_REPEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The error of one partition.
#[derive(Debug)]
pub(super) struct PartitionErrorState {
    error: Error,
    /// Whether only a seek clears it; the partition is not requested before.
    is_final: bool,
    reported_at: Option<Instant>,
}

impl PartitionErrorState {
    /// Creates an error that only a seek clears.
    pub(super) fn until_seek(error: Error) -> Self {
        Self {
            error,
            is_final: true,
            reported_at: None,
        }
    }

    pub(super) fn error(&self) -> &Error {
        &self.error
    }

    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }
}

impl AssignmentState {
    /// Sets an error that `poll` returns and that only a seek clears.
    pub(in crate::consumer) fn fail_until_seek(&mut self, wanted: &PartitionRequest, error: Error) {
        self.may_have_errors = true;
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.in_flight = false;
            held.error_state = Some(PartitionErrorState::until_seek(error));
        }
    }

    /// Sets an error that `poll` returns while the partition is requested again after `not_before`.
    pub(in crate::consumer) fn fail_until_retry(
        &mut self,
        wanted: &PartitionRequest,
        error: Error,
        not_before: Instant,
    ) {
        self.may_have_errors = true;
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.in_flight = false;
            held.not_before = Some(not_before);
            // The same failure continues: do not return it again before the pause is over.
            let told = held.error_state.as_ref().and_then(|trouble| trouble.reported_at);
            held.error_state = Some(PartitionErrorState {
                error,
                is_final: false,
                reported_at: told,
            });
        }
    }

    /// Counts a failed fetch or lookup. Returns the number of consecutive failures.
    pub(in crate::consumer) fn count_failure(&mut self, wanted: &PartitionRequest) -> u32 {
        self.get_current(&wanted.key, wanted.serial).map_or(1, |held| {
            held.failures = held.failures.saturating_add(1);
            held.failures
        })
    }

    /// Records that the partition does not exist. Returns for how long that has been so.
    pub(in crate::consumer) fn missing_for(&mut self, wanted: &PartitionRequest, now: Instant) -> Duration {
        self.get_current(&wanted.key, wanted.serial)
            .map_or(Duration::ZERO, |held| {
                now.saturating_duration_since(*held.missing_since.get_or_insert(now))
            })
    }

    /// Moves the position to the log start offset, because the records before were deleted. Batches
    /// fetched before are still returned.
    pub(in crate::consumer) fn advance_to_log_start(&mut self, wanted: &PartitionRequest, log_start: i64) {
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.clear_failures();
            held.fetch_from = log_start;
            if held.buffered == 0 {
                held.set_position(FetchPosition::At(log_start));
            }
        }
    }

    /// Moves the position after the end of the log moved back, and drops all fetched batches.
    pub(in crate::consumer) fn reset_position(&mut self, wanted: &PartitionRequest, to: FetchPosition) {
        let serial = self.allocate_serial();
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.restart_at(serial, to);
            self.drop_stale();
        }
    }

    /// Returns the error that `poll` should return now: one that was not returned yet or, after the
    /// pause, the one returned longest ago. Batches that were fetched before a partition's error
    /// are returned first.
    pub(in crate::consumer) fn take_due_error(&mut self, now: Instant) -> Option<Error> {
        // Called by every poll: scan the partitions only if any may have an error.
        self.may_have_errors =
            self.may_have_errors && self.assigned.values().any(|held| held.error_state.is_some());
        if !self.may_have_errors {
            return None;
        }
        let may_repeat = self.repeat_errors_at.is_none_or(|at| at <= now);
        let (key, _) = self
            .assigned
            .iter()
            .filter(|(_, held)| held.buffered == 0)
            .filter_map(|(key, held)| Some((key, held.error_state.as_ref()?.reported_at)))
            .filter(|(_, told)| told.is_none() || may_repeat)
            .min_by_key(|(_, told)| *told)?;
        let (topic, key) = (key.topic.clone(), key.clone());
        let error = self.assigned.get(&key)?.error_state.as_ref()?.error.clone();
        self.repeat_errors_at = Some(now + ERROR_REPEAT_INTERVAL);
        for (other, held) in &mut self.assigned {
            if let Some(trouble) = &mut held.error_state {
                // Report a missing topic once, however many partitions it had.
                let same = other.topic == topic && is_missing(&error) && is_missing(&trouble.error);
                if same || *other == key {
                    trouble.reported_at = Some(now);
                }
            }
        }
        Some(error)
    }

    /// Returns when [`AssignmentState::take_due_error`] will return an error, if nothing changes
    /// before.
    pub(in crate::consumer) fn next_error_at(&self, now: Instant) -> Option<Instant> {
        if !self.may_have_errors {
            return None;
        }
        let waits = self.assigned.values().filter(|held| held.buffered == 0);
        let told = waits.filter_map(|held| Some(held.error_state.as_ref()?.reported_at));
        let repeat_at = self.repeat_errors_at.unwrap_or(now);
        told.map(|told| if told.is_some() { repeat_at } else { now })
            .min()
    }
}

fn is_missing(error: &Error) -> bool {
    error.code() == ErrorCode::UnknownTopicOrPartition
}
