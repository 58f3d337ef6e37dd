//! Consumer groups, their committed offsets and their lag.

use streamhouse_core::PartitionUid;

/// Selects groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupQuery {
    /// All groups of one coordinator slot.
    Slot(i32),
    /// All groups.
    All,
    /// The group with this id.
    Id(String),
}

/// A stored group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistedGroup {
    /// The id of the group.
    pub group_id: String,
    /// Its coordinator slot.
    pub slot: i32,
    /// Its generation.
    pub generation: i32,
    /// The coordinator's encoded state (members, protocol, assignments).
    pub state: Vec<u8>,
}

/// A group to store or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupWrite {
    /// The id of the group.
    pub group_id: String,
    /// Its coordinator slot.
    pub slot: i32,
    /// Its generation; never lower than the stored one.
    pub generation: i32,
    /// The encoded state; `None` deletes the group and its offsets.
    pub state: Option<Vec<u8>>,
    /// Whether the group has members: only without do its offsets expire.
    pub has_members: bool,
}

/// Offsets to commit for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The id of the group.
    pub group_id: String,
    /// Its coordinator slot.
    pub slot: i32,
    /// The member's generation, which is checked; `None` for a consumer without membership and for
    /// resets.
    pub generation: Option<i32>,
    /// The offsets to commit.
    pub offsets: Vec<OffsetToCommit>,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The partition by its unique id, so that offsets of a deleted topic never apply to a new one.
    pub partition: PartitionUid,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read; -1 when unknown.
    pub leader_epoch: i32,
    /// Text that the client attaches to the offset.
    pub metadata: String,
}

/// The outcome of the commit of one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetCommitOutcome {
    /// The offset was stored.
    Committed,
    /// The partition does not exist.
    UnknownPartition,
}

/// Committed offsets to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetDeletion {
    /// The id of the group.
    pub group_id: String,
    /// Its coordinator slot.
    pub slot: i32,
    /// The partitions whose offsets are deleted.
    pub partitions: Vec<PartitionUid>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The name of the topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: i32,
    /// The unique id of the partition.
    pub uid: PartitionUid,
    /// The next offset to read.
    pub offset: i64,
    /// See [`OffsetToCommit::leader_epoch`].
    pub leader_epoch: i32,
    /// See [`OffsetToCommit::metadata`].
    pub metadata: String,
    /// The time of the commit.
    pub committed_at_ms: i64,
}

/// The lag of a group in a topic: sums over the partitions for which the group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLag {
    /// The id of the group.
    pub group_id: String,
    /// The name of the topic.
    pub topic: String,
    /// The sum of the committed offsets; rises while the group makes progress.
    pub committed: i64,
    /// The number of records between the committed offset, or the log start if that is later, and
    /// the high watermark.
    pub lag: i64,
}
