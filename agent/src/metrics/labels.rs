//! The labels of the agent's metrics, each from a fixed list. The parts that count name them; [`Metrics`](super::Metrics)
//! turns them into series.

/// Why a WAL object was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// It reached the flush size.
    Full,
    /// The flush interval had passed.
    Interval,
}

impl FlushReason {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Interval => "interval",
        }
    }
}

/// What the oldest WAL object under way waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStage {
    /// Its upload.
    Upload,
    /// Its commit.
    Commit,
}

impl WriteStage {
    /// Every stage.
    pub const ALL: [Self; 2] = [Self::Upload, Self::Commit];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Commit => "commit",
        }
    }
}

/// What memory is held for, beside the queue, the tail and the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryUse {
    /// What reads of older batches put together.
    ColdReads,
    /// Answers to fetches.
    Fetch,
    /// Blocks on their way from the object store.
    InFlight,
    /// The segment that is being written.
    Roll,
}

impl MemoryUse {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ColdReads => "cold_reads",
            Self::Fetch => "fetch",
            Self::InFlight => "in_flight",
            Self::Roll => "roll",
        }
    }
}

/// What a partition of the cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// Records of a topic.
    Topic,
    /// The groups of a coordinator slot.
    Coordinator,
}

impl PartitionKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Why a lease came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// Taken from nobody.
    Taken,
    /// Given to us by another agent, by a new topic, or found to be ours.
    Received,
    /// Given to another agent, to even out.
    Balanced,
    /// Given to another agent because this one stops.
    Drained,
    /// Lost without our doing: another took it, or the topic is gone.
    Lost,
    /// Let go because this life of the agent is over.
    LifeOver,
}

impl LeaseChange {
    pub(super) const ALL: [Self; 6] = [
        Self::Taken,
        Self::Received,
        Self::Balanced,
        Self::Drained,
        Self::Lost,
        Self::LifeOver,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Received => "received",
            Self::Balanced => "balanced",
            Self::Drained => "drained",
            Self::Lost => "lost",
            Self::LifeOver => "life_over",
        }
    }
}

/// The background jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Deletes what nothing references.
    Delete,
    /// Fetches the newest view of the cluster.
    Directory,
    /// Renews the lease.
    Renew,
    /// Moves log starts forward.
    Retention,
    /// Rolls WAL ranges into segments.
    Roll,
    /// Sweeps orphans of lives that are over.
    Sweep,
    /// Marks the bucket with the metadata store's number.
    Timeline,
}

impl Job {
    /// Every job.
    pub const ALL: [Self; 7] = [
        Self::Delete,
        Self::Directory,
        Self::Renew,
        Self::Retention,
        Self::Roll,
        Self::Sweep,
        Self::Timeline,
    ];

    /// The label in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Directory => "directory",
            Self::Renew => "renew",
            Self::Retention => "retention",
            Self::Roll => "roll",
            Self::Sweep => "sweep",
            Self::Timeline => "timeline",
        }
    }
}
