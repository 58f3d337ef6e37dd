//! Encodes the outcome of a commit for storage, so that a repeated commit returns the same outcome.

use crate::{CommitOutcome, Error, ObjectCommit, Result, keys::wal_key};

/// Encodes an outcome.
pub(crate) fn encode_outcome(outcome: &CommitOutcome) -> Result<Vec<u8>> {
    serde_json::to_vec(outcome)
        .map_err(|error| Error::Inconsistent(format!("invalid outcome of a commit: {error}")))
}

/// Decodes the bytes of [`encode_outcome`].
pub(crate) fn decode_outcome(bytes: &[u8]) -> Result<CommitOutcome> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Inconsistent(format!("invalid outcome of a commit: {error}")))
}

/// Returns the error for a repeated commit of an object that was deleted as garbage: it must not be
/// committed twice, and its outcome was deleted with it.
pub(crate) fn expired_outcome_error(commit: &ObjectCommit) -> Error {
    Error::OutcomeExpired(wal_key(commit.incarnation, commit.sequence))
}
