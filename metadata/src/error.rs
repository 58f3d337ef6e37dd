//! The errors of metadata transactions and the [`ErrorCode`] that clients receive for them.

use streamhouse_core::{Error as WireError, ErrorCode, Incarnation, PartitionUid};

/// The result of a metadata transaction.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a transaction failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store does not answer or answered too late. The call may be repeated.
    #[error("the metadata store does not answer: {0}")]
    Unavailable(String),
    /// The address of the store is invalid; the message names the problem.
    #[error("{0}")]
    InvalidAddress(String),
    /// This build does not run on the version of the schema.
    #[error("{0}")]
    SchemaMismatch(String),
    /// A live agent does not run on the schema version to migrate to.
    #[error("{0}")]
    MigrationBlocked(String),
    /// The incarnation is sealed.
    #[error("incarnation {0} is sealed: the agent registered again, or its lease expired")]
    Sealed(Incarnation),
    /// The incarnation is not sealed or unknown.
    #[error("incarnation {0} is not sealed")]
    NotSealed(Incarnation),
    /// The lease is held by another agent or in another epoch.
    #[error("the lease of partition {0} is held by another agent or in another epoch")]
    Fenced(PartitionUid),
    /// The topic does not exist.
    #[error("topic {0:?} does not exist")]
    UnknownTopic(String),
    /// The partition does not exist, or its topic is being deleted.
    #[error("partition {0} does not exist")]
    UnknownPartition(PartitionUid),
    /// A topic of this name exists.
    #[error("topic {0:?} already exists")]
    TopicAlreadyExists(String),
    /// The number of partitions is invalid.
    #[error("{0}")]
    InvalidPartitions(String),
    /// The member belongs to another generation.
    #[error("generation {given} is not the group's generation {stored}")]
    IllegalGeneration {
        /// The generation of the caller.
        given: i32,
        /// The generation in the store.
        stored: i32,
    },
    /// Another copy of this store wrote to the bucket, or this store lost commits.
    #[error(
        "the metadata store is older than the bucket: another copy of it wrote to the bucket, or it lost its last commits; stop all \
         agents and run `streamhouse-agent recover` to see what is lost"
    )]
    Diverged,
    /// The store is in use.
    #[error("agent {0:?} holds its lease: stop the agents, or wait until their leases expire")]
    AgentHoldsLease(String),
    /// The segment does not match its intent or the offsets of the log.
    #[error("the segment does not match the log: {0}")]
    SegmentConflict(String),
    /// The object cannot be committed, and the outcome of its first commit is no longer stored,
    /// because it or a later object of the incarnation was deleted as garbage. Its records may be
    /// in the log.
    #[error(
        "the outcome of the commit of {0} is no longer stored, because this or a later object was deleted as garbage; send the records again"
    )]
    OutcomeExpired(String),
    /// A user, an ACL or a quota is malformed, or named twice. The message has no keys.
    #[error("{0}")]
    InvalidSecurityChange(String),
    /// There would be too many users, ACLs or quotas.
    #[error("{0}")]
    SecurityLimit(String),
    /// A user or a quota is managed by another owner, or was made by hand and may not be adopted.
    #[error("{what} {}", describe_owner(owner))]
    OwnerConflict {
        /// The user or the quota.
        what: String,
        /// The owner; empty if it was made by hand.
        owner: String,
    },
    /// A row cannot be interpreted, or a bug; the message says what and where.
    #[error("unexpected state in the metadata store: {0}")]
    Inconsistent(String),
}

impl Error {
    /// Returns the code that clients receive.
    pub fn code(&self) -> ErrorCode {
        match self {
            // Both leave the outcome open: the retry of an idempotent producer resolves it.
            Self::Unavailable(_) | Self::OutcomeExpired(_) => ErrorCode::MetadataUnavailable,
            Self::InvalidAddress(_)
            | Self::SchemaMismatch(_)
            | Self::MigrationBlocked(_)
            | Self::Inconsistent(_)
            | Self::SegmentConflict(_)
            | Self::NotSealed(_)
            | Self::Diverged
            | Self::AgentHoldsLease(_) => ErrorCode::Unknown,
            Self::Sealed(_) | Self::Fenced(_) => ErrorCode::NotLeader,
            Self::UnknownTopic(_) | Self::UnknownPartition(_) => ErrorCode::UnknownTopicOrPartition,
            Self::TopicAlreadyExists(_) => ErrorCode::TopicAlreadyExists,
            Self::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            Self::InvalidSecurityChange(_) => ErrorCode::InvalidRequest,
            Self::SecurityLimit(_) | Self::OwnerConflict { .. } => ErrorCode::PolicyViolation,
            Self::IllegalGeneration { .. } => ErrorCode::IllegalGeneration,
        }
    }
}

fn describe_owner(owner: &str) -> String {
    if owner.is_empty() {
        "was made by hand: delete it, or let it be adopted".to_owned()
    } else {
        format!("is managed by {owner}: choose another name, or delete that one")
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
