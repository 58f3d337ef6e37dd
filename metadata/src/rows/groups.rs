//! Rows of `consumer_groups` and `consumer_offsets`.

use super::LeasedPartitionRow;
use crate::{
    CommittedOffset, Error, GROUP_SLOT_TOPIC, GroupLag, Lease, OffsetCommitOutcome, PartitionUid,
    PersistedGroup, Result,
};

/// Checks that the lease is that of the coordinator slot `slot`.
pub(crate) fn check_slot(lease: Lease, row: &LeasedPartitionRow, slot: i32) -> Result<()> {
    if row.topic != GROUP_SLOT_TOPIC || row.partition != slot {
        return Err(Error::Fenced(lease.partition));
    }
    Ok(())
}

/// The group id, slot, generation and state of a group.
pub(crate) type GroupColumns = (String, i32, i32, Vec<u8>);

/// Converts the columns of a group.
pub(crate) fn persisted_group((group_id, slot, generation, state): GroupColumns) -> PersistedGroup {
    PersistedGroup {
        group_id,
        slot,
        generation,
        state,
    }
}

/// Checks that a group is not stored in a later generation than `given`.
pub(crate) fn check_put_generation(given: i32, stored: Option<i32>) -> Result<()> {
    match stored {
        Some(stored) if given < stored => Err(Error::IllegalGeneration { given, stored }),
        _ => Ok(()),
    }
}

/// Checks that a group is stored in the generation `given`, if the committer names one.
pub(crate) fn check_commit_generation(given: Option<i32>, stored: Option<i32>) -> Result<()> {
    match given {
        Some(given) if stored != Some(given) => Err(Error::IllegalGeneration {
            given,
            stored: stored.unwrap_or(-1),
        }),
        _ => Ok(()),
    }
}

/// Returns the outcome for an offset; it was written if its partition exists.
pub(crate) fn offset_outcome(written: bool) -> OffsetCommitOutcome {
    if written {
        OffsetCommitOutcome::Committed
    } else {
        OffsetCommitOutcome::UnknownPartition
    }
}

/// A committed offset with its topic and partition.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct CommittedOffsetRow {
    name: String,
    partition: i32,
    id: i64,
    committed_offset: i64,
    leader_epoch: i32,
    metadata: String,
    committed_at: i64,
}

impl From<CommittedOffsetRow> for CommittedOffset {
    fn from(row: CommittedOffsetRow) -> Self {
        Self {
            topic: row.name,
            partition: row.partition,
            uid: PartitionUid(row.id),
            offset: row.committed_offset,
            leader_epoch: row.leader_epoch,
            metadata: row.metadata,
            committed_at_ms: row.committed_at,
        }
    }
}

/// Converts a row with the sums of a group in a topic.
pub(crate) fn group_lag((group_id, topic, committed, lag): (String, String, i64, i64)) -> GroupLag {
    GroupLag {
        group_id,
        topic,
        committed,
        lag,
    }
}
