//! The bytes that a commit's answer is kept as, so that asking again gives the same answer.

use crate::{CommitOutcome, Error, ObjectCommit, Result, keys::wal_key};

/// The bytes to keep.
pub(crate) fn encode(outcome: &CommitOutcome) -> Result<Vec<u8>> {
    serde_json::to_vec(outcome)
        .map_err(|error| Error::Inconsistent(format!("the outcome of a commit: {error}")))
}

/// Reads [`encode`]'s bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<CommitOutcome> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Inconsistent(format!("the outcome of a commit: {error}")))
}

/// The refusal of an object that was committed, emptied and deleted: its bytes are gone, it must not be committed twice, and
/// what its commit answered went with it.
pub(crate) fn forgotten(commit: &ObjectCommit) -> Error {
    Error::Forgotten(wal_key(commit.incarnation, commit.sequence))
}
