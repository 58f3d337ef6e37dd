//! `streamhouse-operator run`: puts the parts together, in this order: the HTTP server, a look at what the API server offers until our
//! definitions are there, the election, and while this replica leads, the controllers. Called by `main`. On SIGTERM the controllers
//! finish what they are at, the Lease is released, and it returns; a loop that ends by itself is an error, after the same steps.
//!
//! After a lost term the process stays and stands by: nothing of a term is kept but caches of what is optional, and a restart would
//! only take the standby away from those who might need it.

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

/// How long reconciliations may go on after they were told to stop. With the release of the Lease it fits into the 30 seconds that
/// Kubernetes gives a pod.
pub const DRAIN: Duration = Duration::from_secs(20);

/// The operator, ready to start.
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
    /// An operator of the API server that the configuration names.
    pub fn new(settings: Settings, config: Config) -> anyhow::Result<Self> {
        Ok(Self {
            settings,
            config,
            timing: Timing::default(),
            health: Arc::default(),
            metrics: Arc::new(Metrics::new().context("the metrics cannot be registered")?),
            apis: Arc::default(),
        })
    }

    /// How it is.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Runs until `stop`, and then ends in order. `controllers` is called once a term, with what every reconciliation has at hand and
    /// a token, and must end soon when that is cancelled.
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
            .context("the configuration of the API server cannot be used")?;
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
            "the look at the API server"
        });
        let stopping = stop.clone();
        let duties = self.duties(&client, complete, stop, controllers);
        tokio::pin!(duties);
        let outcome = tokio::select! {
            outcome = &mut duties => outcome,
            ended = loops.join_next() => {
                let ended = died(ended);
                self.health.died(&ended);
                tracing::error!(ended, "a loop has ended that must not; ending in order");
                stopping.cancel();
                duties.await?;
                bail!("{ended}; the process must be started anew")
            }
        };
        // The pages are there to the end.
        loops.shutdown().await;
        outcome
    }

    /// Waits for the definitions, then leads or stands by.
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
            // It can only fail with the loop that looks, which is seen elsewhere.
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
        // The pod's name is not enough: a container that starts again in the same pod is another one.
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
                tracing::warn!("the controllers did not end in time; dropping them");
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
            .context("the configuration of the API server cannot be used")
    }

    /// The controllers of one term, as a task that ends when the future is dropped.
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
        Some(Ok(name)) => format!("{name} has ended"),
        Some(Err(error)) => format!("a loop failed: {error}"),
        None => "there is no loop".to_owned(),
    }
}

/// Controllers run until they are told to stop.
fn ended_early(outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    outcome?;
    bail!("the controllers have ended by themselves; the process must be started anew")
}
