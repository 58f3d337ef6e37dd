//! Assembles the components of one agent, and starts and stops them in order. Called by `main`, and
//! by tests that run agents in their own process.
//!
//! 1. load the certificates, open the object store (without a request), bind both ports;
//! 2. serve: from now on `/health` answers and every other call returns what is missing;
//! 3. connect to the metadata store, verify that both stores belong to one cluster, and check the
//! object store, however long that takes;
//! 4. keep leases, watch the directory and run the background jobs until stopped.

use std::{
    fmt,
    fs::{File, TryLockError},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Context;
use futures::FutureExt;
use streamhouse_core::{
    backoff::BackoffPolicy,
    settings::AgentSettings,
    time::{system_clock, system_entropy},
    trace::OptionalTracer,
};
use streamhouse_metadata::{AgentRegistration, ConnectOptions, MetadataStore};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Duration, Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    deferred_metadata::DeferredMetadataStore,
    directory::ClusterDirectory,
    failpoint::FailPointRegistry,
    fetch::tail::TailBudget,
    groups::{GroupCoordinator, GroupGrpcService},
    health::{AgentHealth, ReadinessCondition},
    leases::{LeaseKeeper, watch},
    maintenance,
    memory::ReadMemoryBudgets,
    metrics::AgentMetrics,
    node::AgentNode,
    ownership::{self, OwnershipState, identity},
    process,
    produce::WriterSettings,
    server::ServerPorts,
    store::{
        self, ObjectStore, StoreSettings, blocks,
        health::{StoreHealth, WatchedStore},
    },
    tls::ListenerCertificates,
    traces::AgentTraces,
};

/// Concurrent reads of the object store on behalf of readers that are behind.
const MAX_CONCURRENT_COLD_READS: usize = 16;
/// Back-off between attempts to reach a store.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3));
/// Time limit of one check of the object store.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long calls in flight may take after all leases are handed over.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A running agent.
pub struct Agent {
    node: Arc<AgentNode>,
    keeper: Arc<LeaseKeeper>,
    addresses: (SocketAddr, SocketAddr),
    tls: Arc<ListenerCertificates>,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    working: JoinHandle<()>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Starts an agent. Its ports are bound and served when this returns; readiness follows on its
    /// own.
    ///
    /// # Errors
    /// If the object store cannot be opened, a certificate cannot be used, or a port cannot be
    /// bound.
    pub async fn start(settings: AgentSettings) -> anyhow::Result<Self> {
        Self::start_traced(settings, OptionalTracer::default()).await
    }

    /// Starts an agent as [`Agent::start`] does, and exports traces.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_traced(settings: AgentSettings, traces: OptionalTracer) -> anyhow::Result<Self> {
        Self::start_with_deferred_metadata(settings, Arc::new(DeferredMetadataStore::default()), traces).await
    }

    pub(crate) async fn start_with_deferred_metadata(
        settings: AgentSettings,
        deferred: Arc<DeferredMetadataStore>,
        traces: OptionalTracer,
    ) -> anyhow::Result<Self> {
        streamhouse_metadata::check_address(settings.metadata_url.expose()).context("metadata-url")?;
        if settings.dev {
            let made = std::fs::create_dir_all(&settings.data_dir);
            made.with_context(|| {
                format!("cannot create the data directory {}", settings.data_dir.display())
            })?;
        }
        let store = store::open_store(&store_settings(&settings))
            .await
            .context("the object store cannot be opened")?;
        Self::start_with_stores(settings, deferred, store, traces).await
    }

    /// Starts an agent as [`Agent::start`] does, on an object store that is already open; the
    /// metadata store may already be connected.
    pub(crate) async fn start_with_stores(
        settings: AgentSettings,
        deferred: Arc<DeferredMetadataStore>,
        store: Arc<dyn ObjectStore>,
        traces: OptionalTracer,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(AgentMetrics::new()?);
        let tls = Arc::new(ListenerCertificates::load(settings.tls_dir.as_deref(), &metrics).await?);
        let store_health = StoreHealth::new(Arc::new(AgentHealth::default()));
        let store = Arc::new(WatchedStore::new(store, store_health.clone()));
        let store: Arc<dyn ObjectStore> = Arc::new(store::metered::MeteredObjectStore::new(
            store,
            metrics.registry(),
        )?);
        let node = Arc::new(build_node(
            settings,
            deferred.clone(),
            (store, store_health),
            metrics,
            traces,
        ));
        let ports = ServerPorts::bind(&node.settings.grpc_listen, &node.settings.http_listen).await?;
        let addresses = ports.addresses()?;
        let coordinator = GroupCoordinator::new(node.clone());
        let registration = registration(&node.settings, addresses);
        let groups = GroupGrpcService::new(coordinator.clone());
        let reporting = coordinator.clone();
        let keeper = Arc::new(LeaseKeeper::new(
            node.clone(),
            coordinator,
            registration,
            writer_settings(&node.settings),
        ));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned().map(drop).shared();
        let serving = tokio::spawn(ports.serve(node.clone(), groups, tls.clone(), stopped));
        let working = tokio::spawn(run_background_tasks(
            node.clone(),
            deferred,
            keeper.clone(),
            reporting,
            stop.clone(),
        ));
        Ok(Self {
            node,
            keeper,
            addresses,
            tls,
            stop,
            serving,
            working,
        })
    }

    /// Returns the components shared within the agent.
    pub fn node(&self) -> &Arc<AgentNode> {
        &self.node
    }

    /// Returns the bound addresses of gRPC and HTTP.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        self.addresses
    }

    /// Returns the certificates of the listeners.
    pub fn tls(&self) -> &Arc<ListenerCertificates> {
        &self.tls
    }

    /// Waits until a component of the agent ends without being stopped, which only a failure can
    /// cause. The agent cannot be used afterwards.
    pub async fn wait_for_failure(&mut self) -> anyhow::Error {
        tokio::select! {
            served = &mut self.serving => match served {
                Ok(Err(error)) => error.context("serving failed"),
                Ok(Ok(())) => anyhow::anyhow!("serving ended unexpectedly"),
                Err(error) => anyhow::Error::from(error).context("serving failed"),
            },
            worked = &mut self.working => match worked {
                Ok(()) => anyhow::anyhow!("the lease keeper ended unexpectedly"),
                Err(error) => anyhow::Error::from(error).context("the lease keeper failed"),
            },
        }
    }

    /// Hands over all leases within the drain timeout, then stops the agent.
    pub async fn drain(mut self) {
        let deadline = Instant::now() + self.node.settings.drain_timeout;
        let open = self.node.metrics.connections.clone();
        self.keeper.drain(deadline, || open.get() > 0).await;
        // The keeper releases what is left even after the deadline.
        let _ = timeout(SHUTDOWN_GRACE, &mut self.working).await;
        self.stop.cancel();
        let _ = timeout(SHUTDOWN_GRACE, &mut self.serving).await;
        match timeout(SHUTDOWN_GRACE, self.node.metadata.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "closing the metadata store failed"),
            Err(_) => tracing::warn!("closing the metadata store timed out"),
        }
        tracing::info!("stopped");
    }

    /// Stops at once without handing leases over, as a crash would.
    pub async fn crash(mut self) {
        self.working.abort();
        self.serving.abort();
        let _ = (&mut self.working).await;
        let _ = (&mut self.serving).await;
        if let Some(session) = self.node.session.swap(None) {
            session.ended.cancel();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.working.abort();
    }
}

fn build_node(
    settings: AgentSettings,
    deferred: Arc<DeferredMetadataStore>,
    (store, store_health): (Arc<dyn ObjectStore>, Arc<StoreHealth>),
    metrics: Arc<AgentMetrics>,
    traces: OptionalTracer,
) -> AgentNode {
    let budgets = settings.memory_budgets();
    let bound = i64::try_from(budgets.total()).unwrap_or(i64::MAX);
    metrics.memory_bound.set(bound);
    // One half for the newest batches, the other half for blocks of older ones.
    let cache = settings.cache_memory.0 / 2;
    let block_metrics = blocks::BlockMetrics {
        hits: metrics.cache_hits.clone(),
        misses: metrics.cache_misses.clone(),
        held_bytes: metrics.cache_bytes.clone(),
    };
    AgentNode {
        metadata: deferred,
        directory: Arc::new(ClusterDirectory::default()),
        clock: system_clock(),
        entropy: system_entropy(),
        blocks: blocks::BlockCache::new(store.clone(), cache, blocks::DEFAULT_BLOCK_SIZE, block_metrics),
        store,
        foreign_logs: Arc::default(),
        cold_reads: Semaphore::new(MAX_CONCURRENT_COLD_READS),
        memory: ReadMemoryBudgets::new(&budgets),
        tails: Arc::new(TailBudget::new(usize::try_from(cache).unwrap_or(usize::MAX))),
        metrics,
        health: store_health.health().clone(),
        store_health,
        stalled_write: parking_lot::Mutex::default(),
        traces: AgentTraces::new(traces, settings.metadata_url.expose()),
        ownership: OwnershipState::default(),
        failpoints: Arc::new(FailPointRegistry::default()),
        session: arc_swap::ArcSwapOption::empty(),
        settings,
    }
}

/// Returns the object store settings of an agent.
pub fn store_settings(settings: &AgentSettings) -> StoreSettings {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    StoreSettings {
        url: settings.object_store.clone(),
        endpoint: text(&settings.s3_endpoint),
        region: text(&settings.s3_region),
        path_style: settings.s3_path_style.then_some(true),
        ca_file: settings.s3_ca_file.clone(),
        credentials: None,
    }
}

/// Returns the metadata connection options of an agent.
pub fn connect_options(settings: &AgentSettings) -> ConnectOptions {
    ConnectOptions {
        max_connections: settings.metadata_max_connections,
        acquire_timeout: settings.metadata_timeout,
        statement_timeout: settings.metadata_timeout,
        application_name: "streamhouse-agent".to_owned(),
        tls: None,
    }
}

fn writer_settings(settings: &AgentSettings) -> WriterSettings {
    WriterSettings {
        flush_interval: settings.flush_interval,
        flush_bytes: settings.flush_bytes.as_usize(),
        upload_concurrency: settings.upload_concurrency,
        memory: settings.produce_memory.as_usize(),
    }
}

fn registration(settings: &AgentSettings, (grpc, http): (SocketAddr, SocketAddr)) -> AgentRegistration {
    let host = process::host_name();
    let given = |given: &str, bound| {
        if given.is_empty() {
            advertised_address(bound, settings.dev, host.as_deref())
        } else {
            given.to_owned()
        }
    };
    AgentRegistration {
        agent_id: if settings.agent_id.is_empty() {
            host.clone().unwrap_or_else(|| "agent".to_owned())
        } else {
            settings.agent_id.clone()
        },
        grpc_address: given(&settings.advertised_grpc_address, grpc),
        http_address: given(&settings.advertised_http_address, http),
        kafka_address: String::new(),
        zone: settings.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lease_ttl: settings.lease_ttl,
    }
}

/// Another agent uses the data directory.
#[derive(Debug, thiserror::Error)]
#[error("another agent uses the data directory {0}; stop it, or give this agent another --data-dir")]
pub struct DataDirInUseError(String);

/// Locks the data directory of the embedded default for as long as the returned file stays open.
/// Returns `None` with other settings, which have no data directory.
///
/// # Errors
/// [`DataDirInUseError`] if another agent holds the lock; otherwise if the directory cannot be
/// written.
pub fn lock_data_dir(settings: &AgentSettings) -> anyhow::Result<Option<File>> {
    if !settings.dev {
        return Ok(None);
    }
    let shown = settings.data_dir.display();
    let made = std::fs::create_dir_all(&settings.data_dir);
    made.with_context(|| format!("cannot create the data directory {shown}"))?;
    let lock = File::create(settings.data_dir.join("agent.lock"));
    let lock = lock.with_context(|| format!("cannot write to the data directory {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(DataDirInUseError(shown.to_string()).into()),
        // The file system has no locks: a second agent cannot be detected.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "cannot lock the data directory; do not run a second agent on it");
            Ok(None)
        }
    }
}

/// Returns the address that clients connect to: the bound address or, where it means every
/// interface, the host name.
fn advertised_address(bound: SocketAddr, dev: bool, host: Option<&str>) -> String {
    match host {
        _ if !bound.ip().is_unspecified() => bound.to_string(),
        Some(host) if !dev => format!("{host}:{}", bound.port()),
        _ => format!("127.0.0.1:{}", bound.port()),
    }
}

/// Runs the background tasks of the agent until the lease keeper has finished or `stop` is
/// cancelled.
async fn run_background_tasks(
    node: Arc<AgentNode>,
    deferred: Arc<DeferredMetadataStore>,
    keeper: Arc<LeaseKeeper>,
    coordinator: Arc<GroupCoordinator>,
    stop: CancellationToken,
) {
    let every = node.settings.maintenance_interval;
    tokio::select! {
        () = stop.cancelled() => {}
        () = run_lease_keeper(node.clone(), deferred.clone(), keeper) => {}
        () = run_directory_watch(node.clone(), deferred) => {}
        () = coordinator.run_reports() => {}
        () = maintenance::run(node.clone(), every, stop.clone()) => {}
        () = recheck_object_store(&node) => {}
    }
}

/// Runs the lease keeper once both stores are usable: an agent that cannot store records must not
/// hold leases.
async fn run_lease_keeper(
    node: Arc<AgentNode>,
    deferred: Arc<DeferredMetadataStore>,
    keeper: Arc<LeaseKeeper>,
) {
    let proved = async {
        // Reads only: which cluster the bucket belongs to is known only after the metadata store is
        // reached.
        wait_for_object_store(&node, StoreProbe::Read).await;
        deferred.wait_connected().await;
        wait_for_object_store(&node, StoreProbe::ReadWrite).await;
        node.store_health.mark_proved();
    };
    tokio::select! {
        () = keeper.wait_stopped() => return,
        () = proved => {}
    }
    keeper.run().await;
}

/// Keeps the directory up to date once the metadata store is reached and verified to belong to this
/// bucket.
async fn run_directory_watch(node: Arc<AgentNode>, deferred: Arc<DeferredMetadataStore>) {
    if deferred.is_connected() {
        // Tests connect the store before the agent starts.
        ownership::wait_for_proof(&node, deferred.as_ref()).await;
    } else {
        let metadata = connect_metadata(&node).await;
        node.health.set_met(ReadinessCondition::Metadata);
        ownership::wait_for_proof(&node, metadata.as_ref()).await;
        deferred.set_store(metadata);
    }
    node.directory.request_refresh();
    watch::run(&node).await;
}

/// Connects to the metadata store, however long that takes.
async fn connect_metadata(node: &AgentNode) -> Arc<dyn MetadataStore> {
    let options = connect_options(&node.settings);
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match streamhouse_metadata::connect(node.settings.metadata_url.expose(), &options).await {
            Ok(store) => return store,
            Err(error) => {
                tracing::warn!(%error, "cannot reach the metadata store yet; retrying");
                node.health
                    .set_unmet(ReadinessCondition::Metadata, error.to_string());
            }
        }
        sleep(backoff.next_delay(&*node.entropy)).await;
    }
}

/// Checks the object store again whenever there is a reason to doubt it; never returns. This is how
/// an agent without writes learns that the store works again.
async fn recheck_object_store(node: &AgentNode) {
    loop {
        node.store_health.wait_doubtful().await;
        wait_for_object_store(node, StoreProbe::ReadWrite).await;
        node.store_health.mark_proved();
    }
}

/// A check of the object store.
#[derive(Debug, Clone, Copy)]
enum StoreProbe {
    /// Whether it can be read.
    Read,
    /// Whether it supports all required operations, which needs write access.
    ReadWrite,
}

/// Repeats a check of the object store until it succeeds.
async fn wait_for_object_store(node: &AgentNode, question: StoreProbe) {
    let store = node.store.as_ref();
    let ask = async || match question {
        StoreProbe::Read => identity::read_identity(store)
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        StoreProbe::ReadWrite => store::check_store(store, node.entropy.as_ref())
            .await
            .map_err(|error| error.to_string()),
    };
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        let problem = match timeout(STORE_CHECK_TIMEOUT, ask()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {STORE_CHECK_TIMEOUT:?}"),
        };
        tracing::warn!(
            store = node.store.describe(),
            problem,
            "the object store cannot be used yet; retrying"
        );
        node.health.set_unmet(ReadinessCondition::ObjectStore, problem);
        sleep(backoff.next_delay(&*node.entropy)).await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
