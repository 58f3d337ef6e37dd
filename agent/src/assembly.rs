//! Puts the parts of one agent together, starts them in order and stops them in order. Called by `main`, and by tests that
//! run agents in their own process.
//!
//! 1. load the certificates, open the object store (nothing is asked of it yet), bind both ports;
//! 2. serve: from here on `/health` is fine and everything else says what is missing;
//! 3. reach the metadata store, prove that both stores are of one cluster, and prove the object store, however long that takes;
//! 4. keep leases, watch the directory, run the background jobs, until told to stop.

use std::{
    fmt,
    fs::{File, TryLockError},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Context;
use futures::FutureExt;
use streamhouse_core::{
    settings::AgentSettings,
    time::{system_clock, system_entropy},
    trace::Traces,
};
use streamhouse_metadata::{AgentRegistration, ConnectOptions, MetadataStore};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Duration, Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    directory::Directory,
    failpoint::FailPoints,
    fetch::tail::TailBudget,
    groups::{Coordinator, GroupsService},
    health::{Condition, Health},
    late::Late,
    leases::{Keeper, watch},
    maintenance,
    memory::ReadMemory,
    metrics::Metrics,
    node::Node,
    ownership::{self, Ownership, identity},
    process,
    produce::WriterSettings,
    server::Ports,
    store::{
        self, ObjectStore, StoreSettings, blocks,
        health::{StoreHealth, WatchedStore},
    },
    tls::Tls,
    traces::AgentTraces,
};

/// Reads of the object store at once on behalf of readers that are behind.
const COLD_READS: usize = 16;
/// How long to wait before trying an unreachable store again: doubling between these.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long one proof of the object store may take.
const PROOF: Duration = Duration::from_secs(20);
/// How long calls under way may go on after everything is handed over.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// A running agent.
pub struct Agent {
    node: Arc<Node>,
    keeper: Arc<Keeper>,
    addresses: (SocketAddr, SocketAddr),
    tls: Arc<Tls>,
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
    /// Starts an agent: when this returns its ports are bound and served. It becomes ready by itself.
    pub async fn start(settings: AgentSettings) -> anyhow::Result<Self> {
        Self::start_traced(settings, Traces::default()).await
    }

    /// [`Agent::start`] with traces.
    pub async fn start_traced(settings: AgentSettings, traces: Traces) -> anyhow::Result<Self> {
        Self::start_on(settings, Arc::new(Late::default()), traces).await
    }

    pub(crate) async fn start_on(
        settings: AgentSettings,
        late: Arc<Late>,
        traces: Traces,
    ) -> anyhow::Result<Self> {
        streamhouse_metadata::check_address(settings.metadata_url.expose()).context("metadata-url")?;
        if settings.dev {
            let made = std::fs::create_dir_all(&settings.data_dir);
            made.with_context(|| format!("cannot make the data directory {}", settings.data_dir.display()))?;
        }
        let store = store::open(&store_settings(&settings))
            .await
            .context("the object store cannot be opened")?;
        Self::start_with(settings, late, store, traces).await
    }

    /// [`Agent::start`] on stores that are open already, if the metadata store is connected.
    pub(crate) async fn start_with(
        settings: AgentSettings,
        late: Arc<Late>,
        store: Arc<dyn ObjectStore>,
        traces: Traces,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new()?);
        let tls = Arc::new(Tls::load(settings.tls_dir.as_deref(), &metrics).await?);
        let store_health = StoreHealth::new(Arc::new(Health::default()));
        let store = Arc::new(WatchedStore::new(store, store_health.clone()));
        let store: Arc<dyn ObjectStore> = Arc::new(store::metered::Metered::new(store, metrics.registry())?);
        let node = Arc::new(node(
            settings,
            late.clone(),
            (store, store_health),
            metrics,
            traces,
        ));
        let ports = Ports::bind(&node.settings.grpc_listen, &node.settings.http_listen).await?;
        let addresses = ports.addresses()?;
        let coordinator = Coordinator::new(node.clone());
        let registration = registration(&node.settings, addresses);
        let groups = GroupsService::new(coordinator.clone());
        let reporting = coordinator.clone();
        let keeper = Arc::new(Keeper::new(
            node.clone(),
            coordinator,
            registration,
            writer_settings(&node.settings),
        ));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned().map(drop).shared();
        let serving = tokio::spawn(ports.serve(node.clone(), groups, tls.clone(), stopped));
        let working = tokio::spawn(work(node.clone(), late, keeper.clone(), reporting, stop.clone()));
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

    /// The shared parts.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where gRPC and HTTP are really served.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        self.addresses
    }

    /// The listeners' certificates.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// Resolves when a part of the agent has ended by itself, which only a failure can cause. The agent is of no use
    /// afterwards.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            served = &mut self.serving => match served {
                Ok(Err(error)) => error.context("serving failed"),
                Ok(Ok(())) => anyhow::anyhow!("serving ended by itself"),
                Err(error) => anyhow::Error::from(error).context("serving failed"),
            },
            worked = &mut self.working => match worked {
                Ok(()) => anyhow::anyhow!("the lease keeper ended by itself"),
                Err(error) => anyhow::Error::from(error).context("the lease keeper failed"),
            },
        }
    }

    /// Hands everything over within the drain timeout, then stops.
    pub async fn drain(mut self) {
        let deadline = Instant::now() + self.node.settings.drain_timeout;
        let open = self.node.metrics.connections.clone();
        self.keeper.drain(deadline, || open.get() > 0).await;
        // The keeper still lets go of what it holds, also when the time is up.
        let _ = timeout(LAST_CALLS, &mut self.working).await;
        self.stop.cancel();
        let _ = timeout(LAST_CALLS, &mut self.serving).await;
        match timeout(LAST_CALLS, self.node.metadata.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the metadata store could not be closed in order"),
            Err(_) => tracing::warn!("the metadata store could not be closed in time"),
        }
        tracing::info!("stopped");
    }

    /// Stops at once and hands nothing over, as a crash would.
    pub async fn crash(mut self) {
        self.working.abort();
        self.serving.abort();
        let _ = (&mut self.working).await;
        let _ = (&mut self.serving).await;
        if let Some(life) = self.node.life.swap(None) {
            life.over.cancel();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.working.abort();
    }
}

fn node(
    settings: AgentSettings,
    late: Arc<Late>,
    (store, store_health): (Arc<dyn ObjectStore>, Arc<StoreHealth>),
    metrics: Arc<Metrics>,
    traces: Traces,
) -> Node {
    let budgets = settings.memory_budgets();
    let bound = i64::try_from(budgets.total()).unwrap_or(i64::MAX);
    metrics.memory_bound.set(bound);
    // Half for the newest batches, half for blocks of older ones.
    let cache = settings.cache_memory.0 / 2;
    let block_metrics = blocks::BlockMetrics {
        hits: metrics.cache_hits.clone(),
        misses: metrics.cache_misses.clone(),
        held_bytes: metrics.cache_bytes.clone(),
    };
    Node {
        metadata: late,
        directory: Arc::new(Directory::default()),
        clock: system_clock(),
        entropy: system_entropy(),
        blocks: blocks::BlockCache::new(store.clone(), cache, blocks::DEFAULT_BLOCK, block_metrics),
        store,
        looks: Arc::default(),
        cold_reads: Semaphore::new(COLD_READS),
        memory: ReadMemory::new(&budgets),
        tails: Arc::new(TailBudget::new(usize::try_from(cache).unwrap_or(usize::MAX))),
        metrics,
        health: store_health.health().clone(),
        store_health,
        stalled: parking_lot::Mutex::default(),
        traces: AgentTraces::new(traces, settings.metadata_url.expose()),
        ownership: Ownership::default(),
        failpoints: Arc::new(FailPoints::default()),
        life: arc_swap::ArcSwapOption::empty(),
        settings,
    }
}

/// How the object store is opened.
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

/// How the metadata store is opened.
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
            advertised(bound, settings.dev, host.as_deref())
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

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("another agent runs on the data directory {0}; stop it, or give this one another --data-dir")]
pub struct DataDirInUse(String);

/// Makes the data directory of the embedded default this process' own for as long as the file returned is open. With
/// other settings there is nothing to claim.
pub fn claim_data_dir(settings: &AgentSettings) -> anyhow::Result<Option<File>> {
    if !settings.dev {
        return Ok(None);
    }
    let shown = settings.data_dir.display();
    let made = std::fs::create_dir_all(&settings.data_dir);
    made.with_context(|| format!("cannot make the data directory {shown}"))?;
    let lock = File::create(settings.data_dir.join("agent.lock"));
    let lock = lock.with_context(|| format!("cannot write to the data directory {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(DataDirInUse(shown.to_string()).into()),
        // A file system without locks: as before, nobody is kept apart.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "cannot lock the data directory; run no second agent on it");
            Ok(None)
        }
    }
}

/// What clients are told to connect to: the address bound, or where that means every interface, the host by name.
fn advertised(bound: SocketAddr, dev: bool, host: Option<&str>) -> String {
    match host {
        _ if !bound.ip().is_unspecified() => bound.to_string(),
        Some(host) if !dev => format!("{host}:{}", bound.port()),
        _ => format!("127.0.0.1:{}", bound.port()),
    }
}

/// Everything that goes on beside serving, until the keeper has finished or `stop`.
async fn work(
    node: Arc<Node>,
    late: Arc<Late>,
    keeper: Arc<Keeper>,
    coordinator: Arc<Coordinator>,
    stop: CancellationToken,
) {
    let every = node.settings.maintenance_interval;
    tokio::select! {
        () = stop.cancelled() => {}
        () = lead(node.clone(), late.clone(), keeper) => {}
        () = look(node.clone(), late) => {}
        () = coordinator.keep_reporting() => {}
        () = maintenance::run(node.clone(), every, stop.clone()) => {}
        () = doubt_object_store(&node) => {}
    }
}

/// Keeps leases once both stores are there: a lease is worth nothing to an agent that cannot store anything.
async fn lead(node: Arc<Node>, late: Arc<Late>, keeper: Arc<Keeper>) {
    let proved = async {
        // Reads only: whose bucket it is, only the metadata store tells.
        reach_object_store(&node, Question::Look).await;
        late.arrived().await;
        reach_object_store(&node, Question::Prove).await;
        node.store_health.proved();
    };
    tokio::select! {
        () = keeper.finishing() => return,
        () = proved => {}
    }
    keeper.run().await;
}

/// Keeps the directory fresh once the metadata store is reached and proved to be this bucket's.
async fn look(node: Arc<Node>, late: Arc<Late>) {
    if late.is_connected() {
        // By a test, before the agent started.
        ownership::establish(&node, late.as_ref()).await;
    } else {
        let metadata = connect(&node).await;
        node.health.met(Condition::Metadata);
        ownership::establish(&node, metadata.as_ref()).await;
        late.connected(metadata);
    }
    node.directory.want();
    watch::run(&node).await;
}

/// Reaches the metadata store, however long that takes.
async fn connect(node: &Node) -> Arc<dyn MetadataStore> {
    let options = connect_options(&node.settings);
    let mut pause = RETRY.0;
    loop {
        match streamhouse_metadata::connect(node.settings.metadata_url.expose(), &options).await {
            Ok(store) => return store,
            Err(error) => {
                tracing::warn!(%error, "cannot reach the metadata store yet; trying again");
                node.health.unmet(Condition::Metadata, error.to_string());
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Proves the object store again whenever there is a reason to doubt it; never returns. An agent that writes nothing at
/// the moment learns that way that it can.
async fn doubt_object_store(node: &Node) {
    loop {
        node.store_health.doubted().await;
        reach_object_store(node, Question::Prove).await;
        node.store_health.proved();
    }
}

/// What the object store is asked.
#[derive(Debug, Clone, Copy)]
enum Question {
    /// Whether it can be read.
    Look,
    /// Whether it does what we need, which takes writing.
    Prove,
}

/// Asks the object store until it answers well, however long that takes.
async fn reach_object_store(node: &Node, question: Question) {
    let store = node.store.as_ref();
    let ask = async || match question {
        Question::Look => identity::read(store)
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        Question::Prove => store::check(store, node.entropy.as_ref())
            .await
            .map_err(|error| error.to_string()),
    };
    let mut pause = RETRY.0;
    loop {
        let problem = match timeout(PROOF, ask()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {PROOF:?}"),
        };
        tracing::warn!(
            store = node.store.describe(),
            problem,
            "the object store cannot be used yet; trying again"
        );
        node.health.unmet(Condition::ObjectStore, problem);
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

#[cfg(test)]
pub(crate) mod tests;
