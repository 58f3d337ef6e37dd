//! Verifies at start, at each registration and in each maintenance round that this agent may write:
//! that both stores belong to one cluster and that the metadata store is not an older copy. Reports
//! the outcome in health and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use streamhouse_core::{
    backoff::{BackoffJitter, BackoffPolicy},
    time::Entropy,
};
use streamhouse_metadata::{AgentIdentity, AgentRegistration, MetadataStore, Timeline};
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};

use super::{OwnershipError, check_timeline, identity, report_divergence, timeline};
use crate::{
    health::{AgentHealth, ReadinessCondition},
    invariant::Invariant,
    metrics::AgentMetrics,
    store::{ObjectStore, RetryPolicy},
};

/// Back-off between attempts.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3))
    .with_jitter(BackoffJitter::Around(0.5));

/// Dependencies of a verifier.
#[derive(Debug, Clone)]
pub struct OwnershipDeps {
    /// Metadata store whose timeline is verified.
    pub metadata: Arc<dyn MetadataStore>,
    /// Object store that the timeline is marked in.
    pub store: Arc<dyn ObjectStore>,
    /// Source of jitter and of the marks' nonces.
    pub entropy: Arc<dyn Entropy>,
    /// Learns whether the stores belong together.
    pub health: Arc<AgentHealth>,
    /// Counts violations of INV-B1.
    pub metrics: Arc<AgentMetrics>,
}

/// Verifies which cluster the two stores belong to; one for each process.
#[derive(Debug)]
pub struct OwnershipVerifier {
    deps: OwnershipDeps,
    /// The greatest timeline seen in the metadata store, which never moves back.
    newest_timeline: AtomicU64,
}

impl OwnershipVerifier {
    /// Creates a verifier that has not verified anything yet.
    pub fn new(deps: OwnershipDeps) -> Self {
        Self {
            deps,
            newest_timeline: AtomicU64::new(0),
        }
    }

    /// Records a timeline of the metadata store; refuses one that is lower than an earlier one.
    fn observe_timeline(&self, number: u64) -> Result<(), OwnershipError> {
        let before = self.newest_timeline.fetch_max(number, Ordering::AcqRel);
        if number < before {
            return Err(OwnershipError::OlderMetadata {
                store: self.deps.store.describe(),
                ours: number,
                theirs: before,
            });
        }
        Ok(())
    }

    /// Verifies that both stores belong to one cluster, creating the marker where there is none,
    /// and that the metadata store is not behind the bucket.
    ///
    /// # Errors
    /// If they do not belong together, or a store fails.
    async fn prove(&self, metadata: &dyn MetadataStore) -> Result<(), OwnershipError> {
        let store = self.deps.store.as_ref();
        // The order matters: a number is in the metadata store before it is in the bucket.
        let newest = timeline::newest_mark(store).await?;
        let state = metadata.cluster_state().await?;
        identity::prove_cluster(store, &state).await?;
        self.observe_timeline(state.timeline.number)?;
        check_timeline(store, &state, newest)
    }

    /// Repeats the verification at start until it succeeds; until then this agent sends no other
    /// call to the metadata store. `metadata` is the connected store itself.
    pub async fn wait_for_proof(&self, metadata: &dyn MetadataStore) {
        let health = &self.deps.health;
        let mut backoff = RETRY_BACKOFF.start();
        loop {
            match self.prove(metadata).await {
                Ok(()) => {
                    health.set_met(ReadinessCondition::Cluster);
                    return;
                }
                Err(error) => {
                    let first = health.set_unmet(ReadinessCondition::Cluster, error.to_string());
                    if error.is_refusal() || first {
                        tracing::error!(%error, "this agent does not start");
                    }
                }
            }
            sleep(backoff.next_delay(&*self.deps.entropy)).await;
        }
    }

    /// Registers the agent after verifying again that it may, and marks the bucket with the
    /// timeline issued for the registration. Returns the time at which the registration was sent;
    /// registration and mark take at most `limit`.
    ///
    /// # Errors
    /// The reason why the agent cannot register.
    pub async fn register_agent(
        &self,
        registration: &AgentRegistration,
        limit: Duration,
    ) -> Result<(AgentIdentity, Instant), String> {
        let late = |_| "a store did not answer in time".to_owned();
        let metadata = &*self.deps.metadata;
        let proved = timeout(limit, self.prove(metadata)).await;
        self.report_outcome(proved.map_err(late)?)?;
        let sent = Instant::now();
        let begun = async {
            let registered = metadata.register_agent(registration).await?;
            let marked = self.mark_bucket(&registered.timeline).await;
            if marked.is_err()
                && let Err(error) = metadata.seal(registered.incarnation).await
            {
                tracing::warn!(%error, "a failed registration could not be sealed; its lease expires");
            }
            marked.map(|()| registered)
        };
        let begun = timeout_at(sent + limit, begun).await.map_err(late)?;
        Ok((self.report_outcome(begun)?, sent))
    }

    /// Advances the timeline and marks the bucket with it.
    ///
    /// # Errors
    /// An error that [`OwnershipError::is_refusal`] ends the incarnation.
    pub async fn advance(&self) -> Result<(), OwnershipError> {
        let risen = self.deps.metadata.advance_timeline().await?;
        self.observe_timeline(risen.number)?;
        self.mark_bucket(&risen).await?;
        timeline::prune_marks(&*self.deps.store).await
    }

    async fn mark_bucket(&self, risen: &Timeline) -> Result<(), OwnershipError> {
        self.observe_timeline(risen.number)?;
        let OwnershipDeps {
            metadata,
            store,
            entropy,
            ..
        } = &self.deps;
        let retry = RetryPolicy::new(entropy.clone());
        let put = timeline::put_mark(&**store, risen, entropy.as_ref(), &retry).await;
        if matches!(put, Err(OwnershipError::OlderMetadata { .. })) {
            // Another copy of the store issued this number. From now on every agent refuses this
            // copy.
            report_divergence(&**metadata, Duration::MAX, "is an older copy").await;
        }
        put
    }

    /// Reports the outcome of a verification in health and metrics.
    ///
    /// # Errors
    /// The message of the outcome's error.
    pub fn report_outcome<T>(&self, outcome: Result<T, OwnershipError>) -> Result<T, String> {
        let OwnershipDeps { health, metrics, .. } = &self.deps;
        match outcome {
            Ok(value) => {
                health.set_met(ReadinessCondition::Cluster);
                Ok(value)
            }
            Err(error) => {
                if error.is_refusal() && health.set_unmet(ReadinessCondition::Cluster, error.to_string()) {
                    metrics.record_violation(Invariant::B1);
                }
                Err(error.to_string())
            }
        }
    }
}
