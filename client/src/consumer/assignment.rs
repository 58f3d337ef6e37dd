//! [`AssignmentState`]: the assigned partitions, the position in each, and the batches fetched
//! ahead. Pure state behind the consumer's lock: the fetcher fills it, `poll` drains it, seeks and
//! rebalances change it.
//!
//! Each partition has a serial that changes with every assignment and seek. Answers to requests
//! with an older serial are dropped, so that no record from before is ever returned.

mod errors;
mod lag;
mod pending_on_assigned;
mod ready;
mod topics;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use streamhouse_core::{TopicPartition, batch::BatchHeader};
use tokio::time::Instant;

use self::{errors::PartitionErrorState, topics::SubscribedTopics};
pub(super) use self::{
    ready::{FetchedBatch, SkippedRange},
    topics::{TopicObservation, TopicRecreation},
};
use super::ConsumerStats;
use crate::{
    error::{Error, Result},
    metrics::{ConsumerMetrics, ConsumerPartitionMetrics},
    queries::OffsetSpec,
};

/// Position to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchPosition {
    /// The group's committed offset, if there is one.
    Committed,
    /// An offset that must be looked up.
    Lookup(OffsetSpec),
    /// This offset.
    At(i64),
}

/// State of an assigned partition.
#[derive(Debug)]
struct AssignedPartition {
    topic: Arc<str>,
    serial: u64,
    position: FetchPosition,
    /// Id of the topic that is read, empty while it is not known. Its offsets are meaningless for
    /// another topic of the same name.
    topic_id: Arc<str>,
    /// An agent has answered a request with this topic id, so the position belongs to that topic.
    confirmed: bool,
    /// Id of the previous topic of this name, if it was read.
    former_topic_id: Option<Arc<str>>,
    /// The next offset to fetch, once the position is known.
    fetch_from: i64,
    /// A fetch or lookup is in flight.
    in_flight: bool,
    paused: bool,
    /// Fetching waits for the `on_assigned` callback to complete.
    pending_on_assigned: bool,
    not_before: Option<Instant>,
    /// Number of consecutive failed fetches and lookups.
    failures: u32,
    missing_since: Option<Instant>,
    error_state: Option<PartitionErrorState>,
    buffered: usize,
    high_watermark: Option<i64>,
    /// Time of the last request for the end without a fetch.
    end_requested_at: Option<Instant>,
    /// Timestamp of a record at or shortly before the position.
    timestamp: Option<i64>,
    committed: Option<i64>,
    metrics: Arc<ConsumerPartitionMetrics>,
}

/// A request to make: a fetch or a lookup of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionRequest {
    pub(super) key: TopicPartition,
    pub(super) serial: u64,
    pub(super) position: FetchPosition,
    /// Empty while it is not known.
    pub(super) topic_id: Arc<str>,
}

/// All assigned partitions of a consumer.
#[derive(Debug, Default)]
pub(super) struct AssignmentState {
    assigned: BTreeMap<TopicPartition, AssignedPartition>,
    ready: VecDeque<FetchedBatch>,
    buffered: usize,
    next_serial: u64,
    topics: SubscribedTopics,
    /// Whether any partition may have an error; avoids scanning them in every poll.
    may_have_errors: bool,
    /// Time after which `poll` may repeat an error.
    repeat_errors_at: Option<Instant>,
    stats: ConsumerStats,
}

impl AssignmentState {
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.assigned.keys().cloned().collect()
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
            let serial = self.allocate_serial();
            self.assigned
                .entry(key.clone())
                .or_insert_with(|| AssignedPartition {
                    topic: key.topic.as_str().into(),
                    serial,
                    position: FetchPosition::Committed,
                    topic_id: Arc::from(""),
                    confirmed: false,
                    former_topic_id: None,
                    fetch_from: 0,
                    in_flight: false,
                    paused: false,
                    pending_on_assigned: false,
                    not_before: None,
                    failures: 0,
                    missing_since: None,
                    error_state: None,
                    buffered: 0,
                    high_watermark: None,
                    end_requested_at: None,
                    timestamp: None,
                    committed: None,
                    metrics: metrics.for_partition(&key.topic, key.partition),
                });
        }
    }

    /// Removes partitions and the batches fetched of them.
    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.assigned.remove(key);
        }
        self.drop_stale();
    }

    fn allocate_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn drop_stale(&mut self) {
        let held = &self.assigned;
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

    fn get(&self, key: &TopicPartition) -> Result<&AssignedPartition> {
        self.assigned.get(key).ok_or_else(|| Error::NotAssigned {
            partition: key.clone(),
        })
    }

    fn get_current(&mut self, key: &TopicPartition, serial: u64) -> Option<&mut AssignedPartition> {
        self.assigned.get_mut(key).filter(|held| held.serial == serial)
    }

    /// Moves the position of a partition.
    pub(super) fn seek(&mut self, key: &TopicPartition, to: FetchPosition) -> Result<()> {
        let serial = self.allocate_serial();
        let held = self.assigned.get_mut(key).ok_or_else(|| Error::NotAssigned {
            partition: key.clone(),
        })?;
        held.restart_at(serial, to);
        // A seek refers to the topic that has the name now.
        held.topic_id = Arc::from("");
        held.confirmed = false;
        self.drop_stale();
        Ok(())
    }

    /// Returns the next offset that `poll` returns; `None` while it is not known.
    pub(super) fn position(&self, key: &TopicPartition) -> Result<Option<i64>> {
        let held = self.get(key)?;
        match (held.position, &held.error_state) {
            (FetchPosition::At(offset), _) => Ok(Some(offset)),
            (_, Some(trouble)) => Err(trouble.error().clone()),
            _ => Ok(None),
        }
    }

    pub(super) fn pause(&mut self, key: &TopicPartition, paused: bool) -> Result<()> {
        self.get(key)?;
        if let Some(held) = self.assigned.get_mut(key) {
            held.paused = paused;
        }
        Ok(())
    }

    pub(super) fn paused(&self) -> Vec<TopicPartition> {
        self.assigned
            .iter()
            .filter(|(_, held)| held.paused)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Returns the positions that are not committed.
    pub(super) fn uncommitted(&self) -> BTreeMap<TopicPartition, i64> {
        let uncommitted = |(key, held): (&TopicPartition, &AssignedPartition)| match held.position {
            FetchPosition::At(offset) if held.committed != Some(offset) => Some((key.clone(), offset)),
            _ => None,
        };
        self.assigned.iter().filter_map(uncommitted).collect()
    }

    pub(super) fn mark_committed(&mut self, key: &TopicPartition, offset: i64) {
        if let Some(held) = self.assigned.get_mut(key) {
            held.set_committed(offset);
        }
    }

    /// Returns the partitions whose position must be looked up, and marks them as busy until
    /// [`AssignmentState::complete_lookup`] or [`AssignmentState::failed`].
    pub(super) fn take_lookups(&mut self, now: Instant) -> Vec<PartitionRequest> {
        self.take_requests(now, |held| !matches!(held.position, FetchPosition::At(_)))
    }

    /// Returns the partitions to fetch, without those that have `most` bytes buffered, and marks
    /// them as busy until answered.
    pub(super) fn take_fetches(&mut self, now: Instant, most: usize) -> Vec<PartitionRequest> {
        let mut wanted = self.take_requests(now, |held| {
            matches!(held.position, FetchPosition::At(_))
                && !held.paused
                && !held.pending_on_assigned
                && held.buffered < most
        });
        for fetch in &mut wanted {
            if let Some(held) = self.assigned.get(&fetch.key) {
                fetch.position = FetchPosition::At(held.fetch_from);
            }
        }
        wanted
    }

    fn take_requests(
        &mut self,
        now: Instant,
        is_wanted: impl Fn(&AssignedPartition) -> bool,
    ) -> Vec<PartitionRequest> {
        let mut wanted = Vec::new();
        for (key, held) in &mut self.assigned {
            let stands = held
                .error_state
                .as_ref()
                .is_some_and(PartitionErrorState::is_final);
            let free = !held.in_flight && !stands && held.not_before.is_none_or(|at| at <= now);
            if free && is_wanted(held) {
                held.in_flight = true;
                wanted.push(PartitionRequest {
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
        self.assigned
            .values()
            .filter(|held| !held.in_flight)
            .filter_map(|held| held.not_before)
            .filter(|at| *at > now)
            .min()
    }

    /// Completes a lookup: the position was found, or another lookup is needed.
    pub(super) fn complete_lookup(
        &mut self,
        wanted: &PartitionRequest,
        position: FetchPosition,
        committed: Option<i64>,
    ) {
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.clear_failures();
            held.confirmed |= matches!(position, FetchPosition::At(_)) && !wanted.topic_id.is_empty();
            if let Some(offset) = committed {
                held.set_committed(offset);
            }
            held.set_position(position);
        }
    }

    /// Schedules a fetch or lookup again, not before `not_before` if given.
    pub(super) fn retry_after(&mut self, wanted: &PartitionRequest, not_before: Option<Instant>) {
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.in_flight = false;
            held.not_before = not_before;
        }
    }

    /// Updates the end of a partition without records, so that its lag is reported even while it
    /// cannot be read.
    pub(super) fn update_end(&mut self, wanted: &PartitionRequest, high_watermark: i64, now_ms: i64) {
        if let Some(held) = self.get_current(&wanted.key, wanted.serial) {
            held.high_watermark = Some(high_watermark);
            held.report_lag(now_ms);
        }
    }

    /// Adds fetched batches and updates the end of the partition.
    pub(super) fn add_fetched(
        &mut self,
        wanted: &PartitionRequest,
        batches: Vec<(BatchHeader, Bytes)>,
        high_watermark: i64,
        now_ms: i64,
    ) {
        let Some(held) = self
            .assigned
            .get_mut(&wanted.key)
            .filter(|held| held.serial == wanted.serial)
        else {
            return;
        };
        held.clear_failures();
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
            self.ready
                .push_back(FetchedBatch::new(wanted, header, bytes, now_ms));
        }
        held.report_lag(now_ms);
    }
}

impl AssignedPartition {
    /// Moves the position, and drops the batches fetched and requests made before.
    fn restart_at(&mut self, serial: u64, to: FetchPosition) {
        self.serial = serial;
        self.clear_failures();
        self.buffered = 0;
        self.timestamp = None;
        self.set_position(to);
    }

    /// Clears the failures after a successful fetch or lookup.
    fn clear_failures(&mut self) {
        self.in_flight = false;
        self.not_before = None;
        self.failures = 0;
        self.missing_since = None;
        self.error_state = None;
    }

    fn set_position(&mut self, to: FetchPosition) {
        self.position = to;
        if let FetchPosition::At(offset) = to {
            self.fetch_from = offset;
            self.metrics.set_position(offset);
        }
    }

    fn set_committed(&mut self, offset: i64) {
        self.committed = Some(offset);
        self.metrics.set_committed(offset);
    }
}

#[cfg(test)]
mod tests;
