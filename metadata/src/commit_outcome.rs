//! Encodes the outcome of a commit for storage, and recognizes a repeated commit, which returns the
//! same outcome.

use crate::{CommitOutcome, Error, ObjectCommit, Result, keys::wal_key};

/// Encodes an outcome.
pub(crate) fn encode_outcome(outcome: &CommitOutcome) -> Result<Vec<u8>> {
    serde_json::to_vec(outcome)
        .map_err(|error| Error::Inconsistent(format!("invalid outcome of a commit: {error}")))
}

/// Whether the incarnation is sealed, its greatest sequence whose object was deleted as garbage,
/// and the outcome of an earlier commit of the object.
pub(crate) type EarlierCommit = (bool, i64, Option<Vec<u8>>);

/// Returns the outcome of an earlier commit of the object, or `None` if the object may be committed
/// now. `earlier` is `None` if the incarnation is unknown.
///
/// # Errors
///
/// [`Error::OutcomeExpired`] if the object was deleted as garbage: it must not be committed twice,
/// and its outcome was deleted with it. [`Error::Sealed`] if the incarnation is sealed or unknown.
pub(crate) fn find_outcome(
    commit: &ObjectCommit,
    sequence: i64,
    earlier: Option<EarlierCommit>,
) -> Result<Option<CommitOutcome>> {
    match earlier {
        Some((_, _, Some(bytes))) => decode_outcome(&bytes).map(Some),
        Some((_, deleted, None)) if sequence <= deleted => Err(Error::OutcomeExpired(wal_key(
            commit.incarnation,
            commit.sequence,
        ))),
        Some((false, _, None)) => Ok(None),
        _ => Err(Error::Sealed(commit.incarnation)),
    }
}

/// Decodes the bytes of [`encode_outcome`].
fn decode_outcome(bytes: &[u8]) -> Result<CommitOutcome> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Inconsistent(format!("invalid outcome of a commit: {error}")))
}
