//! Rows of `partitions`, and the check of a lease.

use uuid::Uuid;

use crate::{Error, Lease, LogBounds, Result};

/// The bounds of a partition's log.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub(crate) struct BoundsRow {
    pub(crate) log_start: i64,
    pub(crate) rolled: i64,
    pub(crate) high_watermark: i64,
    pub(crate) size_bytes: i64,
}

impl From<BoundsRow> for LogBounds {
    fn from(row: BoundsRow) -> Self {
        Self {
            log_start: row.log_start,
            rolled: row.rolled,
            high_watermark: row.high_watermark,
            size_bytes: row.size_bytes,
        }
    }
}

/// The locked row of a partition with its topic.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct LeasedPartitionRow {
    pub(crate) holder: Option<i64>,
    pub(crate) epoch: i32,
    pub(crate) deleted: bool,
    #[sqlx(flatten)]
    pub(crate) bounds: BoundsRow,
    pub(crate) partition: i32,
    pub(crate) topic_id: Uuid,
    #[sqlx(rename = "name")]
    pub(crate) topic: String,
    pub(crate) folder: String,
}

/// Checks that `lease` is in force. `sealed` is `None` if the incarnation is unknown.
pub(crate) fn check_lease(
    lease: Lease,
    sealed: Option<bool>,
    row: Option<LeasedPartitionRow>,
) -> Result<LeasedPartitionRow> {
    if sealed != Some(false) {
        return Err(Error::Sealed(lease.incarnation));
    }
    let row = row
        .filter(|row| !row.deleted)
        .ok_or(Error::UnknownPartition(lease.partition))?;
    if row.holder != Some(lease.incarnation.0) || row.epoch != lease.epoch {
        return Err(Error::Fenced(lease.partition));
    }
    Ok(row)
}
