//! [`ErrorCode`], the single list of failures that agents, clients and all protocols share, and
//! [`Error`], a code with a message that says what to do.

use std::{borrow::Cow, fmt};

/// Declares all codes in one table, from which number, name and properties are generated.
macro_rules! error_codes {
    ($($variant:ident = $number:literal, $name:literal, $retry:ident, $effects:ident, $doc:literal;)*) => {
        /// The kind of a failure, in alphabetical order. Numbers are Kafka's where Kafka has the
        /// same error; StreamHouse's own start at 1000.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $(#[doc = $doc] $variant,)* }

        impl ErrorCode {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the number on the wire.
            pub const fn number(self) -> i32 { match self { $(Self::$variant => $number,)* } }

            /// Returns the name used in logs, metric labels and headers, such as `NOT_LEADER`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// Returns whether the same request may succeed later, perhaps after refreshing
            /// metadata.
            pub const fn is_retryable(self) -> bool { match self { $(Self::$variant => error_codes!(@retry $retry),)* } }

            /// Returns whether the failed request is certain to have changed nothing.
            pub const fn has_no_side_effects(self) -> bool {
                match self { $(Self::$variant => error_codes!(@effects $effects),)* }
            }

            /// Returns the meaning of the code, in one sentence.
            pub const fn doc(self) -> &'static str { match self { $(Self::$variant => $doc,)* } }

            /// Returns the code with this number, [`ErrorCode::Unknown`] if there is none.
            pub const fn from_number(number: i32) -> Self { match number { $($number => Self::$variant,)* _ => Self::Unknown } }

            /// Returns the code with this name.
            pub fn from_name(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
    (@retry retry) => { true };
    (@retry fatal) => { false };
    (@effects clean) => { true };
    (@effects unsure) => { false };
}

error_codes! {
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", fatal, clean, "The principal may not do this to the cluster.";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", retry, clean, "The coordinator is still loading the group.";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", retry, clean, "The group has no coordinator at the moment.";
    CorruptMessage = 2, "CORRUPT_MESSAGE", fatal, clean, "The batch's CRC or structure is wrong.";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", fatal, clean, "The batch is a duplicate of one stored too long ago to return its offset.";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", fatal, clean, "Another member joined with this static instance id.";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", retry, clean, "The request names an older leader epoch.";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH", fatal, clean, "The member's epoch is not the one that the coordinator knows; it must give up its partitions and join again.";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", fatal, clean, "The principal may not do this to the group.";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", fatal, clean, "The group does not exist.";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", fatal, clean, "The group has reached its maximum number of members.";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", fatal, clean, "Members of the group subscribe to the topic.";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", fatal, clean, "The member's generation is not the current one.";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", fatal, clean, "The members have no assignor in common.";
    InvalidConfig = 40, "INVALID_CONFIG", fatal, clean, "A setting is unknown or out of bounds.";
    InvalidGroupId = 24, "INVALID_GROUP_ID", fatal, clean, "The group id is empty or too long.";
    InvalidPartitions = 37, "INVALID_PARTITIONS", fatal, clean, "The number of partitions is out of bounds or smaller than before.";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", fatal, clean, "A newer epoch of this producer id has fenced the producer.";
    InvalidRecord = 87, "INVALID_RECORD", fatal, clean, "The batch's header and records contradict each other.";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", fatal, clean, "The regular expression of a subscription is invalid.";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", fatal, clean, "The assignment of partitions to agents is invalid.";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", fatal, clean, "The replication factor is neither positive nor -1.";
    InvalidRequest = 42, "INVALID_REQUEST", fatal, clean, "The request is malformed or contradicts itself.";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", fatal, clean, "The session time-out is outside the allowed bounds.";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", fatal, clean, "A record's timestamp is out of bounds.";
    InvalidTopic = 17, "INVALID_TOPIC", fatal, clean, "The topic name is invalid or reserved.";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", retry, clean, "The partition has no leader at the moment.";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", retry, clean, "The member must join again with the member id it was given.";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", fatal, clean, "The batch or request is larger than allowed.";
    MetadataUnavailable = 1001, "METADATA_UNAVAILABLE", retry, unsure, "The metadata store does not respond.";
    NetworkException = 13, "NETWORK_EXCEPTION", retry, unsure, "The connection broke before the response arrived.";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", fatal, clean, "The group still has members.";
    None = 0, "NONE", fatal, clean, "No error.";
    NotCoordinator = 16, "NOT_COORDINATOR", retry, clean, "Another agent coordinates this group.";
    NotLeader = 6, "NOT_LEADER", retry, clean, "Another agent leads this partition.";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", fatal, clean, "The metadata of a committed offset is too long.";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", fatal, clean, "The offset is before the log start or after the high watermark.";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", fatal, clean, "The sequence is not the next one: an earlier batch is missing.";
    PolicyViolation = 44, "POLICY_VIOLATION", fatal, clean, "A policy or limit of the cluster forbids the request.";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", retry, clean, "The group is rebalancing; the member must join again.";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", retry, unsure, "The request was not answered within its time-out.";
    ResourceExhausted = 1002, "RESOURCE_EXHAUSTED", retry, clean, "The agent's memory budget for this kind of request is exhausted; the client must slow down.";
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED", fatal, clean, "The client has not proven who it is.";
    ShuttingDown = 1003, "SHUTTING_DOWN", retry, clean, "The agent is draining; another agent takes over its partitions.";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", retry, clean, "The member's epoch is not its current one; it must take the epoch of its last heartbeat.";
    StorageCorrupt = 56, "STORAGE_CORRUPT", fatal, clean, "The stored records are damaged and cannot be served.";
    StorageUnavailable = 1004, "STORAGE_UNAVAILABLE", retry, unsure, "The object store does not respond.";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", fatal, clean, "A topic with this name already exists.";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", fatal, clean, "The principal may not do this to the topic; whether it exists is not said.";
    TopicDeletionInProgress = 1005, "TOPIC_DELETION_IN_PROGRESS", retry, clean, "No longer returned: the name of a deleted topic is free at once.";
    Unknown = -1, "UNKNOWN", fatal, unsure, "An unexpected failure; the agent's log has the cause.";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", retry, clean, "The request names a leader epoch newer than the agent's.";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", fatal, clean, "The group does not know the member; it must join again.";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", fatal, clean, "The partition does not know the producer, and the batch is not its first one.";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", retry, clean, "The topic was deleted, and another topic now has its name.";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", retry, clean, "The topic or partition does not exist.";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", fatal, clean, "A member that has not left still uses the static instance id.";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", fatal, clean, "The coordinator does not have the assignor.";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", fatal, clean, "The batch's codec is not supported.";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", fatal, clean, "The batch format is not supported; only record batches of magic 2 are.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the text of `docs/reference/errors.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Error codes\n\nGenerated from the code; do not edit. Numbers are Kafka's where Kafka has the same error; StreamHouse's own \
        start at 1000. A retryable call may succeed later, perhaps after refreshing metadata. A code that is marked as \
        having changed nothing guarantees that the call had no effect; after any other code it may have had one.\n\n\
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

/// An error code, a message that says what to do, and a hint when to retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    code: ErrorCode,
    message: Cow<'static, str>,
    retry_after_ms: u32,
    /// 0 if not known.
    next_offset: i64,
}

impl Error {
    /// Creates an error. The message is lower-case, says what to do and holds no secrets.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: 0,
            next_offset: 0,
        }
    }

    /// Adds a hint how long to wait before retrying.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// Adds the offset after the records that cannot be read, so that a consumer can skip them.
    #[must_use]
    pub fn with_next_offset(mut self, next_offset: i64) -> Self {
        self.next_offset = next_offset.max(0);
        self
    }

    /// Returns the kind of the failure.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the message, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns how long to wait before retrying; 0 leaves it to the caller.
    pub fn retry_after_ms(&self) -> u32 {
        self.retry_after_ms
    }

    /// Returns the offset after the records that cannot be read, if that is the failure and the
    /// offset is known.
    pub fn next_offset(&self) -> Option<i64> {
        Some(self.next_offset).filter(|offset| *offset > 0)
    }

    /// Returns whether the request may succeed later, see [`ErrorCode::is_retryable`].
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
