//! What the parts of one agent share: the stores, the directory, the seams, and the current [`Life`].
//!
//! A life is one registration with the metadata store. It ends when the lease is lost; the lease keeper then begins a new
//! one. What belongs to a life (held partitions, the writer) is never used by the next: it is fenced.

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
    directory::Directory,
    failpoint::FailPoints,
    fetch::{looks::ForeignLooks, tail::TailBudget},
    health::{Condition, Health},
    memory::ReadMemory,
    metrics::{MemoryUse, Metrics, PartitionKind, WriteStage},
    ownership::Ownership,
    partition::Held,
    produce::Writer,
    store::{ObjectStore, blocks::BlockCache, health::StoreHealth},
    traces::AgentTraces,
};

/// One registration of this agent, until its lease is lost or handed back.
#[derive(Debug)]
pub struct Life {
    /// Fences every write.
    pub incarnation: Incarnation,
    /// Kafka's broker id.
    pub node_id: i32,
    /// What this life leads.
    pub held: Arc<Held>,
    /// Takes batches to the object store.
    pub writer: Writer,
    /// Cancelled when the life is over: nothing may be promised any more.
    pub over: CancellationToken,
}

/// The shared parts.
#[derive(Debug)]
pub struct Node {
    /// As given.
    pub settings: AgentSettings,
    /// Topics, leases, offsets.
    pub metadata: Arc<dyn MetadataStore>,
    /// Batches.
    pub store: Arc<dyn ObjectStore>,
    /// Whether batches can be stored.
    pub store_health: Arc<StoreHealth>,
    /// What the life before was given up for, and since when that lasts; `None` while a life lasts.
    pub stalled: Mutex<Option<(WriteStage, Instant)>>,
    /// The cluster as last seen.
    pub directory: Arc<Directory>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Older batches, as read from the object store.
    pub blocks: BlockCache,
    /// Looks at partitions that others lead, for everybody who waits.
    pub looks: Arc<ForeignLooks>,
    /// A permit for each cold read that may run at once.
    pub cold_reads: Semaphore,
    /// What readers and the segment roller may hold.
    pub memory: ReadMemory,
    /// The newest batches, in memory.
    pub tails: Arc<TailBudget>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Whether it is ready, and why not.
    pub health: Arc<Health>,
    /// What is said of it in traces.
    pub traces: AgentTraces,
    /// Whether the two stores belong together.
    pub ownership: Ownership,
    /// Where tests interfere.
    pub failpoints: Arc<FailPoints>,
    /// `None` between lives and while draining is over.
    pub life: ArcSwapOption<Life>,
}

impl Node {
    /// The current life, if there is one.
    pub fn life(&self) -> Option<Arc<Life>> {
        self.life.load_full()
    }

    /// Why this agent cannot take records at the moment, as far as the stores are to blame.
    pub fn cannot_store(&self) -> Option<String> {
        let causes = [Condition::ObjectStore, Condition::Writes, Condition::Metadata];
        causes.into_iter().find_map(|condition| {
            let why = self.health.reason(condition)?;
            Some(match condition {
                Condition::ObjectStore => format!("the object store: {why}"),
                Condition::Metadata => format!("the metadata store: {why}"),
                _ => why,
            })
        })
    }

    /// Brings the gauges up to date, for a scrape.
    pub fn measure(&self) {
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let life = self.life();
        self.metrics
            .active_partitions
            .set(life.as_ref().map_or(0, |life| gauge(life.held.len())));
        self.metrics
            .queue_bytes
            .set(life.as_ref().map_or(0, |life| gauge(life.writer.queued_bytes())));
        let oldest = life.as_ref().and_then(|life| life.writer.oldest());
        // A write that a life was given up for is as old as its cause.
        let stalled = self.stalled.lock().map(|(stage, since)| (stage, since.elapsed()));
        self.metrics.set_write_age(oldest.or(stalled));
        let stored = life.as_ref().map_or(0, |life| life.held.size_bytes());
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
            self.metrics.set_cluster(PartitionKind::Topic, view.led(false));
            self.metrics
                .set_cluster(PartitionKind::Coordinator, view.led(true));
            self.metrics.set_unswept(view.unswept());
            self.metrics.retain_topics(|topic| view.topic(topic).is_some());
        }
    }
}
