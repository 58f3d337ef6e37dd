//! The label values of the agent's metrics, each from a fixed list. Components pass them to
//! [`AgentMetrics`](super::AgentMetrics), which turns them into series.

/// Why a WAL object was flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushReason {
    /// It reached the flush size.
    Full,
    /// The flush interval passed.
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

/// The stage of the oldest WAL object under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStage {
    /// The object is being uploaded.
    Upload,
    /// The object is being committed.
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

/// What memory is used for, besides the produce queue, the tail cache and the block cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryUse {
    /// Buffers of reads of older batches.
    ColdReads,
    /// Responses to fetches.
    Fetch,
    /// Blocks being read from the object store.
    InFlight,
    /// The segment that is being rolled.
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

/// The kind of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// Holds records of a topic.
    Topic,
    /// A coordinator slot.
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

/// Why a lease was gained or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// Taken while unowned.
    Taken,
    /// Received from another agent, with a new topic, or found assigned in the snapshot.
    Received,
    /// Handed over to another agent for balance.
    Balanced,
    /// Handed over to another agent because this one drains.
    Drained,
    /// Lost: taken by another agent, or the topic was deleted.
    Lost,
    /// Given up because this incarnation ended.
    IncarnationEnded,
}

impl LeaseChange {
    pub(super) const ALL: [Self; 6] = [
        Self::Taken,
        Self::Received,
        Self::Balanced,
        Self::Drained,
        Self::Lost,
        Self::IncarnationEnded,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Received => "received",
            Self::Balanced => "balanced",
            Self::Drained => "drained",
            Self::Lost => "lost",
            Self::IncarnationEnded => "life_over",
        }
    }
}

/// The background jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackgroundJob {
    /// Deletes unreferenced objects.
    Delete,
    /// Refreshes the directory from the metadata store.
    Directory,
    /// Renews the lease.
    Renew,
    /// Moves log start offsets forward.
    Retention,
    /// Rolls WAL ranges into segments.
    Roll,
    /// Sweeps orphans of ended incarnations.
    Sweep,
    /// Marks the bucket with the position on the timeline.
    Timeline,
}

impl BackgroundJob {
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

/// Why a frame of a Kafka client was refused, which ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameRefusal {
    /// Its length is negative: the client does not speak this protocol.
    InvalidLength,
    /// It is larger than `max-request-bytes` allows.
    TooLarge,
    /// Its header or its body cannot be decoded.
    Malformed,
    /// It asks for an API that is not served.
    UnknownApi,
    /// It is of a version that is not served.
    UnsupportedVersion,
}

impl FrameRefusal {
    pub(super) const ALL: [Self; 5] = [
        Self::InvalidLength,
        Self::TooLarge,
        Self::Malformed,
        Self::UnknownApi,
        Self::UnsupportedVersion,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::InvalidLength => "invalid_length",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::UnknownApi => "unknown_api",
            Self::UnsupportedVersion => "unsupported_version",
        }
    }
}
