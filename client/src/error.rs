//! [`Error`]: what a call of this library can fail with. Either the cluster said no (an [`ErrorCode`] with its message)
//! or the client itself gave up; both say what to do. What a program may want to tell apart has a variant of its own, and
//! [`Error::code`] and [`Error::is_retryable`] never contradict each other. Errors are cheap to clone, because one failed
//! batch fails many records.

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
    /// The producer, consumer or client was closed. Of a delivery: the record was not sent and is surely not stored.
    #[error("it was closed; build a new one")]
    Closed,
    /// The topic's metadata are not known yet, and the call does not wait for them.
    #[error("the metadata of topic {topic:?} are not known yet; call topic() once before, or try again")]
    TopicNotKnown {
        /// Its name.
        topic: String,
    },
    /// The call needs a consumer group, and the consumer has none.
    #[error("{what} needs a consumer group; set group")]
    NoGroup {
        /// What was asked for.
        what: Cow<'static, str>,
    },
    /// The consumer is no member of its group at the moment: it has not joined yet, or the group went on without it. The next
    /// `poll` joins again; what was read before may be another member's by then.
    #[error("the consumer is no member of its group at the moment; poll to join")]
    NotMember,
    /// The producer has ended without being closed: its task panicked, or the tokio runtime it was built in has ended. What
    /// it had not sent is surely not stored.
    #[error("the producer has ended: {reason}; build a new one")]
    ProducerEnded {
        /// What ended it.
        reason: Cow<'static, str>,
    },
    /// A try to send the record was not answered, and there will be no other one: it may be stored, or not.
    #[error("whether the record is stored is not known: {reason}")]
    OutcomeUnknown {
        /// Why there is no answer.
        reason: Cow<'static, str>,
    },
    /// The producer's buffer had no room, at once (`try_send`) or for as long as `max_block`.
    #[error("the producer's buffer is full; send slower, or raise buffer_memory or max_block")]
    BufferFull,
    /// A setting makes no sense, alone or with the others.
    #[error("{0}")]
    Config(String),
    /// A record cannot fit into one request.
    #[error(
        "the record takes {size} bytes, more than the {limit} allowed; make it smaller, or raise max_request_size (bytes as \
         they are sent) or buffer_memory (bytes before compression)"
    )]
    RecordTooLarge {
        /// Encoded; compressed where that is what counts.
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
    /// The call makes no sense in the state that things are in.
    #[error("{0}")]
    State(Cow<'static, str>),
}

impl Error {
    /// Returns the nearest code of the shared list. It is as retryable as the error.
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

    /// Returns whether the same call may succeed later without anything else being done.
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

    /// Returns what the cluster said: the error itself, or the last failure before a time-out.
    pub fn cause(&self) -> Option<&streamhouse_core::Error> {
        match self {
            Self::Cluster(error) => Some(error),
            Self::Unreadable { error, .. } => Some(error),
            Self::Timeout { last, .. } => last.as_ref(),
            _ => None,
        }
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
        assert_eq!(error.cause().map(|last| last.code()), Some(ErrorCode::NotLeader));
    }

    #[test]
    fn an_error_and_its_code_agree_on_what_may_be_tried_again() {
        let partition = || TopicPartition::new("t", 0);
        let told = |code| Error::from(streamhouse_core::Error::new(code, "x"));
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
