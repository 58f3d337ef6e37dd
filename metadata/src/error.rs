//! What a metadata transaction can fail with, and the [`ErrorCode`] that clients see for it.

use streamhouse_core::{Error as WireError, ErrorCode, Incarnation, PartitionUid};

/// The result of a metadata transaction.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a transaction did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store does not answer, or answered too late; the same call may be repeated.
    #[error("the metadata store does not answer: {0}")]
    Unavailable(String),
    /// The store's address cannot be used: says what is wrong with it.
    #[error("{0}")]
    Address(String),
    /// The schema is not the one this build needs.
    #[error("{0}")]
    Schema(String),
    /// The incarnation's life is over.
    #[error("incarnation {0} is sealed: another life of this agent began, or its lease expired")]
    Sealed(Incarnation),
    /// The incarnation still lives.
    #[error("incarnation {0} is not sealed")]
    NotSealed(Incarnation),
    /// The lease is another's by now.
    #[error("the lease of partition {0} is held by another agent or in another epoch")]
    Fenced(PartitionUid),
    /// There is no such topic.
    #[error("there is no topic {0:?}")]
    UnknownTopic(String),
    /// There is no such partition, or its topic is being deleted.
    #[error("partition {0} is gone")]
    UnknownPartition(PartitionUid),
    /// The name is taken.
    #[error("there is a topic {0:?} already")]
    TopicAlreadyExists(String),
    /// The partition count is not possible.
    #[error("{0}")]
    InvalidPartitions(String),
    /// The member speaks for an old generation.
    #[error("generation {given} is not the group's generation {stored}")]
    IllegalGeneration {
        /// What the caller said.
        given: i32,
        /// What the store says.
        stored: i32,
    },
    /// Another copy of this store went on without it, or it lacks commits that it made before.
    #[error(
        "the metadata store is older than the bucket: another copy of it has written there, or it lost its last commits; stop the \
         agents, and see what is lost with `streamhouse-agent recover`"
    )]
    Diverged,
    /// The store is in use.
    #[error("agent {0:?} holds its lease: stop the agents, or wait until their leases expire")]
    AgentLives(String),
    /// The intent or the offsets do not fit what is stored.
    #[error("the segment does not fit the log: {0}")]
    SegmentConflict(String),
    /// The object cannot be committed any more, and whether it was is not known: it, or a later one of its life, was deleted
    /// as garbage. Its records may be in the log.
    #[error(
        "whether {0} was committed is not known any more: it, or a later object, was deleted as garbage; send the records again"
    )]
    Forgotten(String),
    /// A row that the code cannot make sense of, or a bug: says what and where.
    #[error("unexpected state in the metadata store: {0}")]
    Inconsistent(String),
}

impl Error {
    /// The code that clients see.
    pub fn code(&self) -> ErrorCode {
        match self {
            // Both leave the outcome open: an idempotent producer's retry settles it.
            Self::Unavailable(_) | Self::Forgotten(_) => ErrorCode::MetadataUnavailable,
            Self::Address(_)
            | Self::Schema(_)
            | Self::Inconsistent(_)
            | Self::SegmentConflict(_)
            | Self::NotSealed(_)
            | Self::Diverged
            | Self::AgentLives(_) => ErrorCode::Unknown,
            Self::Sealed(_) | Self::Fenced(_) => ErrorCode::NotLeader,
            Self::UnknownTopic(_) | Self::UnknownPartition(_) => ErrorCode::UnknownTopicOrPartition,
            Self::TopicAlreadyExists(_) => ErrorCode::TopicAlreadyExists,
            Self::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
            Self::IllegalGeneration { .. } => ErrorCode::IllegalGeneration,
        }
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
