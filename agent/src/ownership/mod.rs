//! Verifies that the bucket and the metadata store belong together before anything is written or
//! deleted (INV-B1): that both belong to one cluster ([`identity`]), and that the metadata store is
//! not an older copy of the one that the bucket was written with ([`timeline`]). The
//! [`OwnershipVerifier`] is called by the assembly at start, by the lease keeper for each
//! registration, and by maintenance; the commands that write or delete verify the parts that they
//! need.
//!
//! ```text
//! _cluster/identity                       the cluster's id, and the format version
//! _cluster/timeline/00000000000000000042  mark of timeline 42; the newest few are kept
//! ```

pub mod identity;
pub mod timeline;
mod verifier;

use streamhouse_metadata::{ClusterState, Error as MetadataError, MetadataStore};
use tokio::time::{Duration, timeout};

pub use self::verifier::{OwnershipDeps, OwnershipVerifier};
use crate::store::{ObjectStore, StoreError};

/// Key prefix of the identity and timeline objects.
pub const PREFIX: &str = "_cluster/";
/// Reason why nothing may be written.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The object store failed.
    #[error("cannot determine which cluster {store} belongs to: {error}")]
    Store {
        /// The object store.
        store: String,
        /// The failure.
        error: StoreError,
    },
    /// The stores belong to different clusters.
    #[error(
        "{store} belongs to cluster {theirs}, the metadata store to cluster {ours}: correct metadata-url or object-store, \
         restore the metadata of {theirs}, or give this cluster a bucket or a prefix of its own"
    )]
    OtherCluster {
        /// The object store.
        store: String,
        /// Cluster that the object store belongs to.
        theirs: String,
        /// Cluster that the metadata store belongs to.
        ours: String,
    },
    /// The object store holds objects of an unknown cluster.
    #[error(
        "{store} holds objects of a cluster, such as {key}, but no marker that names it, and cluster {ours} of the metadata \
         store is new: restore that cluster's metadata, or give this cluster a bucket or a prefix of its own"
    )]
    Unclaimed {
        /// The object store.
        store: String,
        /// Key of one of the objects.
        key: String,
        /// Cluster that the metadata store belongs to.
        ours: String,
    },
    /// The format was written by a newer build.
    #[error(
        "{store} has format version {found}, this build supports versions up to {known}: run a newer build"
    )]
    NewerFormat {
        /// The object store.
        store: String,
        /// Format version of the object store.
        found: u32,
        /// Newest format version of this build.
        known: u32,
    },
    /// The marker cannot be parsed.
    #[error(
        "object {key} in {store} was not written by an agent: inspect it, it should name the cluster of this bucket"
    )]
    Marker {
        /// The object store.
        store: String,
        /// Key of the object.
        key: String,
    },
    /// The metadata store is an older copy.
    #[error(
        "the metadata store is older than {store}: its timeline is {ours}, that of the bucket is {theirs}; a backup was \
         restored, or a standby without the last commits was promoted: stop the agents and see what is lost with \
         `streamhouse-agent recover`"
    )]
    OlderMetadata {
        /// The object store.
        store: String,
        /// Timeline of the metadata store.
        ours: u64,
        /// Timeline of the bucket.
        theirs: u64,
    },
}

impl OwnershipError {
    /// Returns whether the stores are known not to belong together, as opposed to a store that
    /// failed temporarily.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Metadata(error) => matches!(error, MetadataError::Diverged),
            Self::Store { .. } => false,
            Self::OtherCluster { .. }
            | Self::Unclaimed { .. }
            | Self::NewerFormat { .. }
            | Self::Marker { .. }
            | Self::OlderMetadata { .. } => true,
        }
    }

    pub(crate) fn store_error(store: &dyn ObjectStore) -> impl FnOnce(StoreError) -> Self {
        let store = store.describe();
        move |error| Self::Store { store, error }
    }
}

/// Verifies that the metadata store is not behind the newest mark, which must be read before the
/// state.
///
/// # Errors
/// [`OwnershipError::OlderMetadata`] or a divergence.
pub fn check_timeline(
    store: &dyn ObjectStore,
    state: &ClusterState,
    newest: Option<u64>,
) -> Result<(), OwnershipError> {
    if state.diverged {
        return Err(MetadataError::Diverged.into());
    }
    match newest {
        Some(theirs) if theirs > state.timeline.number => Err(OwnershipError::OlderMetadata {
            store: store.describe(),
            ours: state.timeline.number,
            theirs,
        }),
        _ => Ok(()),
    }
}

/// Records in the metadata store that it lacks what it had before, so that from then on no agent
/// starts an incarnation on it and nothing is deleted, until `recover` was run. `problem` completes
/// the sentence "the metadata store …" in the log if that fails. Returns whether it was recorded
/// within `limit`; the store's own time limits apply in any case.
pub async fn report_divergence(metadata: &dyn MetadataStore, limit: Duration, problem: &'static str) -> bool {
    match timeout(limit, metadata.report_divergence()).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => {
            tracing::error!(%error, "the metadata store could not record that it {problem}");
        }
        Err(_) => tracing::error!("the metadata store did not record in time that it {problem}"),
    }
    false
}
