//! Verifies that the bucket and the metadata store belong together before anything is written or
//! deleted (INV-B1): that both belong to one cluster ([`identity`]), and that the metadata store is
//! not an older copy of the one that the bucket was written with ([`timeline`]). Called by the
//! assembly at start, by the lease keeper for each registration, by maintenance, and by the
//! commands that write or delete.
//!
//! ```text
//! _cluster/identity                       the cluster's id, and the format version
//! _cluster/timeline/00000000000000000042  mark of timeline 42; the newest few are kept
//! ```

pub mod identity;
pub mod timeline;

use std::sync::atomic::{AtomicU64, Ordering};

use streamhouse_core::backoff::{BackoffJitter, BackoffPolicy};
use streamhouse_metadata::{
    AgentIdentity, AgentRegistration, ClusterState, Error as MetadataError, MetadataStore, Timeline,
};
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use crate::{
    health::ReadinessCondition,
    invariant::Invariant,
    node::AgentNode,
    store::{ObjectStore, RetryPolicy, StoreError},
};

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

/// What this process has verified so far.
#[derive(Debug, Default)]
pub struct OwnershipState {
    /// The greatest timeline seen in the metadata store, which never moves back.
    newest_timeline: AtomicU64,
}

impl OwnershipState {
    /// Records a timeline of the metadata store; refuses one that is lower than an earlier one.
    fn observe_timeline(&self, store: &dyn ObjectStore, number: u64) -> Result<(), OwnershipError> {
        let before = self.newest_timeline.fetch_max(number, Ordering::AcqRel);
        if number < before {
            return Err(OwnershipError::OlderMetadata {
                store: store.describe(),
                ours: number,
                theirs: before,
            });
        }
        Ok(())
    }
}

/// Verifies that both stores belong to one cluster, creating the marker where there is none, and
/// that the metadata store is not behind the bucket.
///
/// # Errors
/// If they do not belong together, or a store fails.
pub async fn prove_ownership(
    ownership: &OwnershipState,
    metadata: &dyn MetadataStore,
    store: &dyn ObjectStore,
) -> Result<(), OwnershipError> {
    // The order matters: a number is in the metadata store before it is in the bucket.
    let newest = timeline::newest_mark(store).await?;
    let state = metadata.cluster_state().await?;
    identity::prove_cluster(store, &state).await?;
    ownership.observe_timeline(store, state.timeline.number)?;
    check_timeline(store, &state, newest)
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

/// Back-off between attempts.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3))
    .with_jitter(BackoffJitter::Around(0.5));

/// Repeats the verification at start until it succeeds; until then this agent sends no other call
/// to the metadata store.
pub async fn wait_for_proof(node: &AgentNode, metadata: &dyn MetadataStore) {
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match prove_ownership(&node.ownership, metadata, node.store.as_ref()).await {
            Ok(()) => {
                node.health.set_met(ReadinessCondition::Cluster);
                return;
            }
            Err(error) => {
                let first = node
                    .health
                    .set_unmet(ReadinessCondition::Cluster, error.to_string());
                if error.is_refusal() || first {
                    tracing::error!(%error, "this agent does not start");
                }
            }
        }
        sleep(backoff.next_delay(&*node.entropy)).await;
    }
}

/// Registers the agent after verifying again that it may, and marks the bucket with the timeline
/// issued for the registration. Returns the time at which the registration was sent; registration
/// and mark take at most `limit`.
///
/// # Errors
/// The reason why the agent cannot register.
pub async fn register_agent(
    node: &AgentNode,
    registration: &AgentRegistration,
    limit: Duration,
) -> Result<(AgentIdentity, Instant), String> {
    let late = |_| "a store did not answer in time".to_owned();
    let proved = timeout(
        limit,
        prove_ownership(&node.ownership, &*node.metadata, &*node.store),
    );
    report_outcome(node, proved.await.map_err(late)?)?;
    let sent = Instant::now();
    let begun = async {
        let registered = node.metadata.register_agent(registration).await?;
        let marked = mark_bucket(node, &registered.timeline).await;
        if marked.is_err()
            && let Err(error) = node.metadata.seal(registered.incarnation).await
        {
            tracing::warn!(%error, "a failed registration could not be sealed; its lease expires");
        }
        marked.map(|()| registered)
    };
    let begun = timeout_at(sent + limit, begun).await.map_err(late)?;
    Ok((report_outcome(node, begun)?, sent))
}

/// Advances the timeline and marks the bucket with it.
///
/// # Errors
/// An error that [`OwnershipError::is_refusal`] ends the incarnation.
pub async fn advance(node: &AgentNode) -> Result<(), OwnershipError> {
    let risen = node.metadata.advance_timeline().await?;
    node.ownership.observe_timeline(&*node.store, risen.number)?;
    mark_bucket(node, &risen).await?;
    timeline::prune_marks(&*node.store).await
}

async fn mark_bucket(node: &AgentNode, risen: &Timeline) -> Result<(), OwnershipError> {
    node.ownership.observe_timeline(&*node.store, risen.number)?;
    let retry = RetryPolicy::new(node.entropy.clone());
    let put = timeline::put_mark(&*node.store, risen, node.entropy.as_ref(), &retry).await;
    if let Err(error @ OwnershipError::OlderMetadata { .. }) = put {
        // Another copy of the store issued this number. From now on every agent refuses this copy.
        if let Err(unsaid) = node.metadata.report_divergence().await {
            tracing::error!(%unsaid, "the metadata store could not record that it is an older copy");
        }
        return Err(error);
    }
    put
}

/// Reports the outcome of a verification in health and metrics.
///
/// # Errors
/// The message of the outcome's error.
pub fn report_outcome<T>(node: &AgentNode, outcome: Result<T, OwnershipError>) -> Result<T, String> {
    match outcome {
        Ok(value) => {
            node.health.set_met(ReadinessCondition::Cluster);
            Ok(value)
        }
        Err(error) => {
            if error.is_refusal()
                && node
                    .health
                    .set_unmet(ReadinessCondition::Cluster, error.to_string())
            {
                node.metrics.record_violation(Invariant::B1);
            }
            Err(error.to_string())
        }
    }
}
