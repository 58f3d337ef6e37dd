//! What the lease keeper and its tasks depend on.

use std::sync::Arc;

use streamhouse_core::time::{Clock, Entropy};
use streamhouse_metadata::MetadataStore;

use crate::{
    directory::ClusterDirectory,
    groups::GroupCoordinator,
    health::AgentHealth,
    metrics::AgentMetrics,
    ownership::OwnershipVerifier,
    produce::{CurrentWriter, WriterDeps},
    session::CurrentSession,
    store::health::StoreHealth,
};

/// Dependencies of the lease keeper.
#[derive(Debug, Clone)]
pub struct LeaseDeps {
    /// Where the agent registers and leases are taken.
    pub metadata: Arc<dyn MetadataStore>,
    /// Verifies before each registration that the two stores belong together.
    pub ownership: Arc<OwnershipVerifier>,
    /// Whether the object store accepts writes.
    pub store_health: Arc<StoreHealth>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Coordinates the groups of the led coordinator slots.
    pub groups: Arc<GroupCoordinator>,
    /// Dependencies of each incarnation's writer.
    pub writer_deps: WriterDeps,
    /// Holds the session of the active incarnation.
    pub session: Arc<CurrentSession>,
    /// Holds the writer of the active incarnation.
    pub writer: Arc<CurrentWriter>,
    /// Time of the last success of the keeper's jobs.
    pub clock: Arc<dyn Clock>,
    /// Source of jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Readiness, with the reasons why the agent is not ready.
    pub health: Arc<AgentHealth>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
}
