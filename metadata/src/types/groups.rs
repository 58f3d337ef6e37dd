//! Groups, their offsets, and what alerts need to know of them.

use streamhouse_core::PartitionUid;

/// Which groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupQuery {
    /// All of one slot.
    Slot(i32),
    /// All.
    All,
    /// One.
    Id(String),
}

/// A stored group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// Its id.
    pub group_id: String,
    /// Its slot.
    pub slot: i32,
    /// Its generation.
    pub generation: i32,
    /// The coordinator's own bytes (members, protocol, assignments).
    pub state: Vec<u8>,
}

/// A group to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupWrite {
    /// Its id.
    pub group_id: String,
    /// Its slot.
    pub slot: i32,
    /// Its generation; never lower than the stored one.
    pub generation: i32,
    /// `None` deletes the group and its offsets. No bytes (`Some` of nothing) say that the group has no members: only then do
    /// its offsets expire.
    pub state: Option<Vec<u8>>,
}

/// Offsets to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The group.
    pub group_id: String,
    /// Its slot.
    pub slot: i32,
    /// The member's generation, checked; `None` for a consumer without membership and for resets.
    pub generation: Option<i32>,
    /// What to commit.
    pub offsets: Vec<OffsetToCommit>,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition, by its unique id: offsets of a deleted topic never speak for a new one.
    pub partition: PartitionUid,
    /// The next offset to read.
    pub offset: i64,
    /// Of the last record read; -1 when unknown.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: String,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetOutcome {
    /// Stored.
    Committed,
    /// The partition is gone.
    UnknownPartition,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// Its unique id.
    pub uid: PartitionUid,
    /// The next offset to read.
    pub offset: i64,
    /// See [`OffsetToCommit::leader_epoch`].
    pub leader_epoch: i32,
    /// See [`OffsetToCommit::metadata`].
    pub metadata: String,
    /// When.
    pub committed_at_ms: i64,
}

/// How far a group is behind in a topic: sums over the partitions that it has committed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLag {
    /// The group.
    pub group_id: String,
    /// The topic's name.
    pub topic: String,
    /// The committed offsets, added up: it rises while the group gets on.
    pub committed: i64,
    /// Records between what is committed, or the log's start where that is later, and the end.
    pub lag: i64,
}
