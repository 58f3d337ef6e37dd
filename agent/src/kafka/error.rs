//! Maps this agent's error codes to Kafka's, by kind of request: a client takes a code that it does
//! not expect for fatal.

use streamhouse_core::{Error, ErrorCode};

/// A kind of request, with the codes that its clients understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorFamily {
    Produce,
    /// Also the offsets of a log.
    Fetch,
    /// Groups and their offsets.
    Group,
    Admin,
}

/// Kafka's codes that handlers name.
pub(super) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
pub(super) const UNSUPPORTED_VERSION: i16 = 35;
pub(super) const INVALID_REQUEST: i16 = 42;
/// The client does not know a session of incremental fetches.
pub(super) const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const THROTTLING_QUOTA_EXCEEDED: i16 = 89;
const REQUEST_TIMED_OUT: i16 = 7;
pub(super) const NOT_LEADER: i16 = 6;
pub(super) const FENCED_LEADER_EPOCH: i16 = 74;
pub(super) const UNKNOWN_LEADER_EPOCH: i16 = 75;
const UNKNOWN: i16 = -1;
/// Errors of records that a consumer's fetch may have; it ends with others.
const FETCH_CODES: [i16; 14] = [0, 1, 2, 3, 6, 9, 29, 56, 74, 75, 78, 100, 103, -1];

/// Returns Kafka's number of an error.
pub(super) fn kafka_code(family: ErrorFamily, error: &Error) -> i16 {
    use ErrorFamily::{Admin, Fetch, Group, Produce};
    let number = match (error.code(), family) {
        (ErrorCode::ResourceExhausted, Produce) => REQUEST_TIMED_OUT,
        (ErrorCode::ResourceExhausted, Admin) => THROTTLING_QUOTA_EXCEEDED,
        (ErrorCode::MetadataUnavailable | ErrorCode::StorageUnavailable, Produce | Admin) => {
            REQUEST_TIMED_OUT
        }
        // KAFKA_STORAGE_ERROR, which is retried.
        (
            ErrorCode::ResourceExhausted | ErrorCode::MetadataUnavailable | ErrorCode::StorageUnavailable,
            Fetch,
        ) => 56,
        // COORDINATOR_NOT_AVAILABLE
        (
            ErrorCode::ResourceExhausted | ErrorCode::MetadataUnavailable | ErrorCode::StorageUnavailable,
            Group,
        ) => 15,
        (ErrorCode::ShuttingDown | ErrorCode::LeaderNotAvailable, Produce | Fetch) => NOT_LEADER,
        (ErrorCode::ShuttingDown, Group) => 16,
        (ErrorCode::ShuttingDown | ErrorCode::LeaderNotAvailable, Admin) => REQUEST_TIMED_OUT,
        // CORRUPT_MESSAGE: Kafka's own storage error would be retried for ever.
        (ErrorCode::StorageCorrupt, _) => 2,
        (ErrorCode::TopicDeletionInProgress, Admin) => 36,
        (ErrorCode::TopicDeletionInProgress, _) => 3,
        (ErrorCode::Unknown, Produce) => REQUEST_TIMED_OUT,
        // INVALID_RECORD: no batch, or a format before version 2.
        (ErrorCode::InvalidRequest | ErrorCode::UnsupportedForMessageFormat, Produce) => 87,
        // librdkafka ends with UNKNOWN_PRODUCER_ID; an earlier batch is missing.
        (ErrorCode::UnknownProducerId, Produce) => 45,
        // Java takes DUPLICATE_SEQUENCE_NUMBER for stored, which nobody knows of a batch this old.
        (ErrorCode::DuplicateSequenceNumber, Produce) => 45,
        (code, _) => i16::try_from(code.number()).unwrap_or(UNKNOWN),
    };
    let number = if number >= 1000 { UNKNOWN } else { number };
    if family == Fetch && !FETCH_CODES.contains(&number) {
        return UNKNOWN;
    }
    number
}

/// Returns Kafka's number of a result.
pub(super) fn result_code<T>(family: ErrorFamily, result: &Result<T, Error>) -> i16 {
    result.as_ref().err().map_or(0, |error| kafka_code(family, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(family: ErrorFamily, code: ErrorCode) -> i16 {
        kafka_code(family, &Error::new(code, "x"))
    }

    #[test]
    fn codes_of_this_project_never_leave() {
        for family in [
            ErrorFamily::Produce,
            ErrorFamily::Fetch,
            ErrorFamily::Group,
            ErrorFamily::Admin,
        ] {
            assert!(ErrorCode::ALL.iter().all(|&each| code(family, each) < 1000));
        }
    }

    #[test]
    fn a_consumer_gets_only_errors_that_its_fetch_survives() {
        for &each in ErrorCode::ALL {
            assert!(FETCH_CODES.contains(&code(ErrorFamily::Fetch, each)), "{each}");
        }
    }

    #[test]
    fn an_unavailable_store_is_retried_and_damage_is_not() {
        assert_eq!(code(ErrorFamily::Produce, ErrorCode::StorageUnavailable), 7);
        assert_eq!(code(ErrorFamily::Fetch, ErrorCode::MetadataUnavailable), 56);
        assert_eq!(code(ErrorFamily::Group, ErrorCode::MetadataUnavailable), 15);
        assert_eq!(code(ErrorFamily::Fetch, ErrorCode::StorageCorrupt), 2);
        assert_eq!(code(ErrorFamily::Produce, ErrorCode::UnknownProducerId), 45);
        assert_eq!(code(ErrorFamily::Produce, ErrorCode::DuplicateSequenceNumber), 45);
        assert_eq!(
            code(ErrorFamily::Produce, ErrorCode::UnsupportedForMessageFormat),
            87
        );
    }
}
