//! [`Assignment`]: the assigned partitions, the position in each, and the batches fetched ahead.
//! Pure state behind the consumer's lock: the fetcher fills it, `poll` drains it, seeks and
//! rebalances change it.
//!
//! Each partition has a serial that changes with every assignment and seek. Answers to requests
//! with an older serial are dropped, so that no record from before is ever returned.

mod held_back;
mod lag;
mod ready;
mod topics;
mod trouble;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use streamhouse_core::{TopicPartition, batch::BatchHeader};
use tokio::time::Instant;

pub(super) use self::{
    ready::{Fetched, SkippedRange},
    topics::{TopicChange, TopicSight},
};
use self::{topics::FollowedTopics, trouble::Trouble};
use super::ConsumerStats;
use crate::{
    admin::OffsetAt,
    error::{Error, Result},
    metrics::{ConsumerMetrics, ConsumerPartitionMetrics},
};

/// Position to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// The group's committed offset, if there is one.
    Committed,
    /// An offset that must be looked up.
    Lookup(OffsetAt),
    /// This offset.
    At(i64),
}

/// State of an assigned partition.
#[derive(Debug)]
struct Held {
    topic: Arc<str>,
    serial: u64,
    position: Position,
    /// Id of the topic that is read, empty while it is not known. Its offsets are meaningless for
    /// another topic of the same name.
    topic_id: Arc<str>,
    /// An agent has answered a request with this topic id, so the position belongs to that topic.
    confirmed: bool,
    /// Id of the previous topic of this name, if it was read.
    former_topic: Option<Arc<str>>,
    /// The next offset to fetch, once the position is known.
    fetch_from: i64,
    /// A fetch or lookup is in flight.
    busy: bool,
    paused: bool,
    /// Fetching waits for the `on_assigned` callback to complete.
    held_back: bool,
    not_before: Option<Instant>,
    /// Number of consecutive failed fetches and lookups.
    failures: u32,
    missing_since: Option<Instant>,
    trouble: Option<Trouble>,
    buffered: usize,
    high_watermark: Option<i64>,
    /// Time of the last request for the end without a fetch.
    end_asked: Option<Instant>,
    /// Timestamp of a record at or shortly before the position.
    timestamp: Option<i64>,
    committed: Option<i64>,
    metrics: Arc<ConsumerPartitionMetrics>,
}

/// A request to make: a fetch or a lookup of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) key: TopicPartition,
    pub(super) serial: u64,
    pub(super) position: Position,
    /// Empty while it is not known.
    pub(super) topic_id: Arc<str>,
}

/// All assigned partitions of a consumer.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    held: BTreeMap<TopicPartition, Held>,
    ready: VecDeque<Fetched>,
    buffered: usize,
    next_serial: u64,
    topics: FollowedTopics,
    /// Whether any partition may have an error; avoids scanning them in every poll.
    troubled: bool,
    /// Time after which `poll` may repeat an error.
    repeat_at: Option<Instant>,
    stats: ConsumerStats,
}

impl Assignment {
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.held.keys().cloned().collect()
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        self.stats
    }

    /// Adds partitions. Those already assigned are unchanged.
    pub(super) fn add(&mut self, partitions: &[TopicPartition], metrics: &ConsumerMetrics) {
        for key in partitions {
            let serial = self.serial();
            self.held.entry(key.clone()).or_insert_with(|| Held {
                topic: key.topic.as_str().into(),
                serial,
                position: Position::Committed,
                topic_id: Arc::from(""),
                confirmed: false,
                former_topic: None,
                fetch_from: 0,
                busy: false,
                paused: false,
                held_back: false,
                not_before: None,
                failures: 0,
                missing_since: None,
                trouble: None,
                buffered: 0,
                high_watermark: None,
                end_asked: None,
                timestamp: None,
                committed: None,
                metrics: metrics.partition(&key.topic, key.partition),
            });
        }
    }

    /// Removes partitions and the batches fetched of them.
    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.held.remove(key);
        }
        self.drop_stale();
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn drop_stale(&mut self) {
        let held = &self.held;
        let buffered = &mut self.buffered;
        self.ready.retain(|fetched| {
            let current = held
                .get(&fetched.key)
                .is_some_and(|held| held.serial == fetched.serial());
            if !current {
                *buffered -= fetched.size();
            }
            current
        });
    }

    fn get(&self, key: &TopicPartition) -> Result<&Held> {
        self.held.get(key).ok_or_else(|| Error::NotAssigned {
            partition: key.clone(),
        })
    }

    fn current(&mut self, key: &TopicPartition, serial: u64) -> Option<&mut Held> {
        self.held.get_mut(key).filter(|held| held.serial == serial)
    }

    /// Moves the position of a partition.
    pub(super) fn seek(&mut self, key: &TopicPartition, to: Position) -> Result<()> {
        let serial = self.serial();
        let held = self.held.get_mut(key).ok_or_else(|| Error::NotAssigned {
            partition: key.clone(),
        })?;
        held.start_anew(serial, to);
        // A seek refers to the topic that has the name now.
        held.topic_id = Arc::from("");
        held.confirmed = false;
        self.drop_stale();
        Ok(())
    }

    /// Returns the next offset that `poll` returns; `None` while it is not known.
    pub(super) fn position(&self, key: &TopicPartition) -> Result<Option<i64>> {
        let held = self.get(key)?;
        match (held.position, &held.trouble) {
            (Position::At(offset), _) => Ok(Some(offset)),
            (_, Some(trouble)) => Err(trouble.error().clone()),
            _ => Ok(None),
        }
    }

    pub(super) fn pause(&mut self, key: &TopicPartition, paused: bool) -> Result<()> {
        self.get(key)?;
        if let Some(held) = self.held.get_mut(key) {
            held.paused = paused;
        }
        Ok(())
    }

    pub(super) fn paused(&self) -> Vec<TopicPartition> {
        self.held
            .iter()
            .filter(|(_, held)| held.paused)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Returns the positions that are not committed.
    pub(super) fn uncommitted(&self) -> BTreeMap<TopicPartition, i64> {
        let uncommitted = |(key, held): (&TopicPartition, &Held)| match held.position {
            Position::At(offset) if held.committed != Some(offset) => Some((key.clone(), offset)),
            _ => None,
        };
        self.held.iter().filter_map(uncommitted).collect()
    }

    pub(super) fn committed(&mut self, key: &TopicPartition, offset: i64) {
        if let Some(held) = self.held.get_mut(key) {
            held.commit(offset);
        }
    }

    /// Returns the partitions whose position must be looked up, and marks them as busy until
    /// [`Assignment::found`] or [`Assignment::failed`].
    pub(super) fn lookups(&mut self, now: Instant) -> Vec<Wanted> {
        self.wanted(now, |held| !matches!(held.position, Position::At(_)))
    }

    /// Returns the partitions to fetch, without those that have `most` bytes buffered, and marks
    /// them as busy until answered.
    pub(super) fn fetches(&mut self, now: Instant, most: usize) -> Vec<Wanted> {
        let mut wanted = self.wanted(now, |held| {
            matches!(held.position, Position::At(_))
                && !held.paused
                && !held.held_back
                && held.buffered < most
        });
        for fetch in &mut wanted {
            if let Some(held) = self.held.get(&fetch.key) {
                fetch.position = Position::At(held.fetch_from);
            }
        }
        wanted
    }

    fn wanted(&mut self, now: Instant, is_wanted: impl Fn(&Held) -> bool) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (key, held) in &mut self.held {
            let stands = held.trouble.as_ref().is_some_and(Trouble::is_final);
            let free = !held.busy && !stands && held.not_before.is_none_or(|at| at <= now);
            if free && is_wanted(held) {
                held.busy = true;
                wanted.push(Wanted {
                    key: key.clone(),
                    serial: held.serial,
                    position: held.position,
                    topic_id: held.topic_id.clone(),
                });
            }
        }
        wanted
    }

    /// Returns when the next partition may be requested again.
    pub(super) fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.held
            .values()
            .filter(|held| !held.busy)
            .filter_map(|held| held.not_before)
            .filter(|at| *at > now)
            .min()
    }

    /// Completes a lookup: the position was found, or another lookup is needed.
    pub(super) fn found(&mut self, wanted: &Wanted, position: Position, committed: Option<i64>) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.answered();
            held.confirmed |= matches!(position, Position::At(_)) && !wanted.topic_id.is_empty();
            if let Some(offset) = committed {
                held.commit(offset);
            }
            held.go_to(position);
        }
    }

    /// Schedules a fetch or lookup again, not before `not_before` if given.
    pub(super) fn again(&mut self, wanted: &Wanted, not_before: Option<Instant>) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.busy = false;
            held.not_before = not_before;
        }
    }

    /// Updates the end of a partition without records, so that its lag is reported even while it
    /// cannot be read.
    pub(super) fn ends_at(&mut self, wanted: &Wanted, high_watermark: i64, now_ms: i64) {
        if let Some(held) = self.current(&wanted.key, wanted.serial) {
            held.high_watermark = Some(high_watermark);
            held.show_lag(now_ms);
        }
    }

    /// Adds fetched batches and updates the end of the partition.
    pub(super) fn fetched(
        &mut self,
        wanted: &Wanted,
        batches: Vec<(BatchHeader, Bytes)>,
        high_watermark: i64,
        now_ms: i64,
    ) {
        let Some(held) = self
            .held
            .get_mut(&wanted.key)
            .filter(|held| held.serial == wanted.serial)
        else {
            return;
        };
        held.answered();
        held.confirmed |= !wanted.topic_id.is_empty();
        held.high_watermark = Some(high_watermark);
        for (header, bytes) in batches {
            if header.next_offset() <= held.fetch_from {
                continue;
            }
            held.fetch_from = header.next_offset();
            held.buffered += bytes.len();
            self.buffered += bytes.len();
            if held.timestamp.is_none() {
                held.timestamp = Some(header.base_timestamp);
            }
            self.ready.push_back(Fetched::new(wanted, header, bytes, now_ms));
        }
        held.show_lag(now_ms);
    }
}

impl Held {
    /// Moves the position, and drops the batches fetched and requests made before.
    fn start_anew(&mut self, serial: u64, to: Position) {
        self.serial = serial;
        self.answered();
        self.buffered = 0;
        self.timestamp = None;
        self.go_to(to);
    }

    /// Clears the failures after a successful fetch or lookup.
    fn answered(&mut self) {
        self.busy = false;
        self.not_before = None;
        self.failures = 0;
        self.missing_since = None;
        self.trouble = None;
    }

    fn go_to(&mut self, to: Position) {
        self.position = to;
        if let Position::At(offset) = to {
            self.fetch_from = offset;
            self.metrics.position(offset);
        }
    }

    fn commit(&mut self, offset: i64) {
        self.committed = Some(offset);
        self.metrics.committed(offset);
    }
}

#[cfg(test)]
mod tests;
