//! What the console depends on.

use std::sync::Arc;

use streamhouse_core::time::Clock;
use streamhouse_metadata::MetadataStore;
use tokio::time::Duration;

use crate::{
    directory::ClusterDirectory, fetch::FetchDeps, gauges::AgentGauges, groups::GroupCoordinator,
    health::AgentHealth, metrics::AgentMetrics, security::ClientSecurity, session::CurrentSession,
};

/// Dependencies of the console. None of them is a setting that may be secret.
#[derive(Debug, Clone)]
pub struct ConsoleDeps {
    /// Topics, offsets and log bounds.
    pub metadata: Arc<dyn MetadataStore>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// The active session of this agent.
    pub session: Arc<CurrentSession>,
    /// Lists and describes groups.
    pub coordinator: Arc<GroupCoordinator>,
    /// Reads records like consumers read them.
    pub fetch: FetchDeps,
    /// Updates the gauges before they are shown.
    pub gauges: AgentGauges,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Readiness, with the reasons why the agent is not ready.
    pub health: Arc<AgentHealth>,
    /// Who people are and what they may see.
    pub security: Arc<ClientSecurity>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Id of this agent in its settings; may be empty.
    pub agent_id: String,
    /// Lease duration without a renewal.
    pub lease_ttl: Duration,
    /// The object store, as its settings name it.
    pub object_store: String,
    /// The kind of the metadata store's database. Its address and user are not exposed.
    pub metadata_store: &'static str,
}
