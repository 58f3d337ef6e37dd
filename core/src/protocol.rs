//! The gRPC protocol: the types and services generated from `proto/streamhouse/v1`, and the
//! encoding of an [`Error`] in them. Agents serve it, clients call it.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::error::{Error, ErrorCode};

/// Messages and services, version 1.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("streamhouse.v1");

    /// The encoded file descriptors, for gRPC server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/streamhouse_descriptor.bin"));
}

/// The response header that carries the [`ErrorCode`] name of a failed call.
pub const ERROR_CODE_HEADER: &str = "streamhouse-error-code";
/// The response header that carries the retry hint of a failed call, in milliseconds.
pub const RETRY_AFTER_HEADER: &str = "streamhouse-retry-after-ms";

impl From<Error> for v1::Error {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().number(),
            message: error.message().to_owned(),
            retry_after_ms: error.retry_after_ms(),
            next_offset: error.next_offset().unwrap_or(0),
        }
    }
}

impl std::fmt::Debug for v1::ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is left out is a secret.
        f.debug_struct("ScramVerifier")
            .field("mechanism", &self.mechanism)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl v1::PartitionProduceResult {
    /// Returns the result of a batch that was not appended.
    pub fn failed(topic: String, partition: i32, error: Error) -> Self {
        Self {
            topic,
            partition,
            error: Some(error.into()),
            base_offset: -1,
            log_start_offset: -1,
            leader: None,
            log_append_time_ms: 0,
        }
    }
}

impl From<v1::Error> for Error {
    fn from(error: v1::Error) -> Self {
        Self::new(ErrorCode::from_number(error.code), error.message)
            .with_retry_after_ms(error.retry_after_ms)
            .with_next_offset(error.next_offset)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Self::new(grpc_code(error.code()), error.message());
        if let Ok(value) = MetadataValue::try_from(error.code().name()) {
            status.metadata_mut().insert(ERROR_CODE_HEADER, value);
        }
        if error.retry_after_ms() > 0 {
            status
                .metadata_mut()
                .insert(RETRY_AFTER_HEADER, MetadataValue::from(error.retry_after_ms()));
        }
        status
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let header = |name| status.metadata().get(name).and_then(|v| v.to_str().ok());
        let named = header(ERROR_CODE_HEADER).and_then(ErrorCode::from_name);
        let retry_after = header(RETRY_AFTER_HEADER)
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let code = named.unwrap_or_else(|| transport_code(status.code()));
        Self::new(code, status.message().to_owned()).with_retry_after_ms(retry_after)
    }
}

/// Returns the gRPC code that generic tools interpret best for each error code.
fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode as E;
    match code {
        E::None => Code::Ok,
        E::SaslAuthenticationFailed => Code::Unauthenticated,
        E::ClusterAuthorizationFailed | E::GroupAuthorizationFailed | E::TopicAuthorizationFailed => {
            Code::PermissionDenied
        }
        E::CorruptMessage
        | E::InvalidConfig
        | E::InvalidPartitions
        | E::InvalidRecord
        | E::InvalidReplicaAssignment
        | E::InvalidReplicationFactor
        | E::InvalidRequest
        | E::InvalidTopic
        | E::MessageTooLarge
        | E::UnsupportedCompressionType
        | E::UnsupportedForMessageFormat
        | E::InvalidGroupId
        | E::InvalidRegularExpression
        | E::InvalidSessionTimeout
        | E::UnsupportedAssignor
        | E::InvalidTimestamp
        | E::OffsetMetadataTooLarge => Code::InvalidArgument,
        E::OffsetOutOfRange => Code::OutOfRange,
        E::GroupIdNotFound | E::UnknownMemberId | E::UnknownTopicId | E::UnknownTopicOrPartition => {
            Code::NotFound
        }
        E::TopicAlreadyExists => Code::AlreadyExists,
        E::RequestTimedOut => Code::DeadlineExceeded,
        E::ResourceExhausted => Code::ResourceExhausted,
        E::PolicyViolation => Code::PermissionDenied,
        E::CoordinatorNotAvailable
        | E::CoordinatorLoadInProgress
        | E::LeaderNotAvailable
        | E::MetadataUnavailable
        | E::NetworkException
        | E::ShuttingDown
        | E::StorageUnavailable => Code::Unavailable,
        E::DuplicateSequenceNumber
        | E::FencedInstanceId
        | E::FencedLeaderEpoch
        | E::FencedMemberEpoch
        | E::IllegalGeneration
        | E::InconsistentGroupProtocol
        | E::InvalidProducerEpoch
        | E::MemberIdRequired
        | E::GroupSubscribedToTopic
        | E::NonEmptyGroup
        | E::NotCoordinator
        | E::NotLeader
        | E::OutOfOrderSequenceNumber
        | E::RebalanceInProgress
        | E::StaleMemberEpoch
        | E::TopicDeletionInProgress
        | E::UnknownLeaderEpoch
        | E::UnknownProducerId
        | E::UnreleasedInstanceId
        | E::GroupMaxSizeReached => Code::FailedPrecondition,
        E::StorageCorrupt => Code::DataLoss,
        E::Unknown => Code::Internal,
    }
}

/// Returns the meaning of a status without [`ERROR_CODE_HEADER`], which comes from the transport or
/// a proxy.
fn transport_code(code: Code) -> ErrorCode {
    match code {
        Code::Ok => ErrorCode::None,
        Code::Cancelled | Code::Unavailable | Code::Aborted => ErrorCode::NetworkException,
        Code::DeadlineExceeded => ErrorCode::RequestTimedOut,
        Code::ResourceExhausted => ErrorCode::ResourceExhausted,
        Code::OutOfRange => ErrorCode::MessageTooLarge,
        Code::InvalidArgument | Code::Unimplemented => ErrorCode::InvalidRequest,
        // From a proxy, or from an agent's TLS port that received plain text.
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::PolicyViolation,
        _ => ErrorCode::Unknown,
    }
}
