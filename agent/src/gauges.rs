//! Sets the gauges that are computed when they are scraped. Called by the metrics page and by the
//! console.

use std::sync::Arc;

use crate::{
    directory::ClusterDirectory,
    health::AgentHealth,
    memory::ReadMemoryBudgets,
    metrics::{AgentMetrics, MemoryUse, PartitionKind},
    partition::tail::TailBudget,
    produce::CurrentWriter,
    session::CurrentSession,
    store::blocks::BlockCache,
};

/// What the gauges are computed from.
#[derive(Debug, Clone)]
pub struct AgentGauges {
    /// The metrics that are set.
    pub metrics: Arc<AgentMetrics>,
    /// The active session.
    pub session: Arc<CurrentSession>,
    /// The writer of the active incarnation.
    pub writer: Arc<CurrentWriter>,
    /// Budget of the newest batches.
    pub tails: Arc<TailBudget>,
    /// Memory budgets of readers and of the segment roller.
    pub memory: ReadMemoryBudgets,
    /// Cache of older batches.
    pub blocks: BlockCache,
    /// Readiness of this agent.
    pub health: Arc<AgentHealth>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
}

impl AgentGauges {
    /// Updates the gauges before a scrape.
    pub fn update(&self) {
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        let session = self.session.get();
        let led = session.as_ref().map_or(0, |session| session.partitions.len());
        metrics.active_partitions.set(gauge(led));
        metrics.queue_bytes.set(gauge(self.writer.queued_bytes()));
        metrics.set_write_age(self.writer.oldest_write());
        let stored = session.map_or(0, |session| session.partitions.size_bytes());
        metrics.stored_bytes.set(stored);
        metrics.tail_bytes.set(gauge(self.tails.bytes()));
        let in_flight = usize::try_from(self.blocks.in_flight_bytes()).unwrap_or(usize::MAX);
        for (of, bytes) in [
            (MemoryUse::Fetch, self.memory.fetch.used()),
            (MemoryUse::ColdReads, self.memory.cold_reads.used()),
            (MemoryUse::Roll, self.memory.roll.used()),
            (MemoryUse::InFlight, in_flight),
        ] {
            metrics.set_memory_used(of, bytes);
        }
        metrics.ready.set(i64::from(self.health.is_ready()));
        let view = self.directory.view();
        if view.version > 0 {
            metrics.set_cluster(PartitionKind::Topic, view.count_led(false));
            metrics.set_cluster(PartitionKind::Coordinator, view.count_led(true));
            metrics.set_unswept(view.unswept_backlog());
            metrics.retain_topics(|topic| view.topic(topic).is_some());
        }
    }
}
