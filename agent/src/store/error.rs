//! Errors of the object store. Created by the back ends; read by callers that decide whether to
//! retry.

use std::{borrow::Cow, fmt, time::Duration};

use streamhouse_core::ErrorCode;

use super::GetRange;

/// The kinds of failures, in alphabetical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The key is taken; nothing was written.
    AlreadyExists,
    /// A cancellation or deadline of the caller ended the attempts; the operation may have
    /// happened.
    Cancelled,
    /// The bytes read are not the bytes written.
    Corrupt,
    /// The key is not valid; nothing was sent.
    InvalidKey,
    /// The range lies outside the object.
    InvalidRange,
    /// The bucket or directory does not exist.
    MissingBucket,
    /// The object does not exist.
    NotFound,
    /// Anything else.
    Other,
    /// The store asks the caller to slow down.
    Throttled,
    /// No response in time; the operation may have happened.
    Timeout,
    /// The credentials are missing, wrong, expired or insufficient.
    Unauthorized,
    /// The store is unreachable or fails; the operation may have happened.
    Unavailable,
    /// The store lacks a required feature.
    Unsupported,
}

impl StoreErrorKind {
    /// Returns the label value in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AlreadyExists => "already_exists",
            Self::Cancelled => "cancelled",
            Self::Corrupt => "corrupt",
            Self::InvalidKey => "invalid_key",
            Self::InvalidRange => "invalid_range",
            Self::MissingBucket => "missing_bucket",
            Self::NotFound => "not_found",
            Self::Other => "other",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Unsupported => "unsupported",
        }
    }

    /// Returns whether the same call may succeed later without any intervention.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Throttled | Self::Timeout | Self::Unavailable => true,
            Self::AlreadyExists
            | Self::Cancelled
            | Self::Corrupt
            | Self::InvalidKey
            | Self::InvalidRange
            | Self::MissingBucket
            | Self::NotFound
            | Self::Other
            | Self::Unauthorized
            | Self::Unsupported => false,
        }
    }

    /// Returns whether the same call may succeed once an operator repairs the bucket or the
    /// credentials. Data that is already accepted waits for that instead of being dropped.
    pub const fn is_repairable(self) -> bool {
        matches!(self, Self::MissingBucket | Self::Unauthorized)
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error of the object store: a kind, and a message that says what to do. Cloneable, since
/// several readers may wait for the same read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("object store: {message}")]
pub struct StoreError {
    kind: StoreErrorKind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl StoreError {
    /// Creates an error; the message is lower-case and contains no secret.
    pub fn new(kind: StoreErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Adds the delay that the store asked for.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    pub(crate) fn not_found(key: &str) -> Self {
        Self::new(StoreErrorKind::NotFound, format!("object {key} does not exist"))
    }

    pub(crate) fn already_exists(key: &str) -> Self {
        Self::new(
            StoreErrorKind::AlreadyExists,
            format!("object {key} already exists"),
        )
    }

    pub(crate) fn invalid_range(key: &str, range: &GetRange) -> Self {
        Self::new(
            StoreErrorKind::InvalidRange,
            format!("{range:?} lies outside of object {key}"),
        )
    }

    pub(crate) fn timeout(what: &str, key: &str, after: Duration) -> Self {
        Self::new(
            StoreErrorKind::Timeout,
            format!("no response to {what} {key} within {after:?}"),
        )
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns the message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the delay that the store asked for, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// See [`StoreErrorKind::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// Returns the error code for clients. An object that the metadata references and that the
    /// store does not have, or not in that length, counts as corrupt.
    pub fn code(&self) -> ErrorCode {
        match self.kind {
            StoreErrorKind::Corrupt | StoreErrorKind::InvalidRange | StoreErrorKind::NotFound => {
                ErrorCode::StorageCorrupt
            }
            StoreErrorKind::MissingBucket
            | StoreErrorKind::Throttled
            | StoreErrorKind::Timeout
            | StoreErrorKind::Unauthorized
            | StoreErrorKind::Unavailable
            | StoreErrorKind::Cancelled => ErrorCode::StorageUnavailable,
            StoreErrorKind::AlreadyExists
            | StoreErrorKind::InvalidKey
            | StoreErrorKind::Other
            | StoreErrorKind::Unsupported => ErrorCode::Unknown,
        }
    }
}

impl From<StoreError> for streamhouse_core::Error {
    fn from(error: StoreError) -> Self {
        let retry_after = error
            .retry_after
            .map_or(0, |wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
        Self::new(error.code(), error.to_string()).with_retry_after_ms(retry_after)
    }
}
