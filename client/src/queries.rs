//! Read-only queries that [`Admin`](crate::Admin) and [`Consumer`](crate::Consumer) share: offsets
//! of partitions, committed offsets of groups, lists of topics. All are retried until a deadline.

mod committed;
mod offsets;
mod topics;

use serde::Serialize;

pub(crate) use self::{
    committed::{fetch_offsets, fetch_offsets_each},
    offsets::{list_offsets, list_offsets_each},
    topics::list_topics,
};

/// Offset to look up, see [`Admin::list_offsets`](crate::Admin::list_offsets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// Offset of the oldest record.
    Earliest,
    /// Offset after the newest record.
    Latest,
    /// Offset of the first record with this timestamp or a later one, in milliseconds since the
    /// Unix epoch; the high watermark if there is none.
    Timestamp(i64),
}

/// Result of an offset lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartitionOffset {
    /// The offset.
    pub offset: i64,
    /// Timestamp of the record at that offset; -1 if the lookup was not by timestamp or found no
    /// record.
    pub timestamp_ms: i64,
}

/// A group's committed offset for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct CommittedOffset {
    /// Offset of the next record to read.
    pub offset: i64,
    /// Metadata that was committed with the offset.
    pub metadata: String,
    /// Time of the commit, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
}
