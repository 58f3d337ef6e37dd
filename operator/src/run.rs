//! The `streamhouse-operator run` command: wires the parts together and runs them. Called by
//! `main`.
//!
//! Starts, in this order: the HTTP server, the API discovery until the custom resource definitions
//! are served, the leader election, and while this replica leads, the controllers. On SIGTERM the
//! controllers finish running reconciliations, the Lease is released, and [`Operator::run`]
//! returns. A background loop that ends by itself is an error, reported after the same shutdown
//! steps.
//!
//! After a lost term the process continues as a standby: no state of a term survives except caches
//! of optional data, and a restart would only remove the standby while it might be needed.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::{FutureExt as _, future::BoxFuture};
use kube::{Client, Config};
use streamhouse_core::time::{Entropy, SystemEntropy, system_clock, system_entropy};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    api_discovery::ApiDiscovery,
    apis::OptionalApis,
    connect,
    context::OperatorContext,
    health::{HealthComponent, HealthState},
    lease::{
        ElectionEnvironment, ElectionOutcome, ElectionTiming, KubernetesLeaseStore, LeaderElector,
        LeaderTerm, SystemTimer, TermFence,
    },
    metadata_stores::MetadataStores,
    metrics::OperatorMetrics,
    server,
    settings::OperatorSettings,
};

/// How long running reconciliations may take after a shutdown request. Together with the release of
/// the Lease this fits into the 30 seconds that Kubernetes grants a pod.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts the controllers of one term with the shared context; they stop when the token is
/// cancelled.
type ControllersStart =
    dyn Fn(OperatorContext, CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync;

/// The operator before its start.
#[derive(Debug)]
pub struct Operator {
    settings: OperatorSettings,
    config: Config,
    timing: ElectionTiming,
    health: Arc<HealthState>,
    metrics: Arc<OperatorMetrics>,
    apis: Arc<OptionalApis>,
}

impl Operator {
    /// Creates an operator for the API server in `config`.
    ///
    /// # Errors
    ///
    /// Returns an error if the metrics cannot be registered.
    pub fn new(settings: OperatorSettings, config: Config) -> anyhow::Result<Self> {
        let apis = Arc::new(OptionalApis::default().with_openshift(settings.clusters.openshift));
        Ok(Self {
            settings,
            config,
            timing: ElectionTiming::default(),
            health: Arc::default(),
            metrics: Arc::new(OperatorMetrics::new().context("cannot register the metrics")?),
            apis,
        })
    }

    /// Returns the health state.
    pub fn health(&self) -> Arc<HealthState> {
        self.health.clone()
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> Arc<OperatorMetrics> {
        self.metrics.clone()
    }

    /// Runs until `stop` is cancelled and the shutdown has finished. `controllers` is called once
    /// per term with the shared context and a token, and must return soon after the token is
    /// cancelled.
    ///
    /// # Errors
    ///
    /// Returns an error if the client cannot be created, a background loop ends, or the controllers
    /// fail.
    pub async fn run<C, F>(
        self,
        listener: TcpListener,
        stop: CancellationToken,
        controllers: C,
    ) -> anyhow::Result<()>
    where
        C: Fn(OperatorContext, CancellationToken) -> F + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let controllers = move |context, stop| controllers(context, stop).boxed();
        let client = connect::new_client(self.config.clone())
            .context("cannot use the configuration of the API server")?;
        let surroundings = ApiDiscovery::new(self.apis.clone(), self.health.clone(), self.metrics.clone());
        let complete = surroundings.subscribe_readiness();
        let mut loops = JoinSet::new();
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        loops.spawn(async move {
            server::serve(listener, health, metrics).await;
            "the HTTP server"
        });
        let looks = client.clone();
        loops.spawn(async move {
            surroundings.run(&looks).await;
            "the API discovery"
        });
        let stopping = stop.clone();
        let duties = self.run_duties(&client, complete, stop, &controllers);
        tokio::pin!(duties);
        let outcome = tokio::select! {
            outcome = &mut duties => outcome,
            ended = loops.join_next() => {
                let ended = describe_ended_loop(ended);
                self.health.mark_loop_ended(&ended);
                tracing::error!(ended, "a background loop has ended; shutting down");
                stopping.cancel();
                duties.await?;
                bail!("{ended}; the process must be restarted")
            }
        };
        // Health and metrics are served until the end.
        loops.shutdown().await;
        outcome
    }

    /// Waits for the custom resource definitions, then leads or stands by.
    async fn run_duties(
        &self,
        client: &Client,
        mut complete: watch::Receiver<bool>,
        stop: CancellationToken,
        controllers: &ControllersStart,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // Fails only if the discovery loop has ended, which `run` detects.
            _ = complete.wait_for(|complete| *complete) => {}
        }
        let health = self.health.clone();
        let told = stop.clone();
        let watch_stop = async move {
            told.cancelled().await;
            health.mark_unready(HealthComponent::Process, "stopping");
            std::future::pending::<()>().await;
        };
        let work = async {
            if self.settings.leader_elect {
                self.run_elected(client, stop, controllers).await
            } else {
                self.run_without_election(client.clone(), stop, controllers).await
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = watch_stop => Ok(()),
        }
    }

    /// Runs the controllers while this replica leads.
    async fn run_elected(
        &self,
        client: &Client,
        stop: CancellationToken,
        controllers: &ControllersStart,
    ) -> anyhow::Result<()> {
        let namespace = self
            .settings
            .lease_namespace()
            .unwrap_or(client.default_namespace());
        let lease = KubernetesLeaseStore::new(client.clone(), namespace, &self.settings.lease_name);
        // The pod name is not unique: a container that is restarted in the same pod is another
        // replica.
        let identity = format!("{}_{:016x}", self.settings.pod_name, SystemEntropy.next_u64());
        let seams = ElectionEnvironment {
            timer: Arc::new(SystemTimer),
            clock: system_clock(),
            entropy: system_entropy(),
        };
        let metrics = self.metrics.clone();
        let elector = LeaderElector::new(Arc::new(lease), identity, self.timing, DRAIN_TIMEOUT, seams)
            .on_change(move |leads| {
                metrics.leader.set(i64::from(leads));
                if !leads {
                    metrics.end_term();
                }
            });
        let fenced = self.new_fenced_client(&elector.fence())?;
        let ended = elector
            .run(stop, |term: LeaderTerm| {
                self.spawn_term(fenced.clone(), term.stop, controllers)
            })
            .await;
        match ended {
            ElectionOutcome::Stopped => Ok(()),
            ElectionOutcome::Work(outcome) => ensure_stopped_on_request(outcome),
        }
    }

    /// Runs the controllers without an election.
    async fn run_without_election(
        &self,
        client: Client,
        stop: CancellationToken,
        controllers: &ControllersStart,
    ) -> anyhow::Result<()> {
        self.metrics.leader.set(1);
        let mut term = std::pin::pin!(self.spawn_term(client, stop.clone(), controllers));
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = &mut term => outcome,
            () = drained => {
                tracing::warn!("the controllers did not stop in time; dropping them");
                return Ok(());
            }
        };
        self.metrics.leader.set(0);
        if stop.is_cancelled() {
            Ok(())
        } else {
            ensure_stopped_on_request(outcome)
        }
    }

    fn new_fenced_client(&self, fence: &TermFence) -> anyhow::Result<Client> {
        connect::new_fenced_client(self.config.clone(), fence)
            .context("cannot use the configuration of the API server")
    }

    /// Starts the controllers of one term as a task that is aborted when the future is dropped.
    fn spawn_term(
        &self,
        client: Client,
        stop: CancellationToken,
        controllers: &ControllersStart,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let context = self.new_context(client);
        self.metrics.begin_term(context.clock.now_ms());
        let task = AbortOnDropHandle::new(tokio::spawn(controllers(context, stop)));
        async move { task.await.context("the controllers failed")? }
    }

    fn new_context(&self, client: Client) -> OperatorContext {
        let settings = &self.settings;
        OperatorContext {
            client,
            stores: Arc::new(MetadataStores::default()),
            apis: self.apis.clone(),
            scope: settings.watch_namespaces.clone(),
            metrics: self.metrics.clone(),
            defaults: Arc::new(settings.clusters.defaults()),
            drift_interval: settings.drift_interval,
            clock: system_clock(),
            entropy: system_entropy(),
            instance: Some(settings.pod_name.clone()),
        }
    }
}

fn describe_ended_loop(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => format!("{name} has ended unexpectedly"),
        Some(Err(error)) => format!("a background loop failed: {error}"),
        None => "no background loop is running".to_owned(),
    }
}

/// Turns the end of controllers that were not asked to stop into an error.
fn ensure_stopped_on_request(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    outcome?;
    bail!("the controllers have ended unexpectedly; the process must be restarted")
}
