//! Plans a commit without I/O.
//!
//! The stores read and lock the rows, call [`plan_commit`], and write the result, so that
//! PostgreSQL and SQLite cannot differ. Guarantees: offsets follow the high watermark without a gap
//! and are assigned once; a refused or repeated batch takes no offset and splits the range; a
//! fenced partition changes nothing.

use std::collections::HashMap;

use streamhouse_core::ErrorCode;

use crate::{
    BatchMetadata, BatchOutcome, CommitOutcome, Incarnation, ObjectCommit, PartitionCommit, PartitionOutcome,
    PartitionUid,
    producers::{self, ProducerState},
};

/// The locked row of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct PartitionRow {
    /// The holder as stored. The caller has checked that the committing incarnation is not sealed.
    pub(crate) holder: Option<i64>,
    /// The leader epoch.
    pub(crate) epoch: i32,
    /// The first offset that can be read.
    pub(crate) log_start: i64,
    /// The next offset to assign.
    pub(crate) high_watermark: i64,
    /// Whether its topic is being deleted.
    pub(crate) deleted: bool,
}

/// A range to insert: accepted batches that are consecutive in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewRange {
    pub(crate) partition: PartitionUid,
    pub(crate) base_offset: i64,
    pub(crate) end_offset: i64,
    pub(crate) position: i64,
    pub(crate) length: i64,
    pub(crate) epoch: i32,
    pub(crate) max_timestamp: i64,
}

/// The new high watermark of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HighWatermarkAdvance {
    pub(crate) partition: PartitionUid,
    pub(crate) high_watermark: i64,
    pub(crate) added_bytes: i64,
}

/// The producer states that the commit needs, and later the new ones.
pub(crate) type ProducerStates = HashMap<(PartitionUid, i64), ProducerState>;

/// Everything that the store has to write.
#[derive(Debug, Default)]
pub(crate) struct CommitPlan {
    /// The outcomes in the order of the request.
    pub(crate) partition_outcomes: Vec<PartitionOutcome>,
    /// The ranges in the order of the object, hence in offset order within a partition.
    pub(crate) ranges: Vec<NewRange>,
    /// One entry for each partition with appended batches.
    pub(crate) high_watermarks: Vec<HighWatermarkAdvance>,
    /// One entry for each (partition, producer) with appended batches, in this order.
    pub(crate) producers: Vec<(PartitionUid, i64, ProducerState)>,
}

impl CommitPlan {
    /// Returns the outcome for the caller.
    pub(crate) fn outcome(&self) -> CommitOutcome {
        CommitOutcome {
            partitions: self.partition_outcomes.clone(),
        }
    }
}

/// Returns the (partition, producer) pairs whose states [`plan_commit`] needs.
pub(crate) fn producer_keys(commit: &ObjectCommit) -> Vec<(PartitionUid, i64)> {
    let mut pairs: Vec<_> = commit
        .partitions
        .iter()
        .flat_map(|part| {
            part.batches
                .iter()
                .filter_map(|batch| Some((part.partition, batch.producer?.id)))
        })
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Returns whether [`add_forgotten_producers`] may add a state.
pub(crate) fn lacks_producers(commit: &ObjectCommit, states: &ProducerStates) -> bool {
    producer_keys(commit)
        .into_iter()
        .any(|key| !states.contains_key(&key) && producers::has_known_age(key.1))
}

/// Adds the states of producers without one whose ids are so old that it may have expired.
pub(crate) fn add_forgotten_producers(commit: &ObjectCommit, states: &mut ProducerStates, now_ms: i64) {
    for key in producer_keys(commit) {
        if producers::may_have_expired(key.1, now_ms) {
            states.entry(key).or_insert_with(ProducerState::forgotten);
        }
    }
}

/// Plans a commit of an incarnation that is not sealed. `rows` holds the partitions that exist.
pub(crate) fn plan_commit(
    commit: &ObjectCommit,
    mut rows: HashMap<PartitionUid, PartitionRow>,
    mut producers: ProducerStates,
) -> CommitPlan {
    let mut decision = CommitPlan::default();
    let mut grown: HashMap<PartitionUid, i64> = HashMap::new();
    let mut touched: Vec<(PartitionUid, i64)> = Vec::new();
    for part in &commit.partitions {
        let Some(row) = rows
            .get_mut(&part.partition)
            .filter(|row| is_leader(row, commit.incarnation, part.epoch))
        else {
            decision.partition_outcomes.push(PartitionOutcome::Fenced);
            continue;
        };
        let mut log = PartitionAppender {
            part,
            row,
            producers: &mut producers,
            ranges: &mut decision.ranges,
            is_range_open: false,
        };
        let (batches, added_bytes) = log.append_all(&mut touched);
        if added_bytes > 0 {
            *grown.entry(part.partition).or_default() += added_bytes;
        }
        let (high_watermark, log_start) = (row.high_watermark, row.log_start);
        decision.partition_outcomes.push(PartitionOutcome::Committed {
            batches,
            high_watermark,
            log_start,
        });
    }
    decision.high_watermarks = grown
        .into_iter()
        .filter_map(|(partition, added_bytes)| {
            Some(HighWatermarkAdvance {
                partition,
                high_watermark: rows.get(&partition)?.high_watermark,
                added_bytes,
            })
        })
        .collect();
    decision
        .high_watermarks
        .sort_unstable_by_key(|advance| advance.partition);
    touched.sort_unstable();
    touched.dedup();
    decision.producers = touched
        .into_iter()
        .filter_map(|(partition, id)| Some((partition, id, producers.remove(&(partition, id))?)))
        .collect();
    decision
}

/// Returns whether `incarnation` leads the partition in `epoch`.
fn is_leader(row: &PartitionRow, incarnation: Incarnation, epoch: i32) -> bool {
    !row.deleted && row.holder == Some(incarnation.0) && row.epoch == epoch
}

/// Appends batches to one partition.
struct PartitionAppender<'a> {
    part: &'a PartitionCommit,
    row: &'a mut PartitionRow,
    producers: &'a mut ProducerStates,
    ranges: &'a mut Vec<NewRange>,
    /// Whether the next batch continues the last range of `ranges`.
    is_range_open: bool,
}

impl PartitionAppender<'_> {
    /// Evaluates each batch in order. Returns the outcomes and the number of appended bytes.
    fn append_all(&mut self, touched: &mut Vec<(PartitionUid, i64)>) -> (Vec<BatchOutcome>, i64) {
        let mut position = i64::try_from(self.part.position).unwrap_or(i64::MAX);
        let mut added = 0;
        let mut outcomes = Vec::with_capacity(self.part.batches.len());
        for batch in &self.part.batches {
            let outcome = self.evaluate_batch(batch);
            let length = i64::from(batch.size_bytes);
            if let BatchOutcome::Appended { base_offset } = outcome {
                self.extend_range(batch, base_offset, position, length);
                added += length;
                if let Some(producer) = batch.producer {
                    touched.push((self.part.partition, producer.id));
                }
            } else {
                self.is_range_open = false;
            }
            position = position.saturating_add(length);
            outcomes.push(outcome);
        }
        (outcomes, added)
    }

    fn evaluate_batch(&mut self, batch: &BatchMetadata) -> BatchOutcome {
        let base_offset = self.row.high_watermark;
        if batch.records < 1
            || batch.size_bytes == 0
            || base_offset.checked_add(i64::from(batch.records)).is_none()
        {
            return BatchOutcome::refused(ErrorCode::InvalidRecord);
        }
        let Some(producer) = batch.producer else {
            return BatchOutcome::Appended { base_offset };
        };
        let key = (self.part.partition, producer.id);
        let mut state = self.producers.remove(&key);
        let outcome = producers::evaluate_batch(&mut state, producer, batch.records, base_offset);
        if let Some(state) = state {
            self.producers.insert(key, state);
        }
        outcome
    }

    /// Adds an accepted batch to the open range, or begins a new range.
    fn extend_range(&mut self, batch: &BatchMetadata, base_offset: i64, position: i64, length: i64) {
        let end_offset = base_offset + i64::from(batch.records);
        self.row.high_watermark = end_offset;
        match self.ranges.last_mut().filter(|_| self.is_range_open) {
            Some(range) => {
                range.end_offset = end_offset;
                range.length += length;
                range.max_timestamp = range.max_timestamp.max(batch.max_timestamp);
            }
            None => self.ranges.push(NewRange {
                partition: self.part.partition,
                base_offset,
                end_offset,
                position,
                length,
                epoch: self.part.epoch,
                max_timestamp: batch.max_timestamp,
            }),
        }
        self.is_range_open = true;
    }
}

#[cfg(test)]
mod tests;
