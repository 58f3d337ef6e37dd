//! The lease keeper: one task per agent. It registers the agent (a new incarnation), renews the
//! lease, and ends the incarnation at once if the lease is lost or was not renewed for two thirds
//! of its duration, measured by the monotonic clock from before the last successful renewal was
//! sent. Then it starts a new incarnation.
//!
//! Jumps of the wall clock have no effect: it is never read here.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use streamhouse_core::{
    Error as CoreError, ErrorCode, Incarnation,
    backoff::{BackoffJitter, BackoffPolicy},
};
use streamhouse_metadata::{AgentIdentity, AgentRegistration, Error, SilenceThreshold};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    LeaseDeps,
    lease_set::LeaseSet,
    peers::{self, ProbeResult},
};
use crate::{
    health::ReadinessCondition,
    metrics::{BackgroundJob, WriteStage},
    produce::{WalWriter, WriteStall, WriterSettings},
    session::AgentSession,
};

/// Back-off between attempts to register.
const REGISTER_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(5))
        .with_jitter(BackoffJitter::Around(0.5));
/// How often the oldest write is checked: minimum and maximum.
const STALL_CHECK_INTERVAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Number of lease durations up to which an incarnation counts as short.
const SHORT_INCARNATION_LEASES: u32 = 3;
/// Back-off before a new incarnation after a series of short ones.
const RESTART_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(30));

/// Why an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum IncarnationEnd {
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

impl fmt::Display for IncarnationEnd {
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
                return write!(f, "{} took no write for {waited:.0?}", stage_store_name(*stage));
            }
        })
    }
}

/// Returns the store that a stage of a write waits for.
fn stage_store_name(stage: WriteStage) -> &'static str {
    match stage {
        WriteStage::Upload => "the object store",
        WriteStage::Commit => "the metadata store",
    }
}

/// Registers one agent and keeps its leases.
#[derive(Debug)]
pub struct LeaseKeeper {
    pub(super) deps: Arc<LeaseDeps>,
    registration: AgentRegistration,
    writer_settings: WriterSettings,
    /// The latest incarnation of this process.
    last_incarnation: Mutex<Option<Incarnation>>,
    pub(super) leases: ArcSwapOption<LeaseSet>,
    /// Ends [`run`](Self::run).
    pub(super) finish: CancellationToken,
}

impl LeaseKeeper {
    /// Creates a keeper that registers with `registration`; each incarnation writes with the
    /// `writer_settings`.
    pub fn new(
        deps: Arc<LeaseDeps>,
        registration: AgentRegistration,
        writer_settings: WriterSettings,
    ) -> Self {
        Self {
            deps,
            registration,
            writer_settings,
            last_incarnation: Mutex::default(),
            leases: ArcSwapOption::empty(),
            finish: CancellationToken::new(),
        }
    }

    /// Runs one incarnation after the other, until [`drain`](Self::drain) completes or
    /// [`stop`](Self::stop) is called.
    pub async fn run(&self) {
        let mut backoff = RESTART_BACKOFF.start();
        loop {
            let begun = tokio::select! {
                biased;
                () = self.finish.cancelled() => return,
                begun = self.start_incarnation() => begun,
            };
            let (tenure, sent) = begun;
            let end = self.run_incarnation(&tenure, sent).await;
            self.leases.store(None);
            tenure.end_incarnation().await;
            if end == IncarnationEnd::Drained {
                return;
            }
            self.deps
                .health
                .set_unmet(ReadinessCondition::Joined, end.to_string());
            self.deps
                .health
                .set_unmet(ReadinessCondition::Leases, "no leases: a new incarnation starts");
            if let IncarnationEnd::WritesStalled(stage, _) = end {
                self.wait_for_writes(&tenure.session, stage).await;
            }
            // Incarnations that end at once indicate a store that keeps failing: back off instead
            // of taking leases in vain.
            let short = sent.elapsed() < self.lease_ttl() * SHORT_INCARNATION_LEASES;
            let rest = if short {
                backoff.next_delay(&*self.deps.entropy)
            } else {
                backoff.reset();
                Duration::ZERO
            };
            tracing::warn!(
                incarnation = tenure.session.incarnation.0,
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
    pub async fn wait_stopped(&self) {
        self.finish.cancelled().await;
    }

    fn lease_ttl(&self) -> Duration {
        self.registration.lease_ttl
    }

    /// Starts an incarnation. The returned time is from before its registration was sent.
    async fn start_incarnation(&self) -> (Arc<LeaseSet>, Instant) {
        let (registered, sent) = self.register().await;
        let AgentIdentity {
            incarnation, node_id, ..
        } = registered;
        tracing::info!(
            incarnation = incarnation.0,
            node_id,
            agent_id = self.registration.agent_id,
            "registered"
        );
        let session = Arc::new(AgentSession::new(incarnation, node_id));
        let writer = WalWriter::start(
            self.deps.writer_deps.clone(),
            self.writer_settings,
            session.clone(),
        );
        let writer = Arc::new(writer);
        self.deps.session.start(session.clone());
        *self.last_incarnation.lock() = Some(incarnation);
        self.deps.writer.start(writer.clone());
        self.deps.health.set_met(ReadinessCondition::Writes);
        let tenure = LeaseSet::new(self.deps.clone(), session, writer, self.lease_ttl());
        let tenure = Arc::new(tenure);
        self.leases.store(Some(tenure.clone()));
        self.deps.health.set_met(ReadinessCondition::Joined);
        self.deps.directory.request_refresh();
        (tenure, sent)
    }

    async fn register(&self) -> (AgentIdentity, Instant) {
        let mut backoff = REGISTER_BACKOFF.start();
        loop {
            let problem = match timeout(self.lease_ttl() / 2, self.find_rival()).await {
                Ok(Ok(None)) => {
                    match self
                        .deps
                        .ownership
                        .register_agent(&self.registration, self.lease_ttl() / 2)
                        .await
                    {
                        Ok(registered) => return registered,
                        Err(problem) => problem,
                    }
                }
                Ok(Ok(Some(rival))) => rival,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the metadata store does not answer".to_owned(),
            };
            self.report_registration_failure(&problem);
            sleep(backoff.next_delay(&*self.deps.entropy)).await;
        }
    }

    /// Returns why this agent must not register: another process runs under its id. Two that took
    /// turns would both be useless. A restarted process does not wait: its earlier incarnation had
    /// the same address, or one that refuses connections.
    async fn find_rival(&self) -> Result<Option<String>, Error> {
        let last = *self.last_incarnation.lock();
        let Some(snapshot) = self.deps.metadata.snapshot(None).await? else {
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
        let why = match peers::probe_address(address).await {
            ProbeResult::Refuses => return Ok(None),
            ProbeResult::Answers => format!(
                "another agent with the id {id} is running at {address}; give this agent another --agent-id, or stop \
                the other one"
            ),
            ProbeResult::Silent => format!(
                "another agent with the id {id} was running at {address}; waiting for its lease to \
                expire"
            ),
        };
        // The address may belong to an unrelated process by now.
        let metadata = &self.deps.metadata;
        let over = metadata
            .seal_if_silent(rival.incarnation, SilenceThreshold::HalfLease)
            .await?;
        Ok((!over).then_some(why))
    }

    fn report_registration_failure(&self, why: &str) {
        tracing::warn!("cannot register yet: {why}; trying again");
        self.deps
            .health
            .set_unmet(ReadinessCondition::Joined, format!("cannot register: {why}"));
    }

    /// Runs all tasks of an incarnation until it ends.
    async fn run_incarnation(&self, tenure: &LeaseSet, sent: Instant) -> IncarnationEnd {
        tokio::select! {
            biased;
            () = self.finish.cancelled() => IncarnationEnd::Drained,
            end = self.renew_lease(&tenure.session, sent) => end,
            () = tenure.session.ended.cancelled() => IncarnationEnd::WriterStopped,
            () = tenure.run_reconciliation(self.lease_ttl()) => IncarnationEnd::WriterStopped,
            () = tenure.run_balancing() => IncarnationEnd::WriterStopped,
            end = self.watch_writes(&tenure.writer) => end,
            () = peers::watch_peers(&self.deps, tenure.session.incarnation) => IncarnationEnd::WriterStopped,
        }
    }

    /// Returns when no write completed for the duration of a lease although one was under way
    /// (INV-L2). An upload that may just be slow gets more time, but a bounded one.
    async fn watch_writes(&self, writer: &WalWriter) -> IncarnationEnd {
        let lease = self.lease_ttl();
        let (health, store) = (&self.deps.health, &self.deps.store_health);
        let tick = (lease / 20).clamp(STALL_CHECK_INTERVAL.0, STALL_CHECK_INTERVAL.1);
        loop {
            sleep(tick).await;
            let Some(stall) = writer.current_stall() else {
                health.set_met(ReadinessCondition::Writes);
                continue;
            };
            let slow = if store.is_doubtful() {
                Duration::ZERO
            } else {
                stall.transfer.min(lease * 2)
            };
            let limit = lease + slow;
            if stall.waited >= limit {
                let cause = self.stall_error(stall);
                health.set_unmet(ReadinessCondition::Writes, cause.message());
                let since = Instant::now().checked_sub(stall.waited);
                self.deps.writer.record_stall(stall.stage, since);
                writer.give_up(cause);
                return IncarnationEnd::WritesStalled(stall.stage, stall.waited);
            }
            if stall.waited >= limit / 3 {
                health.set_unmet(ReadinessCondition::Writes, self.stall_error(stall).message());
            } else {
                health.set_met(ReadinessCondition::Writes);
            }
        }
    }

    /// Returns the error that producers get for stalled writes.
    fn stall_error(&self, stall: WriteStall) -> CoreError {
        let mut text = format!(
            "{} has taken no write for {:.0?}",
            stage_store_name(stall.stage),
            stall.waited
        );
        let code = match stall.stage {
            WriteStage::Upload => ErrorCode::StorageUnavailable,
            WriteStage::Commit => ErrorCode::MetadataUnavailable,
        };
        let last_error = match stall.stage {
            WriteStage::Upload => self.deps.store_health.last_error(),
            WriteStage::Commit => self.deps.health.reason(ReadinessCondition::Metadata),
        };
        if let Some(error) = last_error {
            text = format!("{text}: {error}");
        }
        CoreError::new(code, text)
    }

    /// After stalled writes: seals the incarnation so that other agents take its partitions, and
    /// waits until this agent can write again. For the metadata store, registering proves that.
    async fn wait_for_writes(&self, life: &AgentSession, stage: WriteStage) {
        let seal = timeout(self.lease_ttl() / 2, self.deps.metadata.seal(life.incarnation)).await;
        if !matches!(seal, Ok(Ok(()))) {
            tracing::warn!("could not seal this incarnation; its partitions move when the lease expires");
        }
        self.deps.directory.request_refresh();
        if stage == WriteStage::Upload {
            let why = self.deps.health.reason(ReadinessCondition::Writes);
            self.deps
                .store_health
                .mark_doubtful(why.as_deref().unwrap_or("no write was stored in time"));
            tokio::select! {
                () = self.finish.cancelled() => {}
                () = self.deps.health.wait_met(ReadinessCondition::ObjectStore) => {}
            }
        }
    }

    /// Renews every third of the lease duration, and returns when two thirds have passed since the
    /// last successful renewal was sent.
    async fn renew_lease(&self, life: &AgentSession, registered: Instant) -> IncarnationEnd {
        let third = self.lease_ttl() / 3;
        let (mut safe_until, mut next) = (registered + third * 2, registered + third);
        loop {
            sleep_until(next.min(safe_until)).await;
            let sent = Instant::now();
            if sent >= safe_until {
                return IncarnationEnd::Expired;
            }
            let attempt = safe_until.min(sent + self.lease_ttl() / 4);
            let problem = match timeout_at(attempt, self.deps.metadata.renew(life.incarnation)).await {
                Ok(Ok(renewed)) => {
                    (safe_until, next) = (sent + third * 2, sent + third);
                    self.deps
                        .metrics
                        .record_job_success(BackgroundJob::Renew, self.deps.clock.now_ms());
                    if renewed.sealed_others > 0 {
                        tracing::info!(agents = renewed.sealed_others, "other agents' leases expired");
                    }
                    if renewed.version != self.deps.directory.view().version {
                        self.deps.directory.request_refresh();
                    }
                    continue;
                }
                Ok(Err(Error::Sealed(_))) => return IncarnationEnd::Sealed,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            self.deps.metrics.record_job_failure(BackgroundJob::Renew);
            tracing::warn!(problem, "the lease could not be renewed; trying again");
            next = Instant::now() + self.lease_ttl() / 20;
        }
    }
}
