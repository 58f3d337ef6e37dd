//! [`Error`]: what a call of this library can fail with. Either the cluster said no (an [`ErrorCode`] with its message)
//! or the client itself gave up; both say what to do. Errors are cheap to clone, because one failed batch fails many
//! records.

use std::{borrow::Cow, time::Duration};

use streamhouse_core::{ErrorCode, TopicPartition};

/// The result of this library's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster refused or failed the request.
    #[error("{0}")]
    Cluster(#[from] streamhouse_core::Error),
    /// The time allowed is over; with the last failure that was retried, if there was one.
    #[error("{what} took longer than {waited:?}{}", last.as_ref().map(|e| format!("; the last try failed with {e}")).unwrap_or_default())]
    Timeout {
        /// What was waited for.
        what: Cow<'static, str>,
        /// How long.
        waited: Duration,
        /// The last retried failure.
        last: Option<streamhouse_core::Error>,
    },
    /// The producer, consumer or client was closed.
    #[error("it was closed; build a new one")]
    Closed,
    /// The producer's buffer had no room, at once (`try_send`) or for as long as `max_block`.
    #[error("the producer's buffer is full; send slower, or raise buffer_memory or max_block")]
    BufferFull,
    /// A setting makes no sense, alone or with the others.
    #[error("{0}")]
    Config(String),
    /// A record cannot fit into one request.
    #[error(
        "the record takes {size} bytes, more than the {limit} allowed; make it smaller or raise max_request_size"
    )]
    RecordTooLarge {
        /// Encoded.
        size: usize,
        /// The smallest limit it breaks.
        limit: usize,
    },
    /// The partition has no committed offset, or the one it has is out of range, and `auto_offset_reset` is `None`.
    #[error("there is no offset to read {partition} from and auto_offset_reset is none; seek or commit one")]
    NoOffset {
        /// Which one.
        partition: TopicPartition,
    },
    /// The consumer does not own the partition (any more).
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned {
        /// Which one.
        partition: TopicPartition,
    },
    /// The fetched bytes of a partition are damaged. Reading stops there until `seek` passes it.
    #[error(
        "{partition} holds damaged records at offsets {offset}..{next_offset}: {reason}; seek past them to go on, or set \
         skip_damaged_batches"
    )]
    Corrupt {
        /// Which one.
        partition: TopicPartition,
        /// Where reading stopped.
        offset: i64,
        /// Where it can go on.
        next_offset: i64,
        /// What is wrong with them.
        reason: String,
    },
    /// Records of a partition cannot be fetched: they are damaged in the store, or their object is missing. They are asked
    /// for again now and then, and `seek` passes them; other partitions go on.
    #[error("{partition} cannot be read on at offset {offset}: {error}; mend that, or seek past it{} to go on",
        next_offset.map_or_else(String::new, |next| format!(" to {next}")))]
    Unreadable {
        /// Which one.
        partition: TopicPartition,
        /// Where reading stopped.
        offset: i64,
        /// Where it can go on, where the agent knows that.
        next_offset: Option<i64>,
        /// What the agent says; it names the records and their object.
        error: Box<streamhouse_core::Error>,
    },
    /// The call needs something that was not configured, such as a group.
    #[error("{0}")]
    State(Cow<'static, str>),
}

impl Error {
    /// The nearest code of the shared list.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Cluster(error) => error.code(),
            Self::Timeout { .. } => ErrorCode::RequestTimedOut,
            Self::Closed => ErrorCode::ShuttingDown,
            Self::BufferFull => ErrorCode::ResourceExhausted,
            Self::Config(_) => ErrorCode::InvalidConfig,
            Self::RecordTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::NoOffset { .. } => ErrorCode::OffsetOutOfRange,
            Self::NotAssigned { .. } | Self::State(_) => ErrorCode::InvalidRequest,
            Self::Corrupt { .. } => ErrorCode::CorruptMessage,
            Self::Unreadable { error, .. } => error.code(),
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Cluster(error) => error.is_retryable(),
            Self::Timeout { .. } | Self::BufferFull => true,
            _ => false,
        }
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    pub(crate) fn timeout(
        what: impl Into<Cow<'static, str>>,
        waited: Duration,
        last: Option<streamhouse_core::Error>,
    ) -> Self {
        Self::Timeout {
            what: what.into(),
            waited,
            last,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Cluster(status.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_the_last_failure() {
        let last = streamhouse_core::Error::new(ErrorCode::NotLeader, "ask a-2");
        let error = Error::timeout("sending", Duration::from_secs(2), Some(last));
        assert_eq!(
            error.to_string(),
            "sending took longer than 2s; the last try failed with NOT_LEADER: ask a-2"
        );
        assert_eq!(error.code(), ErrorCode::RequestTimedOut);
    }
}
