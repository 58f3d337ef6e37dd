//! What keeps partitions from being read, and how `poll` tells of it: each error at once, and as long as it lasts again
//! after a pause, so that a caller who polls on gets the records of the other partitions and no flood of errors.

use std::time::Duration;

use streamhouse_core::ErrorCode;
use tokio::time::Instant;

use super::{Assignment, Position, Wanted};
use crate::error::Error;

/// Before an error that lasts is told again.
const REPEAT: Duration = Duration::from_secs(1);

/// An error of one partition.
#[derive(Debug)]
pub(super) struct Trouble {
    error: Error,
    /// Only a seek ends it; the partition is not asked for before.
    is_final: bool,
    told: Option<Instant>,
}

impl Trouble {
    /// One that only a seek ends.
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
    /// The partition cannot be read on before a seek: `poll` says so.
    pub(in crate::consumer) fn failed(&mut self, wanted: &Wanted, error: Error) {
        self.troubled = true;
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            held.trouble = Some(Trouble::lasting(error));
        }
    }

    /// The partition cannot be read at the moment: `poll` says so, and it is asked for again after `not_before`.
    pub(in crate::consumer) fn failing(&mut self, wanted: &Wanted, error: Error, not_before: Instant) {
        self.troubled = true;
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            held.not_before = Some(not_before);
            // It lasts: what was told is told again after the pause only.
            let told = held.trouble.as_ref().and_then(|trouble| trouble.told);
            held.trouble = Some(Trouble {
                error,
                is_final: false,
                told,
            });
        }
    }

    /// A fetch or lookup failed; returns how many have, one after the other.
    pub(in crate::consumer) fn count_failure(&mut self, wanted: &Wanted) -> u32 {
        self.current(&wanted.key, wanted.serial).map_or(1, |held| {
            held.failures = held.failures.saturating_add(1);
            held.failures
        })
    }

    /// There is no such partition (any more); returns for how long that has been so.
    pub(in crate::consumer) fn missing_for(&mut self, wanted: &Wanted, now: Instant) -> Duration {
        self.current(&wanted.key, wanted.serial)
            .map_or(Duration::ZERO, |held| {
                now.saturating_duration_since(*held.missing_since.get_or_insert(now))
            })
    }

    /// The log begins later than where it was to be read on. What was fetched before is still returned.
    pub(in crate::consumer) fn begins_at(&mut self, wanted: &Wanted, log_start: i64) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.answered();
            held.fetch_from = log_start;
            if held.buffered == 0 {
                held.go_to(Position::At(log_start));
            }
        }
    }

    /// The log ends before where it was to be read on, so nothing that was fetched belongs to it: reads on elsewhere.
    pub(in crate::consumer) fn reset(&mut self, wanted: &Wanted, to: Position) {
        let serial = self.serial();
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.start_anew(serial, to);
            self.drop_stale();
        }
    }

    /// The error that `poll` tells now: one that it has not told, or after a pause the one that it told longest ago. What
    /// was fetched of a partition before its error is returned first.
    pub(in crate::consumer) fn due_error(&mut self, now: Instant) -> Option<Error> {
        // With every poll: the partitions are looked through only when there may be something.
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
                // A topic that is gone is one error, however many partitions it had.
                let same = other.topic == topic && is_missing(&error) && is_missing(&trouble.error);
                if same || *other == key {
                    trouble.told = Some(now);
                }
            }
        }
        Some(error)
    }

    /// When [`Assignment::due_error`] has something to tell, unless that changes.
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
