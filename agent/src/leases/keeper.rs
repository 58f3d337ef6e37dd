//! The lease keeper: one task an agent. It registers (a new life), renews the lease, and ends the life at once when the
//! lease is lost, or when it could not be renewed for two thirds of its time, by the monotonic clock and counted from
//! before the last successful renewal was sent. Then it begins a new life.
//!
//! Jumps of the wall clock do not matter: nothing here reads it.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use streamhouse_metadata::{AgentRegistration, Error, Registered};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Slots, tenure::Tenure};
use crate::{
    health::Condition,
    metrics::Job,
    node::{Life, Node},
    ownership,
    partition::Held,
    produce::{Writer, WriterDeps, WriterSettings},
};

/// How long to wait between attempts to register: doubling between these.
const REGISTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest pause before a new life when lives end soon after they began.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Why a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The drain is done.
    Drained,
    /// The lease could not be renewed in time.
    Expired,
    /// The metadata store says that the life is over.
    Sealed,
    /// The writer found that nothing can be written any more.
    WriterStopped,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "the agent drained",
            Self::Expired => "the lease could not be renewed in time",
            Self::Sealed => "another agent with the same agent-id registered, or the lease expired",
            Self::WriterStopped => "the writer found the lease lost",
        })
    }
}

/// Keeps the leases of one agent.
#[derive(Debug)]
pub struct Keeper {
    pub(super) node: Arc<Node>,
    groups: Arc<dyn Slots>,
    registration: AgentRegistration,
    writer: WriterSettings,
    pub(super) tenure: ArcSwapOption<Tenure>,
    /// Ends [`run`](Self::run).
    pub(super) finish: CancellationToken,
}

impl Keeper {
    /// A keeper that registers as `registration` says; each life writes as `writer` says.
    pub fn new(
        node: Arc<Node>,
        groups: Arc<dyn Slots>,
        registration: AgentRegistration,
        writer: WriterSettings,
    ) -> Self {
        Self {
            node,
            groups,
            registration,
            writer,
            tenure: ArcSwapOption::empty(),
            finish: CancellationToken::new(),
        }
    }

    /// Lives, one life after the other, until [`drain`](Self::drain) is done or [`stop`](Self::stop) is called.
    pub async fn run(&self) {
        let mut rest = Duration::ZERO;
        loop {
            let begun = tokio::select! {
                biased;
                () = self.finish.cancelled() => return,
                begun = self.begin() => begun,
            };
            let (tenure, sent) = begun;
            let end = self.live(&tenure, sent).await;
            self.tenure.store(None);
            tenure.end().await;
            if end == End::Drained {
                return;
            }
            self.node.health.unmet(Condition::Joined, end.to_string());
            self.node
                .health
                .unmet(Condition::Leases, "no leases: a new life begins");
            // Lives that end at once are a sign of two agents with one name: do not fight.
            let short = sent.elapsed() < self.ttl();
            rest = if short {
                (rest * 2).clamp(REGISTER.0, LONGEST_REST)
            } else {
                Duration::ZERO
            };
            tracing::warn!(
                incarnation = tenure.life.incarnation.0,
                ?rest,
                "this life of the agent is over: {end}"
            );
            tokio::select! {
                () = self.finish.cancelled() => return,
                () = sleep(rest) => {}
            }
        }
    }

    /// Ends everything without handing over, as a crash would: leases go when they expire.
    pub fn stop(&self) {
        self.finish.cancel();
    }

    /// Resolves when the keeper was told to end.
    pub async fn finishing(&self) {
        self.finish.cancelled().await;
    }

    fn ttl(&self) -> Duration {
        self.registration.lease_ttl
    }

    /// Begins a life. The time returned is from before its registration was sent.
    async fn begin(&self) -> (Arc<Tenure>, Instant) {
        let (registered, sent) = self.register().await;
        let Registered {
            incarnation, node_id, ..
        } = registered;
        tracing::info!(
            incarnation = incarnation.0,
            node_id,
            agent_id = self.registration.agent_id,
            "registered"
        );
        let (held, over) = (Arc::new(Held::default()), CancellationToken::new());
        let deps = WriterDeps {
            incarnation,
            metadata: self.node.metadata.clone(),
            store: self.node.store.clone(),
            entropy: self.node.entropy.clone(),
            held: held.clone(),
            tails: self.node.tails.clone(),
            metrics: self.node.metrics.clone(),
            traces: self.node.traces.clone(),
            failpoints: self.node.failpoints.clone(),
            over: over.clone(),
        };
        let writer = Writer::start(deps, self.writer);
        let life = Arc::new(Life {
            incarnation,
            node_id,
            held,
            writer,
            over,
        });
        self.node.life.store(Some(life.clone()));
        let tenure = Arc::new(Tenure::new(self.node.clone(), self.groups.clone(), life));
        self.tenure.store(Some(tenure.clone()));
        self.node.health.met(Condition::Joined);
        self.node.directory.want();
        (tenure, sent)
    }

    async fn register(&self) -> (Registered, Instant) {
        let mut pause = REGISTER.0;
        loop {
            match ownership::register(&self.node, &self.registration, self.ttl() / 2).await {
                Ok(registered) => return registered,
                Err(problem) => self.cannot_register(&problem),
            }
            sleep(pause.mul_f64(0.5 + self.node.entropy.fraction())).await;
            pause = (pause * 2).min(REGISTER.1);
        }
    }

    fn cannot_register(&self, why: &str) {
        tracing::warn!("cannot register yet: {why}; trying again");
        self.node
            .health
            .unmet(Condition::Joined, format!("cannot register: {why}"));
    }

    /// Everything that goes on during a life, until it ends.
    async fn live(&self, tenure: &Tenure, sent: Instant) -> End {
        tokio::select! {
            biased;
            () = self.finish.cancelled() => End::Drained,
            end = self.renew(&tenure.life, sent) => end,
            () = tenure.life.over.cancelled() => End::WriterStopped,
            () = tenure.reconcile_for_ever(self.ttl()) => End::WriterStopped,
            () = tenure.give_for_ever() => End::WriterStopped,
        }
    }

    /// Renews every third of the lease's time, and returns when two thirds passed since the last renewal was sent.
    async fn renew(&self, life: &Life, registered: Instant) -> End {
        let third = self.ttl() / 3;
        let (mut safe_until, mut next) = (registered + third * 2, registered + third);
        loop {
            sleep_until(next.min(safe_until)).await;
            let sent = Instant::now();
            if sent >= safe_until {
                return End::Expired;
            }
            let attempt = safe_until.min(sent + self.ttl() / 4);
            let problem = match timeout_at(attempt, self.node.metadata.renew(life.incarnation)).await {
                Ok(Ok(renewed)) => {
                    (safe_until, next) = (sent + third * 2, sent + third);
                    self.node
                        .metrics
                        .job_succeeded(Job::Renew, self.node.clock.now_ms());
                    if renewed.sealed_others > 0 {
                        tracing::info!(agents = renewed.sealed_others, "other agents' leases expired");
                    }
                    if renewed.version != self.node.directory.view().version {
                        self.node.directory.want();
                    }
                    continue;
                }
                Ok(Err(Error::Sealed(_))) => return End::Sealed,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            self.node.metrics.job_failed(Job::Renew);
            tracing::warn!(problem, "the lease could not be renewed; trying again");
            next = Instant::now() + self.ttl() / 20;
        }
    }
}
