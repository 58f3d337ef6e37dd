//! Owns what the components of one agent share: the stores, the cluster directory, the replaceable
//! clock and entropy, and the current [`AgentSession`].

use std::sync::Arc;

use streamhouse_core::{
    settings::AgentSettings,
    time::{Clock, Entropy},
};
use streamhouse_metadata::MetadataStore;

use crate::{
    directory::ClusterDirectory,
    failpoint::FailPointRegistry,
    fetch::FetchDeps,
    health::AgentHealth,
    maintenance::MaintenanceDeps,
    memory::ReadMemoryBudgets,
    metrics::{AgentMetrics, MemoryUse, PartitionKind},
    ownership::OwnershipVerifier,
    partition::tail::TailBudget,
    produce::{CurrentWriter, ProduceDeps},
    session::{AgentSession, CurrentSession},
    store::{ObjectStore, blocks::BlockCache, health::StoreHealth},
    topics::TopicDeps,
    traces::AgentTraces,
};

/// Components shared by the parts of one agent.
#[derive(Debug)]
pub struct AgentNode {
    /// Settings of the agent.
    pub settings: AgentSettings,
    /// Metadata store: topics, leases, offsets.
    pub metadata: Arc<dyn MetadataStore>,
    /// Object store: record batches.
    pub store: Arc<dyn ObjectStore>,
    /// Whether the object store accepts writes.
    pub store_health: Arc<StoreHealth>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Cache of older batches read from the object store.
    pub blocks: BlockCache,
    /// Memory budgets of readers and of the segment roller.
    pub memory: ReadMemoryBudgets,
    /// Budget of the newest batches, which are kept in memory.
    pub tails: Arc<TailBudget>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Readiness, with the reasons why the agent is not ready.
    pub health: Arc<AgentHealth>,
    /// Starts the agent's trace spans.
    pub traces: AgentTraces,
    /// Verifies that the two stores belong to the same cluster.
    pub ownership: Arc<OwnershipVerifier>,
    /// Fail points of tests.
    pub failpoints: Arc<FailPointRegistry>,
    /// The active incarnation; `None` between incarnations and after a drain.
    pub session: Arc<CurrentSession>,
    /// The writer of the active incarnation.
    pub writer: Arc<CurrentWriter>,
    /// Dependencies of produce.
    pub produce: ProduceDeps,
    /// Dependencies of fetch.
    pub fetch: FetchDeps,
    /// Dependencies of the topic calls.
    pub topics: TopicDeps,
    /// Dependencies of the background jobs.
    pub maintenance: MaintenanceDeps,
}

impl AgentNode {
    /// Returns the active incarnation, if there is one.
    pub fn session(&self) -> Option<Arc<AgentSession>> {
        self.session.get()
    }

    /// Updates the gauges before a scrape.
    pub fn update_gauges(&self) {
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let session = self.session();
        self.metrics
            .active_partitions
            .set(session.as_ref().map_or(0, |life| gauge(life.partitions.len())));
        self.metrics.queue_bytes.set(gauge(self.writer.queued_bytes()));
        self.metrics.set_write_age(self.writer.oldest_write());
        let stored = session.as_ref().map_or(0, |life| life.partitions.size_bytes());
        self.metrics.stored_bytes.set(stored);
        self.metrics.tail_bytes.set(gauge(self.tails.bytes()));
        for (of, bytes) in [
            (MemoryUse::Fetch, self.memory.fetch.used()),
            (MemoryUse::ColdReads, self.memory.cold_reads.used()),
            (MemoryUse::Roll, self.memory.roll.used()),
            (
                MemoryUse::InFlight,
                usize::try_from(self.blocks.in_flight_bytes()).unwrap_or(usize::MAX),
            ),
        ] {
            self.metrics.set_memory_used(of, bytes);
        }
        self.metrics.ready.set(i64::from(self.health.is_ready()));
        let view = self.directory.view();
        if view.version > 0 {
            self.metrics
                .set_cluster(PartitionKind::Topic, view.count_led(false));
            self.metrics
                .set_cluster(PartitionKind::Coordinator, view.count_led(true));
            self.metrics.set_unswept(view.unswept_backlog());
            self.metrics.retain_topics(|topic| view.topic(topic).is_some());
        }
    }
}
