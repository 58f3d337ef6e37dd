//! Owns what the components of one agent share: the stores, the cluster directory, the replaceable
//! clock and entropy, and the current [`AgentSession`].
//!
//! A [`AgentSession`] is one registration with the metadata store. It ends when the lease is lost;
//! the lease keeper then registers again. What belongs to one registration (led partitions, the
//! writer) is never used by the next: its writes are fenced.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use streamhouse_core::{
    Incarnation,
    settings::AgentSettings,
    time::{Clock, Entropy},
};
use streamhouse_metadata::MetadataStore;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    directory::ClusterDirectory,
    failpoint::FailPointRegistry,
    fetch::{foreign_logs::ForeignLogWatcher, tail::TailBudget},
    health::{AgentHealth, ReadinessCondition},
    memory::ReadMemoryBudgets,
    metrics::{AgentMetrics, MemoryUse, PartitionKind, WriteStage},
    ownership::OwnershipVerifier,
    partition::LedPartitions,
    produce::WalWriter,
    store::{ObjectStore, blocks::BlockCache, health::StoreHealth},
    traces::AgentTraces,
};

/// One registration of this agent, from its incarnation's start until the lease is lost or
/// released.
#[derive(Debug)]
pub struct AgentSession {
    /// The incarnation that fences every write.
    pub incarnation: Incarnation,
    /// Numeric id of the agent (Kafka's broker id).
    pub node_id: i32,
    /// Partitions that this incarnation leads.
    pub partitions: Arc<LedPartitions>,
    /// Writes record batches to the object store.
    pub writer: WalWriter,
    /// Cancelled when the incarnation has ended: nothing may be acknowledged after that.
    pub ended: CancellationToken,
}

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
    /// The stage in which writes of the previous incarnation stalled, and since when; `None` while
    /// an incarnation is active.
    pub stalled_write: Mutex<Option<(WriteStage, Instant)>>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Cache of older batches read from the object store.
    pub blocks: BlockCache,
    /// Polls the logs of partitions that other agents lead, once for all waiting readers.
    pub foreign_logs: Arc<ForeignLogWatcher>,
    /// One permit for each cold read that may run concurrently.
    pub cold_reads: Semaphore,
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
    pub session: ArcSwapOption<AgentSession>,
}

impl AgentNode {
    /// Returns the active incarnation, if there is one.
    pub fn session(&self) -> Option<Arc<AgentSession>> {
        self.session.load_full()
    }

    /// Returns why this agent cannot store records, if a store is the cause.
    pub fn storage_problem(&self) -> Option<String> {
        let causes = [
            ReadinessCondition::ObjectStore,
            ReadinessCondition::Writes,
            ReadinessCondition::Metadata,
        ];
        causes.into_iter().find_map(|condition| {
            let why = self.health.reason(condition)?;
            Some(match condition {
                ReadinessCondition::ObjectStore => format!("the object store: {why}"),
                ReadinessCondition::Metadata => format!("the metadata store: {why}"),
                _ => why,
            })
        })
    }

    /// Updates the gauges before a scrape.
    pub fn update_gauges(&self) {
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let session = self.session();
        self.metrics
            .active_partitions
            .set(session.as_ref().map_or(0, |life| gauge(life.partitions.len())));
        self.metrics.queue_bytes.set(
            session
                .as_ref()
                .map_or(0, |life| gauge(life.writer.queued_bytes())),
        );
        let oldest = session.as_ref().and_then(|life| life.writer.oldest_write());
        // A stalled write is as old as the stall that ended its incarnation.
        let stalled = self
            .stalled_write
            .lock()
            .map(|(stage, since)| (stage, since.elapsed()));
        self.metrics.set_write_age(oldest.or(stalled));
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
