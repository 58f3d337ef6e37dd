//! Errors that keep partitions from being read, and when `poll` returns them: each at once and,
//! while it lasts, again after a pause, so that a caller that keeps polling gets the records of the
//! other partitions and no flood of errors.

use std::time::Duration;

use streamhouse_core::ErrorCode;
use tokio::time::Instant;

use super::{Assignment, Position, Wanted};
use crate::error::Error;

/// Pause before a lasting error is returned again.
const REPEAT: Duration = Duration::from_secs(1);

/// The error of one partition.
#[derive(Debug)]
pub(super) struct Trouble {
    error: Error,
    /// Whether only a seek clears it; the partition is not requested before.
    is_final: bool,
    told: Option<Instant>,
}

impl Trouble {
    /// Creates an error that only a seek clears.
    pub(super) fn lasting(error: Error) -> Self {
        Self {
            error,
            is_final: true,
            told: None,
        }
    }

    pub(super) fn error(&self) -> &Error {
        &self.error
    }

    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }
}

impl Assignment {
    /// Sets an error that `poll` returns and that only a seek clears.
    pub(in crate::consumer) fn failed(&mut self, wanted: &Wanted, error: Error) {
        self.troubled = true;
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            held.trouble = Some(Trouble::lasting(error));
        }
    }

    /// Sets an error that `poll` returns while the partition is requested again after `not_before`.
    pub(in crate::consumer) fn failing(&mut self, wanted: &Wanted, error: Error, not_before: Instant) {
        self.troubled = true;
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            held.not_before = Some(not_before);
            // The same failure continues: do not return it again before the pause is over.
            let told = held.trouble.as_ref().and_then(|trouble| trouble.told);
            held.trouble = Some(Trouble {
                error,
                is_final: false,
                told,
            });
        }
    }

    /// Counts a failed fetch or lookup. Returns the number of consecutive failures.
    pub(in crate::consumer) fn count_failure(&mut self, wanted: &Wanted) -> u32 {
        self.current(&wanted.key, wanted.serial).map_or(1, |held| {
            held.failures = held.failures.saturating_add(1);
            held.failures
        })
    }

    /// Records that the partition does not exist. Returns for how long that has been so.
    pub(in crate::consumer) fn missing_for(&mut self, wanted: &Wanted, now: Instant) -> Duration {
        self.current(&wanted.key, wanted.serial)
            .map_or(Duration::ZERO, |held| {
                now.saturating_duration_since(*held.missing_since.get_or_insert(now))
            })
    }

    /// Moves the position to the log start offset, because the records before were deleted. Batches
    /// fetched before are still returned.
    pub(in crate::consumer) fn begins_at(&mut self, wanted: &Wanted, log_start: i64) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.answered();
            held.fetch_from = log_start;
            if held.buffered == 0 {
                held.go_to(Position::At(log_start));
            }
        }
    }

    /// Moves the position after the end of the log moved back, and drops all fetched batches.
    pub(in crate::consumer) fn reset(&mut self, wanted: &Wanted, to: Position) {
        let serial = self.serial();
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.start_anew(serial, to);
            self.drop_stale();
        }
    }

    /// Returns the error that `poll` should return now: one that was not returned yet or, after the
    /// pause, the one returned longest ago. Batches that were fetched before a partition's error
    /// are returned first.
    pub(in crate::consumer) fn due_error(&mut self, now: Instant) -> Option<Error> {
        // Called by every poll: scan the partitions only if any may have an error.
        self.troubled = self.troubled && self.held.values().any(|held| held.trouble.is_some());
        if !self.troubled {
            return None;
        }
        let may_repeat = self.repeat_at.is_none_or(|at| at <= now);
        let (key, _) = self
            .held
            .iter()
            .filter(|(_, held)| held.buffered == 0)
            .filter_map(|(key, held)| Some((key, held.trouble.as_ref()?.told)))
            .filter(|(_, told)| told.is_none() || may_repeat)
            .min_by_key(|(_, told)| *told)?;
        let (topic, key) = (key.topic.clone(), key.clone());
        let error = self.held.get(&key)?.trouble.as_ref()?.error.clone();
        self.repeat_at = Some(now + REPEAT);
        for (other, held) in &mut self.held {
            if let Some(trouble) = &mut held.trouble {
                // Report a missing topic once, however many partitions it had.
                let same = other.topic == topic && is_missing(&error) && is_missing(&trouble.error);
                if same || *other == key {
                    trouble.told = Some(now);
                }
            }
        }
        Some(error)
    }

    /// Returns when [`Assignment::due_error`] will return an error, if nothing changes before.
    pub(in crate::consumer) fn next_error(&self, now: Instant) -> Option<Instant> {
        if !self.troubled {
            return None;
        }
        let waits = self.held.values().filter(|held| held.buffered == 0);
        let told = waits.filter_map(|held| Some(held.trouble.as_ref()?.told));
        let repeat_at = self.repeat_at.unwrap_or(now);
        told.map(|told| if told.is_some() { repeat_at } else { now })
            .min()
    }
}

fn is_missing(error: &Error) -> bool {
    error.code() == ErrorCode::UnknownTopicOrPartition
}
