//! The lease keeper: one task per agent. It registers the agent (a new incarnation), renews the
//! lease, and ends the incarnation at once if the lease is lost or was not renewed for two thirds
//! of its duration, measured by the monotonic clock from before the last successful renewal was
//! sent. Then it starts a new incarnation.
//!
//! Jumps of the wall clock have no effect: it is never read here.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use streamhouse_core::{Error as CoreError, ErrorCode, Incarnation};
use streamhouse_metadata::{AgentRegistration, Error, Registered, Silence};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Slots,
    peers::{self, Probe},
    tenure::Tenure,
};
use crate::{
    health::Condition,
    metrics::{Job, WriteStage},
    node::{Life, Node},
    ownership,
    partition::Held,
    produce::{Stall, Writer, WriterDeps, WriterSettings},
};

/// Back-off between attempts to register: minimum and maximum.
const REGISTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often the oldest write is checked: minimum and maximum.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Number of lease durations up to which an incarnation counts as short.
const SHORT_LIFE: u32 = 3;
/// Maximum pause before a new incarnation after a series of short ones.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Why an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The drain is complete.
    Drained,
    /// The lease could not be renewed in time.
    Expired,
    /// The metadata store sealed the incarnation.
    Sealed,
    /// The writer found that nothing can be written any more.
    WriterStopped,
    /// No write completed for the duration of a lease: other agents shall lead.
    WritesStalled(WriteStage, Duration),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "the agent drained",
            Self::Expired => "the lease could not be renewed in time",
            Self::Sealed => {
                "sealed: another agent with the same agent id registered, the lease expired, or this agent's \
                address did not respond"
            }
            Self::WriterStopped => "the writer found that the lease is lost",
            Self::WritesStalled(stage, waited) => {
                return write!(f, "{} took no write for {waited:.0?}", store_of(*stage));
            }
        })
    }
}

/// Returns the store that a stage of a write waits for.
fn store_of(stage: WriteStage) -> &'static str {
    match stage {
        WriteStage::Upload => "the object store",
        WriteStage::Commit => "the metadata store",
    }
}

/// Registers one agent and keeps its leases.
#[derive(Debug)]
pub struct Keeper {
    pub(super) node: Arc<Node>,
    groups: Arc<dyn Slots>,
    registration: AgentRegistration,
    writer: WriterSettings,
    /// The latest incarnation of this process.
    last: Mutex<Option<Incarnation>>,
    pub(super) tenure: ArcSwapOption<Tenure>,
    /// Ends [`run`](Self::run).
    pub(super) finish: CancellationToken,
}

impl Keeper {
    /// Creates a keeper that registers with `registration`; each incarnation writes with the
    /// settings `writer`.
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
            last: Mutex::default(),
            tenure: ArcSwapOption::empty(),
            finish: CancellationToken::new(),
        }
    }

    /// Runs one incarnation after the other, until [`drain`](Self::drain) completes or
    /// [`stop`](Self::stop) is called.
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
                .unmet(Condition::Leases, "no leases: a new incarnation starts");
            if let End::WritesStalled(stage, _) = end {
                self.wait_for_writes(&tenure.life, stage).await;
            }
            // Incarnations that end at once indicate a store that keeps failing: back off instead
            // of taking leases in vain.
            let short = sent.elapsed() < self.ttl() * SHORT_LIFE;
            rest = if short {
                (rest * 2).clamp(REGISTER.0, LONGEST_REST)
            } else {
                Duration::ZERO
            };
            tracing::warn!(
                incarnation = tenure.life.incarnation.0,
                ?rest,
                "this incarnation of the agent ended: {end}"
            );
            tokio::select! {
                () = self.finish.cancelled() => return,
                () = sleep(rest) => {}
            }
        }
    }

    /// Ends everything without handing over, like a crash: leases move when they expire.
    pub fn stop(&self) {
        self.finish.cancel();
    }

    /// Resolves when the keeper is stopping.
    pub async fn finishing(&self) {
        self.finish.cancelled().await;
    }

    fn ttl(&self) -> Duration {
        self.registration.lease_ttl
    }

    /// Starts an incarnation. The returned time is from before its registration was sent.
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
        *self.last.lock() = Some(incarnation);
        self.node.stalled.lock().take();
        self.node.health.met(Condition::Writes);
        let tenure = Arc::new(Tenure::new(self.node.clone(), self.groups.clone(), life));
        self.tenure.store(Some(tenure.clone()));
        self.node.health.met(Condition::Joined);
        self.node.directory.want();
        (tenure, sent)
    }

    async fn register(&self) -> (Registered, Instant) {
        let mut pause = REGISTER.0;
        loop {
            let problem = match timeout(self.ttl() / 2, self.rival()).await {
                Ok(Ok(None)) => {
                    match ownership::register(&self.node, &self.registration, self.ttl() / 2).await {
                        Ok(registered) => return registered,
                        Err(problem) => problem,
                    }
                }
                Ok(Ok(Some(rival))) => rival,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the metadata store does not answer".to_owned(),
            };
            self.cannot_register(&problem);
            sleep(pause.mul_f64(0.5 + self.node.entropy.fraction())).await;
            pause = (pause * 2).min(REGISTER.1);
        }
    }

    /// Returns why this agent must not register: another process runs under its id. Two that took
    /// turns would both be useless. A restarted process does not wait: its earlier incarnation had
    /// the same address, or one that refuses connections.
    async fn rival(&self) -> Result<Option<String>, Error> {
        let last = *self.last.lock();
        let Some(snapshot) = self.node.metadata.snapshot(None).await? else {
            return Ok(None);
        };
        let us = &self.registration;
        let rival = snapshot.agents.iter().find(|agent| {
            agent.agent_id == us.agent_id
                && Some(agent.incarnation) != last
                && agent.grpc_address != us.grpc_address
        });
        let Some(rival) = rival else { return Ok(None) };
        let (id, address) = (&us.agent_id, &rival.grpc_address);
        let why = match peers::probe(address).await {
            Probe::Refuses => return Ok(None),
            Probe::Answers => format!(
                "another agent with the id {id} is running at {address}; give this agent another --agent-id, or stop \
                the other one"
            ),
            Probe::Silent => format!(
                "another agent with the id {id} was running at {address}; waiting for its lease to \
                expire"
            ),
        };
        // The address may belong to an unrelated process by now.
        let metadata = &self.node.metadata;
        let over = metadata
            .seal_silent(rival.incarnation, Silence::HalfLease)
            .await?;
        Ok((!over).then_some(why))
    }

    fn cannot_register(&self, why: &str) {
        tracing::warn!("cannot register yet: {why}; trying again");
        self.node
            .health
            .unmet(Condition::Joined, format!("cannot register: {why}"));
    }

    /// Runs all tasks of an incarnation until it ends.
    async fn live(&self, tenure: &Tenure, sent: Instant) -> End {
        tokio::select! {
            biased;
            () = self.finish.cancelled() => End::Drained,
            end = self.renew(&tenure.life, sent) => end,
            () = tenure.life.over.cancelled() => End::WriterStopped,
            () = tenure.reconcile_for_ever(self.ttl()) => End::WriterStopped,
            () = tenure.give_for_ever() => End::WriterStopped,
            end = self.watch_writes(&tenure.life) => end,
            () = peers::watch(&self.node, tenure.life.incarnation) => End::WriterStopped,
        }
    }

    /// Returns when no write completed for the duration of a lease although one was under way
    /// (INV-L2). An upload that may just be slow gets more time, but a bounded one.
    async fn watch_writes(&self, life: &Life) -> End {
        let lease = self.ttl();
        let (health, store) = (&self.node.health, &self.node.store_health);
        let tick = (lease / 20).clamp(LOOK.0, LOOK.1);
        loop {
            sleep(tick).await;
            let Some(stall) = life.writer.stall() else {
                health.met(Condition::Writes);
                continue;
            };
            let slow = if store.is_doubtful() {
                Duration::ZERO
            } else {
                stall.transfer.min(lease * 2)
            };
            let limit = lease + slow;
            if stall.waited >= limit {
                let cause = self.cause(stall);
                health.unmet(Condition::Writes, cause.message());
                let since = Instant::now().checked_sub(stall.waited);
                *self.node.stalled.lock() = since.map(|since| (stall.stage, since));
                life.writer.give_up(cause);
                return End::WritesStalled(stall.stage, stall.waited);
            }
            if stall.waited >= limit / 3 {
                health.unmet(Condition::Writes, self.cause(stall).message());
            } else {
                health.met(Condition::Writes);
            }
        }
    }

    /// Returns the error that producers get for stalled writes.
    fn cause(&self, stall: Stall) -> CoreError {
        let mut text = format!(
            "{} has taken no write for {:.0?}",
            store_of(stall.stage),
            stall.waited
        );
        let code = match stall.stage {
            WriteStage::Upload => ErrorCode::StorageUnavailable,
            WriteStage::Commit => ErrorCode::MetadataUnavailable,
        };
        let last_error = match stall.stage {
            WriteStage::Upload => self.node.store_health.last_error(),
            WriteStage::Commit => self.node.health.reason(Condition::Metadata),
        };
        if let Some(error) = last_error {
            text = format!("{text}: {error}");
        }
        CoreError::new(code, text)
    }

    /// After stalled writes: seals the incarnation so that other agents take its partitions, and
    /// waits until this agent can write again. For the metadata store, registering proves that.
    async fn wait_for_writes(&self, life: &Life, stage: WriteStage) {
        let seal = timeout(self.ttl() / 2, self.node.metadata.seal(life.incarnation)).await;
        if !matches!(seal, Ok(Ok(()))) {
            tracing::warn!("could not seal this incarnation; its partitions move when the lease expires");
        }
        self.node.directory.want();
        if stage == WriteStage::Upload {
            let why = self.node.health.reason(Condition::Writes);
            self.node
                .store_health
                .doubt(why.as_deref().unwrap_or("no write was stored in time"));
            tokio::select! {
                () = self.finish.cancelled() => {}
                () = self.node.health.until_met(Condition::ObjectStore) => {}
            }
        }
    }

    /// Renews every third of the lease duration, and returns when two thirds have passed since the
    /// last successful renewal was sent.
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
