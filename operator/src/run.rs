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
use kube::{Client, Config};
use streamhouse_core::time::{Entropy, SystemEntropy, system_clock, system_entropy};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    apis::Apis,
    connect,
    context::{Context, Defaults},
    health::{Health, Part},
    lease::{Elector, Ended, Fence, KubernetesLease, Seams, SystemTimer, Term, Timing},
    metrics::Metrics,
    server,
    settings::Settings,
    stores::Stores,
    surroundings::Surroundings,
};

/// How long running reconciliations may take after a shutdown request. Together with the release of
/// the Lease this fits into the 30 seconds that Kubernetes grants a pod.
pub const DRAIN: Duration = Duration::from_secs(20);

/// The operator before its start.
#[derive(Debug)]
pub struct Operator {
    settings: Settings,
    config: Config,
    timing: Timing,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    apis: Arc<Apis>,
}

impl Operator {
    /// Creates an operator for the API server in `config`.
    ///
    /// # Errors
    ///
    /// Returns an error if the metrics cannot be registered.
    pub fn new(settings: Settings, config: Config) -> anyhow::Result<Self> {
        Ok(Self {
            settings,
            config,
            timing: Timing::default(),
            health: Arc::default(),
            metrics: Arc::new(Metrics::new().context("cannot register the metrics")?),
            apis: Arc::default(),
        })
    }

    /// Returns the health state.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
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
        C: Fn(Context, CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let client = connect::client(self.config.clone())
            .context("cannot use the configuration of the API server")?;
        let surroundings = Surroundings::new(self.apis.clone(), self.health.clone(), self.metrics.clone());
        let complete = surroundings.complete();
        let mut loops = JoinSet::new();
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        loops.spawn(async move {
            server::serve(listener, health, metrics).await;
            "the HTTP server"
        });
        let looks = client.clone();
        loops.spawn(async move {
            surroundings.watch(&looks).await;
            "the API discovery"
        });
        let stopping = stop.clone();
        let duties = self.duties(&client, complete, stop, controllers);
        tokio::pin!(duties);
        let outcome = tokio::select! {
            outcome = &mut duties => outcome,
            ended = loops.join_next() => {
                let ended = died(ended);
                self.health.died(&ended);
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
    async fn duties<C, F>(
        &self,
        client: &Client,
        mut complete: watch::Receiver<bool>,
        stop: CancellationToken,
        controllers: C,
    ) -> anyhow::Result<()>
    where
        C: Fn(Context, CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // Fails only if the discovery loop has ended, which `run` detects.
            _ = complete.wait_for(|complete| *complete) => {}
        }
        let health = self.health.clone();
        let told = stop.clone();
        let watch_stop = async move {
            told.cancelled().await;
            health.missing(Part::Process, "stopping");
            std::future::pending::<()>().await;
        };
        let work = async {
            if self.settings.leader_elect {
                self.elect(client, stop, controllers).await
            } else {
                self.alone(client.clone(), stop, controllers).await
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = watch_stop => Ok(()),
        }
    }

    /// Runs the controllers while this replica leads.
    async fn elect<C, F>(
        &self,
        client: &Client,
        stop: CancellationToken,
        controllers: C,
    ) -> anyhow::Result<()>
    where
        C: Fn(Context, CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let namespace = self
            .settings
            .lease_namespace()
            .unwrap_or(client.default_namespace());
        let lease = KubernetesLease::new(client.clone(), namespace, &self.settings.lease_name);
        // The pod name is not unique: a container that is restarted in the same pod is another
        // replica.
        let identity = format!("{}_{:016x}", self.settings.pod_name, SystemEntropy.next_u64());
        let seams = Seams {
            timer: Arc::new(SystemTimer),
            clock: system_clock(),
            entropy: system_entropy(),
        };
        let leader = self.metrics.leader.clone();
        let elector = Elector::new(Arc::new(lease), identity, self.timing, DRAIN, seams)
            .on_change(move |leads| leader.set(i64::from(leads)));
        let fenced = self.fenced(&elector.fence())?;
        let ended = elector
            .run(stop, |term: Term| {
                self.term(fenced.clone(), term.stop, &controllers)
            })
            .await;
        match ended {
            Ended::Stopped => Ok(()),
            Ended::Work(outcome) => ended_early(outcome),
        }
    }

    /// Runs the controllers without an election.
    async fn alone<C, F>(&self, client: Client, stop: CancellationToken, controllers: C) -> anyhow::Result<()>
    where
        C: Fn(Context, CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.metrics.leader.set(1);
        let mut term = std::pin::pin!(self.term(client, stop.clone(), &controllers));
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
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
            ended_early(outcome)
        }
    }

    fn fenced(&self, fence: &Fence) -> anyhow::Result<Client> {
        connect::fenced_client(self.config.clone(), fence)
            .context("cannot use the configuration of the API server")
    }

    /// Starts the controllers of one term as a task that is aborted when the future is dropped.
    fn term<C, F>(
        &self,
        client: Client,
        stop: CancellationToken,
        controllers: &C,
    ) -> impl Future<Output = anyhow::Result<()>> + use<C, F>
    where
        C: Fn(Context, CancellationToken) -> F,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let context = self.context(client);
        self.metrics.term_begins(context.clock.now_ms());
        let task = AbortOnDropHandle::new(tokio::spawn(controllers(context, stop)));
        async move { task.await.context("the controllers failed")? }
    }

    fn context(&self, client: Client) -> Context {
        let settings = &self.settings;
        Context {
            client,
            stores: Arc::new(Stores::default()),
            apis: self.apis.clone(),
            scope: settings.watch_namespaces.clone(),
            metrics: self.metrics.clone(),
            defaults: Arc::new(Defaults {
                image: settings.default_image.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            drift_interval: settings.drift_interval,
            clock: system_clock(),
            entropy: system_entropy(),
            instance: Some(settings.pod_name.clone()),
        }
    }
}

fn died(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok(name)) => format!("{name} has ended unexpectedly"),
        Some(Err(error)) => format!("a background loop failed: {error}"),
        None => "no background loop is running".to_owned(),
    }
}

/// Turns the end of controllers that were not asked to stop into an error.
fn ended_early(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    outcome?;
    bail!("the controllers have ended unexpectedly; the process must be restarted")
}
