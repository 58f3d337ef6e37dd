//! What the services and pages of both ports depend on.

use std::sync::Arc;

use streamhouse_core::time::Clock;
use streamhouse_metadata::MetadataStore;

use crate::{
    console::ConsoleDeps, directory::ClusterDirectory, fetch::FetchDeps, forward::PeerForwarder,
    gauges::AgentGauges, groups::GroupCoordinator, health::AgentHealth, kafka::KafkaDeps, memory::ByteBudget,
    metrics::AgentMetrics, produce::ProduceDeps, security::ClientSecurity, topics::TopicDeps,
    traces::AgentTraces,
};

/// Dependencies of the server.
#[derive(Debug, Clone)]
pub struct ServerDeps {
    /// Handles produce requests.
    pub produce: ProduceDeps,
    /// Handles fetches.
    pub fetch: FetchDeps,
    /// Handles the topic calls.
    pub topics: TopicDeps,
    /// Handles the group calls.
    pub groups: Arc<GroupCoordinator>,
    /// Forwards calls that other agents must answer.
    pub forward: Arc<PeerForwarder>,
    /// Builds the console; `None` if it is disabled.
    pub console: Option<ConsoleDeps>,
    /// Updates the gauges before a scrape.
    pub gauges: AgentGauges,
    /// Producer ids and log bounds.
    pub metadata: Arc<dyn MetadataStore>,
    /// Who clients are and what they may do.
    pub security: Arc<ClientSecurity>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Readiness, with the reasons why the agent is not ready.
    pub health: Arc<AgentHealth>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Starts the agent's trace spans.
    pub traces: AgentTraces,
    /// Limits of clients' connections and requests.
    pub limits: ServerLimits,
    /// Serves Kafka clients.
    pub kafka: Arc<KafkaDeps>,
    /// Memory of all requests that are still arriving or being forwarded.
    pub request_memory: ByteBudget,
    /// Largest answer of another agent that is accepted, in bytes.
    pub max_answer_bytes: usize,
    /// The metadata store's URL, without what may be secret.
    pub metadata_store: String,
    /// The object store, as its settings name it.
    pub object_store: String,
}

/// Limits of clients' connections and requests.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Maximum number of connections of each gRPC listener and of the Kafka listener.
    pub max_connections: usize,
    /// Maximum number of these that one address may have; 0 for any number.
    pub max_connections_per_address: usize,
    /// Maximum size of one request, in bytes.
    pub max_request_bytes: usize,
}
