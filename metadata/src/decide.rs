//! Plans a commit without I/O.
//!
//! The stores read and lock the rows, call [`decide`], and write the result, so that PostgreSQL and
//! SQLite cannot differ. Guarantees: offsets follow the high watermark without a gap and are
//! assigned once; a refused or repeated batch takes no offset and splits the range; a fenced
//! partition changes nothing.

use std::collections::HashMap;

use streamhouse_core::ErrorCode;

use crate::{
    BatchMeta, BatchOutcome, CommitOutcome, Incarnation, ObjectCommit, PartitionCommit, PartitionOutcome,
    PartitionUid,
    producers::{self, ProducerState},
};

/// The locked row of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionRow {
    /// The holder as stored. The caller has checked that the committing incarnation is not sealed.
    pub(crate) holder: Option<Incarnation>,
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
pub(crate) struct Advance {
    pub(crate) partition: PartitionUid,
    pub(crate) high_watermark: i64,
    pub(crate) added_bytes: i64,
}

/// The producer states that the commit needs, and later the new ones.
pub(crate) type Producers = HashMap<(PartitionUid, i64), ProducerState>;

/// Everything that the store has to write.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// The outcomes in the order of the request.
    pub(crate) outcome: Vec<PartitionOutcome>,
    /// The ranges in the order of the object, hence in offset order within a partition.
    pub(crate) ranges: Vec<NewRange>,
    /// One entry for each partition with appended batches.
    pub(crate) advances: Vec<Advance>,
    /// One entry for each (partition, producer) with appended batches, in this order.
    pub(crate) producers: Vec<(PartitionUid, i64, ProducerState)>,
}

impl Decision {
    /// Returns the outcome for the caller.
    pub(crate) fn outcome(&self) -> CommitOutcome {
        CommitOutcome {
            partitions: self.outcome.clone(),
        }
    }
}

/// Returns the (partition, producer) pairs whose states [`decide`] needs.
pub(crate) fn producers_of(commit: &ObjectCommit) -> Vec<(PartitionUid, i64)> {
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

/// Plans a commit of an incarnation that is not sealed. `rows` holds the partitions that exist.
pub(crate) fn decide(
    commit: &ObjectCommit,
    mut rows: HashMap<PartitionUid, PartitionRow>,
    mut producers: Producers,
) -> Decision {
    let mut decision = Decision::default();
    let mut grown: HashMap<PartitionUid, i64> = HashMap::new();
    let mut touched: Vec<(PartitionUid, i64)> = Vec::new();
    for part in &commit.partitions {
        let Some(row) = rows
            .get_mut(&part.partition)
            .filter(|row| leads(row, commit.incarnation, part.epoch))
        else {
            decision.outcome.push(PartitionOutcome::Fenced);
            continue;
        };
        let mut log = Log {
            part,
            row,
            producers: &mut producers,
            ranges: &mut decision.ranges,
            open: false,
        };
        let (batches, added_bytes) = log.append_all(&mut touched);
        if added_bytes > 0 {
            *grown.entry(part.partition).or_default() += added_bytes;
        }
        let (high_watermark, log_start) = (row.high_watermark, row.log_start);
        decision.outcome.push(PartitionOutcome::Committed {
            batches,
            high_watermark,
            log_start,
        });
    }
    decision.advances = grown
        .into_iter()
        .filter_map(|(partition, added_bytes)| {
            Some(Advance {
                partition,
                high_watermark: rows.get(&partition)?.high_watermark,
                added_bytes,
            })
        })
        .collect();
    decision
        .advances
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
fn leads(row: &PartitionRow, incarnation: Incarnation, epoch: i32) -> bool {
    !row.deleted && row.holder == Some(incarnation) && row.epoch == epoch
}

/// Appends batches to one partition.
struct Log<'a> {
    part: &'a PartitionCommit,
    row: &'a mut PartitionRow,
    producers: &'a mut Producers,
    ranges: &'a mut Vec<NewRange>,
    /// Whether the next batch continues the last range of `ranges`.
    open: bool,
}

impl Log<'_> {
    /// Evaluates each batch in order. Returns the outcomes and the number of appended bytes.
    fn append_all(&mut self, touched: &mut Vec<(PartitionUid, i64)>) -> (Vec<BatchOutcome>, i64) {
        let mut position = i64::try_from(self.part.position).unwrap_or(i64::MAX);
        let mut added = 0;
        let mut outcomes = Vec::with_capacity(self.part.batches.len());
        for batch in &self.part.batches {
            let outcome = self.judge(batch);
            let length = i64::from(batch.size_bytes);
            if let BatchOutcome::Appended { base_offset } = outcome {
                self.extend(batch, base_offset, position, length);
                added += length;
                if let Some(producer) = batch.producer {
                    touched.push((self.part.partition, producer.id));
                }
            } else {
                self.open = false;
            }
            position = position.saturating_add(length);
            outcomes.push(outcome);
        }
        (outcomes, added)
    }

    fn judge(&mut self, batch: &BatchMeta) -> BatchOutcome {
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
        let outcome = producers::judge(&mut state, producer, batch.records, base_offset);
        if let Some(state) = state {
            self.producers.insert(key, state);
        }
        outcome
    }

    /// Adds an accepted batch to the open range, or begins a new range.
    fn extend(&mut self, batch: &BatchMeta, base_offset: i64, position: i64, length: i64) {
        let end_offset = base_offset + i64::from(batch.records);
        self.row.high_watermark = end_offset;
        match self.ranges.last_mut().filter(|_| self.open) {
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
        self.open = true;
    }
}

#[cfg(test)]
mod tests;
