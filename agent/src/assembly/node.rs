//! Owns the components that the parts of one agent share, and gives each part its own dependencies.

use std::sync::Arc;

use streamhouse_core::{
    settings::AgentSettings,
    time::{Clock, Entropy, system_clock, system_entropy},
    trace::OptionalTracer,
};
use streamhouse_metadata::MetadataStore;
use tokio::sync::Semaphore;

use super::settings::{metadata_store_kind, redact_url};
use crate::{
    console::ConsoleDeps,
    directory::ClusterDirectory,
    failpoint::FailPointRegistry,
    fetch::{FetchDeps, FetchLimits, foreign_logs::ForeignLogWatcher},
    forward::{ForwardDeps, ForwardLimits, PeerForwarder},
    gauges::AgentGauges,
    groups::{CoordinatorDeps, GroupCoordinator, GroupLimits},
    health::AgentHealth,
    kafka::KafkaDeps,
    leases::LeaseDeps,
    log::LogReader,
    maintenance::{MaintenanceDeps, MaintenanceLimits},
    memory::{ByteBudget, ReadMemoryBudgets},
    metrics::AgentMetrics,
    ownership::{OwnershipDeps, OwnershipVerifier},
    partition::tail::TailBudget,
    produce::{CurrentWriter, ProduceDeps, WriterDeps},
    security::ClientSecurity,
    server::{ServerDeps, ServerLimits},
    session::CurrentSession,
    store::{
        ObjectStore,
        blocks::{BlockCache, BlockMetrics, DEFAULT_BLOCK_SIZE},
        health::StoreHealth,
    },
    tls::{ListenerCertificates, ListenerKind},
    topics::TopicDeps,
    traces::AgentTraces,
};

/// Concurrent reads of the object store on behalf of readers that are behind.
const MAX_CONCURRENT_COLD_READS: usize = 16;

/// The part of the memory for requests that is for calls which are forwarded to other agents: one
/// of this many.
const FORWARDED_CALLS_SHARE: u64 = 16;

/// Smallest limit on answers of other agents: enough for every answer that they give.
const MIN_MAX_ANSWER_BYTES: usize = 32 << 20;

/// The components that the parts of one agent share.
#[derive(Debug)]
pub(super) struct AgentNode {
    /// Settings of the agent.
    pub(super) settings: AgentSettings,
    /// Metadata store: topics, leases, offsets.
    pub(super) metadata: Arc<dyn MetadataStore>,
    /// Object store: record batches.
    pub(super) store: Arc<dyn ObjectStore>,
    /// Whether the object store accepts writes.
    pub(super) store_health: Arc<StoreHealth>,
    /// The cluster as of the newest snapshot.
    pub(super) directory: Arc<ClusterDirectory>,
    /// Wall clock.
    pub(super) clock: Arc<dyn Clock>,
    /// Source of randomness.
    pub(super) entropy: Arc<dyn Entropy>,
    /// Cache of older batches read from the object store.
    pub(super) blocks: BlockCache,
    /// Polls the logs of partitions that other agents lead, once for all waiting readers.
    pub(super) foreign_logs: Arc<ForeignLogWatcher>,
    /// One permit for each cold read that may run concurrently.
    cold_reads: Arc<Semaphore>,
    /// Memory budgets of readers and of the segment roller.
    pub(super) memory: ReadMemoryBudgets,
    /// Budget of the newest batches, which are kept in memory.
    pub(super) tails: Arc<TailBudget>,
    /// Metrics of this agent.
    pub(super) metrics: Arc<AgentMetrics>,
    /// Readiness, with the reasons why the agent is not ready.
    pub(super) health: Arc<AgentHealth>,
    /// Certificates of the listeners.
    tls: Arc<ListenerCertificates>,
    /// Budget of requests that are arriving, and of records that are being forwarded.
    pub(super) request_memory: ByteBudget,
    /// Memory of calls that are being forwarded, in bytes.
    call_memory: u64,
    /// Who clients are and what they may do.
    pub(super) security: Arc<ClientSecurity>,
    /// Starts the agent's trace spans.
    traces: AgentTraces,
    /// Verifies that the two stores belong to the same cluster.
    pub(super) ownership: Arc<OwnershipVerifier>,
    /// Fail points of tests.
    pub(super) failpoints: Arc<FailPointRegistry>,
    /// The active session.
    pub(super) session: Arc<CurrentSession>,
    /// The writer of the active incarnation.
    pub(super) writer: Arc<CurrentWriter>,
}

impl AgentNode {
    /// Creates the components of an agent on both stores.
    pub(super) fn new(
        settings: AgentSettings,
        metadata: Arc<dyn MetadataStore>,
        (store, store_health): (Arc<dyn ObjectStore>, Arc<StoreHealth>),
        (metrics, tls): (Arc<AgentMetrics>, Arc<ListenerCertificates>),
        traces: OptionalTracer,
    ) -> Self {
        let budgets = settings.memory_budgets();
        let bound = i64::try_from(budgets.total()).unwrap_or(i64::MAX);
        metrics.memory_bound.set(bound);
        // One half for the newest batches, the other half for blocks of older ones.
        let cache = settings.cache_memory.0 / 2;
        let block_metrics = BlockMetrics {
            hits: metrics.cache_hits.clone(),
            misses: metrics.cache_misses.clone(),
            held_bytes: metrics.cache_bytes.clone(),
        };
        let call_memory = budgets.requests / FORWARDED_CALLS_SHARE;
        let (entropy, health) = (system_entropy(), store_health.health().clone());
        let security = ClientSecurity::new(&settings, entropy.clone(), metrics.clone());
        let ownership = OwnershipVerifier::new(OwnershipDeps {
            metadata: metadata.clone(),
            store: store.clone(),
            entropy: entropy.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        });
        Self {
            metadata,
            directory: Arc::default(),
            clock: system_clock(),
            entropy,
            blocks: BlockCache::new(store.clone(), cache, DEFAULT_BLOCK_SIZE, block_metrics),
            store,
            foreign_logs: Arc::default(),
            cold_reads: Arc::new(Semaphore::new(MAX_CONCURRENT_COLD_READS)),
            memory: ReadMemoryBudgets::new(&budgets),
            tails: Arc::new(TailBudget::new(usize::try_from(cache).unwrap_or(usize::MAX))),
            metrics,
            health,
            store_health,
            request_memory: ByteBudget::new(budgets.requests - call_memory),
            call_memory,
            tls,
            traces: AgentTraces::new(traces, settings.metadata_url.expose()),
            ownership: Arc::new(ownership),
            failpoints: Arc::default(),
            session: Arc::default(),
            writer: Arc::default(),
            security: Arc::new(security),
            settings,
        }
    }

    /// Returns the reader of logs that are no longer in a tail.
    pub(super) fn log(&self) -> LogReader {
        LogReader {
            metadata: self.metadata.clone(),
            blocks: self.blocks.clone(),
            turns: self.cold_reads.clone(),
            memory: self.memory.cold_reads.clone(),
            session: self.session.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Returns the dependencies of produce.
    pub(super) fn produce(&self) -> ProduceDeps {
        ProduceDeps {
            writer: self.writer.clone(),
            directory: self.directory.clone(),
            clock: self.clock.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
        }
    }

    /// Returns the dependencies of fetch.
    pub(super) fn fetch(&self) -> FetchDeps {
        FetchDeps {
            log: self.log(),
            directory: self.directory.clone(),
            session: self.session.clone(),
            tails: self.tails.clone(),
            foreign_logs: self.foreign_logs.clone(),
            memory: self.memory.fetch.clone(),
            metrics: self.metrics.clone(),
            limits: FetchLimits {
                max_response_bytes: self.settings.max_fetch_bytes.as_usize(),
                max_batch_bytes: self.settings.max_request_bytes.as_usize(),
            },
        }
    }

    /// Returns the dependencies of the group coordinator.
    pub(super) fn coordinator(&self) -> CoordinatorDeps {
        CoordinatorDeps {
            store: self.metadata.clone(),
            entropy: self.entropy.clone(),
            cluster: self.directory.clone(),
            metrics: self.metrics.clone(),
            limits: GroupLimits::for_mode(self.settings.dev),
        }
    }

    /// Returns the dependencies of the topic calls.
    pub(super) fn topics(&self) -> TopicDeps {
        TopicDeps {
            metadata: self.metadata.clone(),
            directory: self.directory.clone(),
            session: self.session.clone(),
            log: self.log(),
        }
    }

    /// Returns the dependencies of the background jobs.
    pub(super) fn maintenance(&self) -> MaintenanceDeps {
        let settings = &self.settings;
        MaintenanceDeps {
            metadata: self.metadata.clone(),
            store: self.store.clone(),
            log: self.log(),
            ownership: self.ownership.clone(),
            directory: self.directory.clone(),
            session: self.session.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            memory: self.memory.roll.clone(),
            metrics: self.metrics.clone(),
            failpoints: self.failpoints.clone(),
            limits: MaintenanceLimits {
                object_grace: settings.object_grace,
                offsets_retention: settings.offsets_retention,
                max_object_bytes: settings.flush_bytes.as_usize() + settings.max_request_bytes.as_usize(),
            },
        }
    }

    /// Returns the dependencies of the lease keeper.
    pub(super) fn leases(&self, groups: &Arc<GroupCoordinator>) -> LeaseDeps {
        LeaseDeps {
            metadata: self.metadata.clone(),
            ownership: self.ownership.clone(),
            store_health: self.store_health.clone(),
            directory: self.directory.clone(),
            groups: groups.clone(),
            writer_deps: WriterDeps {
                metadata: self.metadata.clone(),
                store: self.store.clone(),
                entropy: self.entropy.clone(),
                tails: self.tails.clone(),
                metrics: self.metrics.clone(),
                traces: self.traces.clone(),
                failpoints: self.failpoints.clone(),
            },
            session: self.session.clone(),
            writer: self.writer.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Returns what the gauges are computed from.
    pub(super) fn gauges(&self) -> AgentGauges {
        AgentGauges {
            metrics: self.metrics.clone(),
            session: self.session.clone(),
            writer: self.writer.clone(),
            tails: self.tails.clone(),
            memory: self.memory.clone(),
            blocks: self.blocks.clone(),
            health: self.health.clone(),
            directory: self.directory.clone(),
        }
    }

    fn console(&self, coordinator: &Arc<GroupCoordinator>) -> ConsoleDeps {
        ConsoleDeps {
            metadata: self.metadata.clone(),
            directory: self.directory.clone(),
            session: self.session.clone(),
            coordinator: coordinator.clone(),
            fetch: self.fetch(),
            gauges: self.gauges(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            security: self.security.clone(),
            clock: self.clock.clone(),
            agent_id: self.settings.agent_id.clone(),
            lease_ttl: self.settings.lease_ttl,
            object_store: self.store.describe(),
            metadata_store: metadata_store_kind(self.settings.metadata_url.expose()),
        }
    }

    /// Returns the largest answer of another agent that is accepted, in bytes.
    fn max_answer_bytes(&self) -> usize {
        self.settings
            .max_request_bytes
            .as_usize()
            .max(MIN_MAX_ANSWER_BYTES)
    }

    /// Returns the dependencies of the forwarder.
    pub(super) fn forward(&self) -> ForwardDeps {
        ForwardDeps {
            directory: self.directory.clone(),
            session: self.session.clone(),
            security: self.security.clone(),
            clock: self.clock.clone(),
            request_memory: self.request_memory.clone(),
            call_memory: self.call_memory,
            tls: self.tls.certificate(ListenerKind::Grpc).cloned(),
            metrics: self.metrics.clone(),
            max_answer_bytes: self.max_answer_bytes(),
            limits: ForwardLimits::default(),
        }
    }

    /// Returns the dependencies of the Kafka listener.
    fn kafka(&self, coordinator: &Arc<GroupCoordinator>) -> KafkaDeps {
        let auto_create = self.settings.kafka_auto_create_partitions;
        let produce_requests = self.request_memory.capacity() / 2;
        let unauthenticated_requests = self.request_memory.capacity() / 4;
        KafkaDeps {
            produce: self.produce(),
            fetch: self.fetch(),
            topics: self.topics(),
            groups: coordinator.clone(),
            metadata: self.metadata.clone(),
            directory: self.directory.clone(),
            metrics: self.metrics.clone(),
            request_memory: self.request_memory.clone(),
            produce_request_memory: ByteBudget::new(produce_requests as u64),
            unauthenticated_request_memory: ByteBudget::new(unauthenticated_requests as u64),
            max_request_bytes: self.settings.max_request_bytes.as_usize(),
            auto_create_partitions: (auto_create > 0).then_some(auto_create),
            security: self.security.clone(),
        }
    }

    /// Returns the dependencies of the server.
    pub(super) fn server(&self, coordinator: &Arc<GroupCoordinator>) -> ServerDeps {
        let settings = &self.settings;
        ServerDeps {
            produce: self.produce(),
            fetch: self.fetch(),
            topics: self.topics(),
            groups: coordinator.clone(),
            forward: PeerForwarder::new(self.forward()),
            console: settings.console.then(|| self.console(coordinator)),
            gauges: self.gauges(),
            metadata: self.metadata.clone(),
            security: self.security.clone(),
            clock: self.clock.clone(),
            directory: self.directory.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            limits: ServerLimits {
                max_connections: settings.max_connections,
                max_connections_per_address: settings.max_connections_per_address,
                max_request_bytes: settings.max_request_bytes.as_usize(),
            },
            kafka: Arc::new(self.kafka(coordinator)),
            request_memory: self.request_memory.clone(),
            max_answer_bytes: self.max_answer_bytes(),
            metadata_store: redact_url(settings.metadata_url.expose()),
            object_store: self.store.describe(),
        }
    }
}

#[cfg(test)]
impl AgentNode {
    /// Returns the active session, if there is one.
    pub(super) fn session(&self) -> Option<Arc<crate::session::AgentSession>> {
        self.session.get()
    }
}
