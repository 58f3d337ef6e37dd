//! [`ErrorCode`]: the one list of what can go wrong, shared by agent, client and every protocol, and [`Error`], a code
//! with a message that says what to do.

use std::{borrow::Cow, fmt};

/// Declares the codes once: number, name and both properties follow from this table.
macro_rules! error_codes {
    ($($variant:ident = $number:literal, $name:literal, $retry:ident, $effects:ident, $doc:literal;)*) => {
        /// What went wrong, alphabetical. Numbers are Kafka's where Kafka has the same error; ours start at 1000.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $(#[doc = $doc] $variant,)* }

        impl ErrorCode {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            pub const fn number(self) -> i32 { match self { $(Self::$variant => $number,)* } }

            /// The name in logs, metrics labels and headers: `NOT_LEADER`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// Whether the same request may succeed later, perhaps after refreshing metadata.
            pub const fn is_retryable(self) -> bool { match self { $(Self::$variant => error_codes!(@retry $retry),)* } }

            /// Whether the failed request surely changed nothing.
            pub const fn has_no_side_effects(self) -> bool {
                match self { $(Self::$variant => error_codes!(@effects $effects),)* }
            }

            /// What it means, in one sentence.
            pub const fn doc(self) -> &'static str { match self { $(Self::$variant => $doc,)* } }

            /// The code of a number; [`ErrorCode::Unknown`] for one we do not know.
            pub const fn from_number(number: i32) -> Self { match number { $($number => Self::$variant,)* _ => Self::Unknown } }

            /// The code of a name.
            pub fn from_name(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
    (@retry retry) => { true };
    (@retry fatal) => { false };
    (@effects clean) => { true };
    (@effects unsure) => { false };
}

error_codes! {
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", retry, clean, "The coordinator is still reading the group.";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", retry, clean, "No agent coordinates the group at the moment.";
    CorruptMessage = 2, "CORRUPT_MESSAGE", fatal, clean, "The batch's CRC or structure is wrong.";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", fatal, clean, "The batch was stored before, too long ago to name its offset.";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", fatal, clean, "Another member took this static instance id.";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", retry, clean, "The request names an older leader epoch.";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", fatal, clean, "There is no such group.";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", fatal, clean, "The group takes no more members.";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", fatal, clean, "The member speaks for an old generation.";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", fatal, clean, "The members share no assignor.";
    InvalidConfig = 40, "INVALID_CONFIG", fatal, clean, "A setting is unknown or out of bounds.";
    InvalidGroupId = 24, "INVALID_GROUP_ID", fatal, clean, "The group id is empty or too long.";
    InvalidPartitions = 37, "INVALID_PARTITIONS", fatal, clean, "The partition count is not possible.";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", fatal, clean, "A newer producer with this id fenced this one.";
    InvalidRecord = 87, "INVALID_RECORD", fatal, clean, "A batch header contradicts itself.";
    InvalidRequest = 42, "INVALID_REQUEST", fatal, clean, "The request makes no sense as it is.";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", fatal, clean, "The session time-out is outside the allowed bounds.";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", fatal, clean, "A record's timestamp is out of bounds.";
    InvalidTopic = 17, "INVALID_TOPIC", fatal, clean, "The topic name is not legal.";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", retry, clean, "Nobody leads the partition at the moment.";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", retry, clean, "Join again with the member id given.";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", fatal, clean, "The batch or request is larger than allowed.";
    MetadataUnavailable = 1001, "METADATA_UNAVAILABLE", retry, unsure, "The metadata store does not answer.";
    NetworkException = 13, "NETWORK_EXCEPTION", retry, unsure, "The connection broke before the answer.";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", fatal, clean, "The group still has members.";
    None = 0, "NONE", fatal, clean, "No error.";
    NotCoordinator = 16, "NOT_COORDINATOR", retry, clean, "Another agent coordinates this group.";
    NotLeader = 6, "NOT_LEADER", retry, clean, "Another agent leads this partition.";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", fatal, clean, "The metadata of a committed offset is too long.";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", fatal, clean, "The offset is before the log start or after the high watermark.";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", fatal, clean, "A batch before this one is missing.";
    PolicyViolation = 44, "POLICY_VIOLATION", fatal, clean, "A limit of the cluster forbids it.";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", retry, clean, "The group rebalances; join again.";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", retry, unsure, "No answer within the time allowed.";
    ResourceExhausted = 1002, "RESOURCE_EXHAUSTED", retry, clean, "The agent's memory for this kind of work is full; slow down.";
    ShuttingDown = 1003, "SHUTTING_DOWN", retry, clean, "The agent drains; another takes its partitions.";
    StorageCorrupt = 56, "STORAGE_CORRUPT", fatal, clean, "Stored bytes are damaged and are not served.";
    StorageUnavailable = 1004, "STORAGE_UNAVAILABLE", retry, unsure, "The object store does not answer.";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", fatal, clean, "There is a topic of this name.";
    TopicDeletionInProgress = 1005, "TOPIC_DELETION_IN_PROGRESS", retry, clean, "Not answered any more: a deleted topic's name is free at once.";
    Unknown = -1, "UNKNOWN", fatal, unsure, "An unexpected failure; the agent's log has the cause.";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", retry, clean, "The request names a newer leader epoch than is known here.";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", fatal, clean, "The group does not know this member; join again.";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", fatal, clean, "The producer's state has expired.";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", retry, clean, "The topic that is meant was deleted; its name is another topic's by now.";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", retry, clean, "There is no such topic or partition.";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", fatal, clean, "The batch's codec is not supported.";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", fatal, clean, "Only record batches of magic 2 are taken.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reference for `docs/reference/errors.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Error codes\n\nMade from the code; do not edit. Numbers are Kafka's where Kafka has the same error; ours \
        start at 1000. A retryable call may succeed later, perhaps after refreshing metadata. A code marked as changing \
        nothing comes from a call that surely had no effect; otherwise it may have had one.\n\n\
        | code | number | retryable | changed nothing | meaning |\n|---|---|---|---|---|\n"
        .to_owned();
    for code in ErrorCode::ALL {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let (retryable, clean) = (yes(code.is_retryable()), yes(code.has_no_side_effects()));
        out.push_str(&format!(
            "| `{code}` | {} | {retryable} | {clean} | {} |\n",
            code.number(),
            code.doc()
        ));
    }
    out
}

/// A code, a message for people that says what to do, and a hint when to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    code: ErrorCode,
    message: Cow<'static, str>,
    retry_after_ms: u32,
    /// 0 where it is not known.
    next_offset: i64,
}

impl Error {
    /// A new error; the message is lower-case, says what to do and holds no secret.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: 0,
            next_offset: 0,
        }
    }

    /// The same with a hint how long to wait before trying again.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// The same with the offset after the records that cannot be read, for who wants to go on behind them.
    #[must_use]
    pub fn with_next_offset(mut self, next_offset: i64) -> Self {
        self.next_offset = next_offset.max(0);
        self
    }

    /// What kind of failure it is.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long to wait before trying again; 0 leaves it to the caller.
    pub fn retry_after_ms(&self) -> u32 {
        self.retry_after_ms
    }

    /// The offset after the records that cannot be read, where that is what failed and it is known.
    pub fn next_offset(&self) -> Option<i64> {
        Some(self.next_offset).filter(|offset| *offset > 0)
    }

    /// See [`ErrorCode::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.code.is_retryable()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back_to_the_code() {
        let mut numbers = HashSet::new();
        for &code in ErrorCode::ALL {
            assert!(numbers.insert(code.number()), "{code} shares its number");
            assert_eq!(ErrorCode::from_number(code.number()), code);
            assert_eq!(ErrorCode::from_name(code.name()), Some(code));
        }
    }

    #[test]
    fn codes_stand_in_alphabetical_order() {
        let names: Vec<String> = ErrorCode::ALL.iter().map(|code| format!("{code:?}")).collect();
        assert!(names.is_sorted(), "sort error_codes! by variant: {names:?}");
    }

    #[test]
    fn the_reference_is_what_the_code_says() {
        streamhouse_testkit::assert_current("docs/reference/errors.md", &reference_markdown()).unwrap();
    }

    #[test]
    fn an_error_survives_the_trip_through_a_status() {
        for &code in ErrorCode::ALL.iter().filter(|&&code| code != ErrorCode::None) {
            let error = Error::new(code, "slow down").with_retry_after_ms(40);
            assert_eq!(Error::from(tonic::Status::from(error.clone())), error);
            let error = error.with_next_offset(7);
            let item = crate::protocol::v1::Error::from(error.clone());
            assert_eq!((item.next_offset, Error::from(item)), (7, error));
        }
    }
}
