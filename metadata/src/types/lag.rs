//! What alerts need to know of groups, also of those that nobody is in any more.

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
