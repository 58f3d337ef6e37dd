//! Proves that the bucket and the metadata store belong together before anything is written or deleted (INV-B1): that both are of
//! one cluster ([`identity`]), and that the store is not an older copy of the one that the bucket was written with
//! ([`timeline`]). Called by the assembly at start, by the lease keeper with each registration, by the maintenance, and by
//! the commands that write or delete.
//!
//! ```text
//! _cluster/identity                       which cluster, and the version of the format
//! _cluster/timeline/00000000000000000042  the store's number 42 was given; the newest few are kept
//! ```

pub mod identity;
pub mod timeline;

use std::sync::atomic::{AtomicU64, Ordering};

use streamhouse_metadata::{
    AgentRegistration, ClusterState, Error as MetadataError, MetadataStore, Registered, Timeline,
};
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use crate::{
    health::Condition,
    invariant::Invariant,
    node::Node,
    store::{ObjectStore, Retry, StoreError},
};

/// What the keys of these objects begin with.
pub const PREFIX: &str = "_cluster/";

/// Why nothing may be written.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// The metadata store refused or does not answer.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The object store refused or does not answer.
    #[error("whose objects {store} holds cannot be told: {error}")]
    Store {
        /// Which one.
        store: String,
        /// Why.
        error: StoreError,
    },
    /// Two clusters.
    #[error(
        "{store} belongs to cluster {theirs}, the metadata store to cluster {ours}: correct metadata-url or object-store, \
         restore the metadata of {theirs}, or give this cluster a bucket or a prefix of its own"
    )]
    OtherCluster {
        /// Which object store.
        store: String,
        /// Whose it is.
        theirs: String,
        /// Whose the metadata store is.
        ours: String,
    },
    /// Objects of a cluster that nobody can name.
    #[error(
        "{store} holds objects of a cluster, such as {key}, but does not say of which one, and cluster {ours} of the metadata \
         store is new: restore that cluster's metadata, or give this cluster a bucket or a prefix of its own"
    )]
    Unclaimed {
        /// Which object store.
        store: String,
        /// One of the objects.
        key: String,
        /// Whose the metadata store is.
        ours: String,
    },
    /// Written by a newer build.
    #[error("{store} has format version {found}, this build knows versions up to {known}: run a newer build")]
    NewerFormat {
        /// Which object store.
        store: String,
        /// What it says.
        found: u32,
        /// What this build writes.
        known: u32,
    },
    /// The marker cannot be read.
    #[error(
        "object {key} in {store} is not one that an agent writes: look at it, it should say whose bucket this is"
    )]
    Marker {
        /// Which object store.
        store: String,
        /// The object.
        key: String,
    },
    /// An older copy.
    #[error(
        "the metadata store is older than {store}: its timeline is at {ours}, that of the bucket at {theirs}; a backup was \
         restored, or a standby without the last commits was promoted: stop the agents, and see what is lost with \
         `streamhouse-agent recover`"
    )]
    OlderMetadata {
        /// Which object store.
        store: String,
        /// The metadata store's number.
        ours: u64,
        /// The bucket's.
        theirs: u64,
    },
}

impl OwnershipError {
    /// Whether it is proved that the two do not belong together, rather than unknown for the moment.
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

    pub(crate) fn unreachable(store: &dyn ObjectStore) -> impl FnOnce(StoreError) -> Self {
        let store = store.describe();
        move |error| Self::Store { store, error }
    }
}

/// What this process has proved so far.
#[derive(Debug, Default)]
pub struct Ownership {
    /// The greatest number seen in the metadata store, which never goes back.
    seen: AtomicU64,
}

impl Ownership {
    /// Takes note of a number that the store gave; refuses one that is lower than one before.
    fn see(&self, store: &dyn ObjectStore, number: u64) -> Result<(), OwnershipError> {
        let before = self.seen.fetch_max(number, Ordering::AcqRel);
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

/// Proves that both are of one cluster, creating the marker where there is none, and that the store is not behind the bucket.
pub async fn prove(
    ownership: &Ownership,
    metadata: &dyn MetadataStore,
    store: &dyn ObjectStore,
) -> Result<(), OwnershipError> {
    // In this order: a number is in the store before it is in the bucket.
    let newest = timeline::newest(store).await?;
    let state = metadata.cluster().await?;
    identity::prove(store, &state).await?;
    ownership.see(store, state.timeline.number)?;
    compare(store, &state, newest)
}

/// Refuses a store that is behind the newest mark, read before the state.
pub fn compare(
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

/// How a proof is begun again: doubling between these.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Proves it at start, however long that takes; until then nothing of this agent reaches the metadata store.
pub async fn establish(node: &Node, metadata: &dyn MetadataStore) {
    let mut pause = RETRY.0;
    loop {
        match prove(&node.ownership, metadata, node.store.as_ref()).await {
            Ok(()) => {
                node.health.met(Condition::Cluster);
                return;
            }
            Err(error) => {
                let first = node.health.unmet(Condition::Cluster, error.to_string());
                if error.is_refusal() || first {
                    tracing::error!(%error, "this agent does not start its work");
                }
            }
        }
        sleep(pause.mul_f64(0.5 + node.entropy.fraction())).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Begins a life once it is proved again that it may, and marks the bucket with the number that the store gave for it. The time
/// is from before the registration was sent; mark and registration take `limit` at most.
pub async fn register(
    node: &Node,
    registration: &AgentRegistration,
    limit: Duration,
) -> Result<(Registered, Instant), String> {
    let late = |_| "a store does not answer in time".to_owned();
    let proved = timeout(limit, prove(&node.ownership, &*node.metadata, &*node.store));
    settle(node, proved.await.map_err(late)?)?;
    let sent = Instant::now();
    let begun = async {
        let registered = node.metadata.register_agent(registration).await?;
        let marked = mark(node, &registered.timeline).await;
        if marked.is_err()
            && let Err(error) = node.metadata.seal(registered.incarnation).await
        {
            tracing::warn!(%error, "a life that cannot begin could not be sealed; its lease expires");
        }
        marked.map(|()| registered)
    };
    let begun = timeout_at(sent + limit, begun).await.map_err(late)?;
    Ok((settle(node, begun)?, sent))
}

/// Raises the store's number and marks the bucket with it. An error that [`OwnershipError::is_refusal`] ends the life.
pub async fn advance(node: &Node) -> Result<(), OwnershipError> {
    let risen = node.metadata.advance_timeline().await?;
    node.ownership.see(&*node.store, risen.number)?;
    mark(node, &risen).await?;
    timeline::prune(&*node.store).await
}

async fn mark(node: &Node, risen: &Timeline) -> Result<(), OwnershipError> {
    node.ownership.see(&*node.store, risen.number)?;
    let retry = Retry::new(node.entropy.clone());
    let put = timeline::put(&*node.store, risen, node.entropy.as_ref(), &retry).await;
    if let Err(error @ OwnershipError::OlderMetadata { .. }) = put {
        // Another copy of the store gave this number. From now on this copy is refused wherever it is looked at.
        if let Err(unsaid) = node.metadata.report_divergence().await {
            tracing::error!(%unsaid, "the metadata store could not be told that it is an older copy");
        }
        return Err(error);
    }
    put
}

/// Says how it stands.
pub fn settle<T>(node: &Node, outcome: Result<T, OwnershipError>) -> Result<T, String> {
    match outcome {
        Ok(value) => {
            node.health.met(Condition::Cluster);
            Ok(value)
        }
        Err(error) => {
            if error.is_refusal() && node.health.unmet(Condition::Cluster, error.to_string()) {
                node.metrics.violated(Invariant::B1);
            }
            Err(error.to_string())
        }
    }
}
