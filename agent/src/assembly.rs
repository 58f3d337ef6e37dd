//! Assembles the components of one agent, and starts and stops them in order. Called by `main`, and
//! by tests that run agents in their own process.
//!
//! 1. load the certificates, the listeners file and the OAuth file, open the object store (without
//!    a request), bind all ports;
//! 2. serve: from now on `/health` answers and every other call returns what is missing;
//! 3. connect to the metadata store, verify that both stores belong to one cluster, and check the
//!    object store, however long that takes;
//! 4. keep leases, watch the directory and run the background jobs until stopped.

mod background;
mod data_dir;
mod listeners;
mod node;
mod settings;

use std::{fmt, net::SocketAddr, sync::Arc};

use anyhow::Context;
use futures::FutureExt;
use streamhouse_core::{settings::AgentSettings, trace::OptionalTracer};
use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{background::run_background_tasks, listeners::AgentListeners, node::AgentNode};
pub use self::{
    data_dir::{DataDirInUseError, lock_data_dir, make_data_dir},
    settings::{connect_options, schema_window, store_settings},
};
use crate::{
    deferred_metadata::DeferredMetadataStore,
    groups::GroupCoordinator,
    health::AgentHealth,
    leases::LeaseKeeper,
    metrics::AgentMetrics,
    server::ServerPorts,
    store::{
        self, ObjectStore,
        health::{StoreHealth, WatchedStore},
    },
    tls::ListenerCertificates,
};

/// How long calls in flight may take after all leases are handed over.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A running agent.
pub struct Agent {
    node: Arc<AgentNode>,
    keeper: Arc<LeaseKeeper>,
    addresses: (SocketAddr, SocketAddr),
    /// The further listeners, by name.
    further: Vec<(String, SocketAddr)>,
    kafka_address: Option<SocketAddr>,
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
    /// If the object store cannot be opened, a certificate, the listeners file or the OAuth file
    /// cannot be used, or a port cannot be bound.
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
        make_data_dir(&settings)?;
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
        let listeners = AgentListeners::load(&settings, &metrics).await?;
        let store_health = StoreHealth::new(Arc::new(AgentHealth::default()));
        let store = Arc::new(WatchedStore::new(store, store_health.clone()));
        let store: Arc<dyn ObjectStore> = Arc::new(store::metered::MeteredObjectStore::new(
            store,
            metrics.registry(),
        )?);
        let node = Arc::new(AgentNode::new(
            settings,
            deferred.clone(),
            (store, store_health),
            (metrics, listeners.tls.clone()),
            traces,
        ));
        node.security
            .load_tokens(&node.settings, node.clock.clone())
            .await?;
        let AgentListeners { tls, further, file } = listeners;
        let given = &node.settings;
        let ports = ServerPorts::bind(
            &given.grpc_listen,
            &given.http_listen,
            &given.kafka_listen,
            further,
        )
        .await?;
        let (addresses, further) = (ports.addresses()?, ports.further_addresses()?);
        let kafka_address = ports.kafka_address()?;
        let coordinator = GroupCoordinator::new(node.coordinator());
        let leases = Arc::new(node.leases(&coordinator));
        let registration = settings::registration(&node.settings, addresses, kafka_address);
        let own_address = registration.grpc_address.clone();
        let keeper = Arc::new(LeaseKeeper::new(
            leases.clone(),
            registration,
            settings::writer_settings(&node.settings),
        ));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned().map(drop).shared();
        let server = Arc::new(node.server(&coordinator));
        let certificates = tls.clone();
        let serving = tokio::spawn(async move {
            ports
                .serve(server, certificates, (&own_address, file), stopped)
                .await
        });
        let working = tokio::spawn(run_background_tasks(
            node.clone(),
            deferred,
            leases,
            keeper.clone(),
            coordinator,
            stop.clone(),
        ));
        Ok(Self {
            node,
            keeper,
            addresses,
            further,
            kafka_address,
            tls,
            stop,
            serving,
            working,
        })
    }

    /// Returns the readiness of the agent.
    pub fn health(&self) -> &Arc<AgentHealth> {
        &self.node.health
    }

    /// Returns the bound addresses of gRPC and HTTP.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        self.addresses
    }

    /// Returns the bound addresses of the further listeners, by name.
    pub fn further_addresses(&self) -> &[(String, SocketAddr)] {
        &self.further
    }

    /// Returns the bound address of the Kafka listener, if there is one.
    pub fn kafka_address(&self) -> Option<SocketAddr> {
        self.kafka_address
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
        self.node.session.end();
        self.node.writer.end();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.working.abort();
    }
}

#[cfg(test)]
pub(crate) mod tests;
