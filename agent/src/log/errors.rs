//! The errors of reading a log, as clients and operators see them.

use streamhouse_core::{Error, ErrorCode, PartitionUid};
use streamhouse_metadata::{LogSpan, SpanLocation, keys};

use super::SpanError;
use crate::store::{StoreError, StoreErrorKind};

pub(super) fn span_error(error: &StoreError) -> SpanError {
    let reported = Error::new(error.code(), error.to_string());
    match error.kind() {
        StoreErrorKind::NotFound => SpanError::Missing(reported),
        _ => SpanError::Failed(reported),
    }
}

/// Returns the error for records that cannot be decoded, though they may be what a producer sent.
pub(crate) fn unreadable_error(uid: PartitionUid, span: &LogSpan, error: &dyn std::fmt::Display) -> Error {
    tracing::error!(partition = %uid, place = ?span.place, %error, "stored records are damaged");
    let what = describe_span(span);
    Error::new(
        ErrorCode::StorageCorrupt,
        format!("{what} are damaged and are not served: {error}"),
    )
    .with_next_offset(span.end_offset)
}

/// Describes the records of a span and their object, so that an operator can find it.
pub(super) fn describe_span(span: &LogSpan) -> String {
    let key = match &span.place {
        SpanLocation::Wal {
            incarnation,
            sequence,
            ..
        } => keys::wal_key(*incarnation, *sequence),
        SpanLocation::Segment { key, .. } => key.clone(),
    };
    let (base, end) = (span.base_offset, span.end_offset);
    format!("the stored records {base}..{end} in object {key}")
}

pub(super) fn moving_error() -> Error {
    Error::new(
        ErrorCode::StorageUnavailable,
        "the records were moved to another object repeatedly while being read; try again",
    )
}

pub(super) fn shutting_down_error() -> Error {
    Error::new(
        ErrorCode::ShuttingDown,
        "this agent is shutting down; use another agent",
    )
}
