//! [`Error`]: the failures of this library's calls.
//!
//! An error is either the cluster's (an [`ErrorCode`] with its message) or the client's own.
//! Conditions that a program may handle differently have their own variants. [`Error::code`] and
//! [`Error::is_retryable`] always agree. Errors are cheap to clone, because one failed batch fails
//! many records.

use std::{borrow::Cow, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition};

/// Result of this library's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a call. Its message says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster rejected or failed the request.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// The call did not complete within its time limit.
    #[error("{what} took longer than {waited:?}{}", last.as_ref().map(|e| format!("; the last try failed with {e}")).unwrap_or_default())]
    Timeout {
        /// The operation that was waited for.
        what: Cow<'static, str>,
        /// The time limit.
        waited: Duration,
        /// The last failure that was retried, if there was one.
        last: Option<ClusterError>,
    },
    /// The producer, consumer or client was closed. For a delivery: the record was not sent and is
    /// not stored.
    #[error("the producer, consumer or client is closed; build a new one")]
    Closed,
    /// The topic's metadata is not cached yet, and the call does not wait for it.
    #[error("the metadata of topic {topic:?} is not cached yet; call topic() first, or retry")]
    TopicNotKnown {
        /// Name of the topic.
        topic: String,
    },
    /// The call needs a consumer group, but the consumer has none.
    #[error("{what} needs a consumer group; set group")]
    NoGroup {
        /// The operation that needs a group.
        what: Cow<'static, str>,
    },
    /// The consumer is not a member of its group: it has not joined yet, or a rebalance removed it.
    /// The next `poll` joins again; by then, another member may own the partitions that this one
    /// has read.
    #[error("the consumer is not a member of its group; poll to join")]
    NotMember,
    /// The producer has ended without being closed: its task panicked, or the tokio runtime it was
    /// built in has ended. Records it had not sent are not stored.
    #[error("the producer has ended: {reason}; build a new one")]
    ProducerEnded {
        /// Reason for the end.
        reason: Cow<'static, str>,
    },
    /// An attempt to send the record was not answered, and there will be no further attempt: the
    /// record may or may not be stored.
    #[error("it is unknown whether the record is stored: {reason}")]
    OutcomeUnknown {
        /// Why there is no answer.
        reason: Cow<'static, str>,
    },
    /// The producer's buffer had no room: at once (`try_send`), or for as long as `max_block`.
    #[error("the producer's buffer is full; send slower, or raise buffer_memory or max_block")]
    BufferFull,
    /// A setting is invalid, alone or in combination with others.
    #[error("{0}")]
    Config(String),
    /// The record does not fit into one request.
    #[error(
        "the record takes {size} bytes, more than the {limit} allowed; make it smaller, or raise max_request_size (bytes as \
         they are sent) or buffer_memory (bytes before compression)"
    )]
    RecordTooLarge {
        /// Size of the record, encoded; compressed if `limit` is a limit on compressed bytes.
        size: usize,
        /// The limit that it exceeds, in bytes.
        limit: usize,
    },
    /// The partition has no committed offset, or its committed offset is out of range, and
    /// `auto_offset_reset` is [`AutoOffsetReset::None`](crate::AutoOffsetReset::None).
    #[error(
        "{partition} has no valid committed offset and auto_offset_reset is none; seek or commit an offset"
    )]
    NoOffset {
        /// The partition.
        partition: TopicPartition,
    },
    /// The consumer does not own the partition, or owns it no longer.
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        partition: TopicPartition,
    },
    /// The fetched bytes of a partition are damaged. The consumer reads no further there until
    /// `seek` moves past them.
    #[error(
        "{partition} holds damaged records at offsets {offset}..{next_offset}: {reason}; seek past them to continue, or set \
         skip_damaged_batches"
    )]
    Corrupt {
        /// The partition.
        partition: TopicPartition,
        /// Offset at which reading stopped.
        offset: i64,
        /// Offset after the damaged records.
        next_offset: i64,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// Records of a partition cannot be fetched: they are damaged in the store, or their object is
    /// missing. The consumer retries from time to time, and `seek` moves past them; other
    /// partitions are not affected.
    #[error("cannot read {partition} at offset {offset}: {error}; repair it, or seek past it{} to continue",
        next_offset.map_or_else(String::new, |next| format!(" to {next}")))]
    Unreadable {
        /// The partition.
        partition: TopicPartition,
        /// Offset at which reading stopped.
        offset: i64,
        /// Offset after the unreadable records, if the agent knows it.
        next_offset: Option<i64>,
        /// The agent's error; it names the records and their object.
        error: Box<ClusterError>,
    },
    /// The call is invalid in the current state.
    #[error("{0}")]
    State(Cow<'static, str>),
}

impl Error {
    /// Returns the nearest [`ErrorCode`]. It is retryable if and only if the error is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Cluster(error) => error.code(),
            Self::Timeout { .. } => ErrorCode::RequestTimedOut,
            Self::OutcomeUnknown { .. } => ErrorCode::Unknown,
            Self::BufferFull => ErrorCode::ResourceExhausted,
            Self::Config(_) => ErrorCode::InvalidConfig,
            Self::RecordTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::TopicNotKnown { .. } => ErrorCode::UnknownTopicOrPartition,
            Self::NoOffset { .. } => ErrorCode::OffsetOutOfRange,
            Self::NotMember => ErrorCode::UnknownMemberId,
            Self::NoGroup { .. } => ErrorCode::InvalidGroupId,
            Self::Closed | Self::ProducerEnded { .. } | Self::NotAssigned { .. } | Self::State(_) => {
                ErrorCode::InvalidRequest
            }
            Self::Corrupt { .. } => ErrorCode::CorruptMessage,
            Self::Unreadable { error, .. } => error.code(),
        }
    }

    /// Returns whether the same call may succeed later without any other change.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_retryable(),
            Self::Unreadable { error, .. } => error.is_retryable(),
            Self::Timeout { .. } | Self::BufferFull | Self::TopicNotKnown { .. } => true,
            Self::Closed
            | Self::ProducerEnded { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Config(_)
            | Self::RecordTooLarge { .. }
            | Self::NoOffset { .. }
            | Self::NotMember
            | Self::NoGroup { .. }
            | Self::NotAssigned { .. }
            | Self::State(_)
            | Self::Corrupt { .. } => false,
        }
    }

    /// Returns the cluster's error: the error itself, or the last failure before a time-out.
    pub fn cause(&self) -> Option<&ClusterError> {
        match self {
            Self::Cluster(error) => Some(error),
            Self::Unreadable { error, .. } => Some(error),
            Self::Timeout { last, .. } => last.as_ref(),
            _ => None,
        }
    }

    /// Converts the status of an agent's answer.
    pub(crate) fn from_status(status: tonic::Status) -> Self {
        Self::Cluster(status.into())
    }

    pub(crate) fn no_group(what: impl Into<Cow<'static, str>>) -> Self {
        Self::NoGroup { what: what.into() }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    pub(crate) fn timeout(
        what: impl Into<Cow<'static, str>>,
        waited: Duration,
        last: Option<ClusterError>,
    ) -> Self {
        Self::Timeout {
            what: what.into(),
            waited,
            last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_the_last_failure() {
        let last = ClusterError::new(ErrorCode::NotLeader, "ask a-2");
        let error = Error::timeout("sending", Duration::from_secs(2), Some(last));
        assert_eq!(
            error.to_string(),
            "sending took longer than 2s; the last try failed with NOT_LEADER: ask a-2"
        );
        assert_eq!(error.code(), ErrorCode::RequestTimedOut);
        assert_eq!(error.cause().map(|last| last.code()), Some(ErrorCode::NotLeader));
    }

    #[test]
    fn an_error_and_its_code_agree_on_what_may_be_tried_again() {
        let partition = || TopicPartition::new("t", 0);
        let told = |code| Error::from(ClusterError::new(code, "x"));
        for (error, retryable) in [
            (told(ErrorCode::NotLeader), true),
            (told(ErrorCode::InvalidTopic), false),
            (Error::timeout("sending", Duration::ZERO, None), true),
            (Error::BufferFull, true),
            (Error::TopicNotKnown { topic: "t".into() }, true),
            (Error::Closed, false),
            (Error::NotMember, false),
            (Error::no_group("committing"), false),
            (Error::config("x"), false),
            (Error::RecordTooLarge { size: 2, limit: 1 }, false),
            (
                Error::NoOffset {
                    partition: partition(),
                },
                false,
            ),
            (
                Error::NotAssigned {
                    partition: partition(),
                },
                false,
            ),
            (Error::State("x".into()), false),
            (
                Error::Corrupt {
                    partition: partition(),
                    offset: 0,
                    next_offset: 1,
                    reason: "x".into(),
                },
                false,
            ),
        ] {
            assert_eq!(error.is_retryable(), retryable, "{error:?}");
            assert_eq!(error.code().is_retryable(), retryable, "{error:?}");
        }
    }
}
