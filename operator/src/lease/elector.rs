//! Acquires and renews the Lease, and runs the work while it is held. Called once by `run`.
//! Guarantees: the work is stopped at the renew deadline at the latest and dropped after a grace
//! period, before another replica can take over; after an orderly stop the Lease is released once
//! the work has ended.

use std::{fmt, future::Future, pin::pin, sync::Arc, time::Duration};

use streamhouse_core::time::{Clock, Entropy};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    fence::TermFence,
    state::{ElectionState, ElectionStep, ElectionTiming, LeaseRecord, VersionedLease},
    store::{LeaseStore, LeaseStoreError},
    timer::MonotonicTimer,
};

/// Passed to the work of one term.
#[derive(Debug, Clone)]
pub struct LeaderTerm {
    /// Cancelled when the term ends.
    pub stop: CancellationToken,
    /// Tells by the monotonic clock whether the term is still running.
    pub fence: TermFence,
}

/// Why the election has ended.
#[derive(Debug)]
pub enum ElectionOutcome<T> {
    /// The election was stopped.
    Stopped,
    /// The work ended by itself with this result.
    Work(T),
}

/// Why a term has ended. The work has been dropped in each case.
enum TermOutcome<T> {
    /// Another replica holds the Lease, or it could not be renewed in time.
    Lost(&'static str),
    /// The election was stopped.
    Stopped,
    /// The work ended by itself.
    Work(T),
}

/// Clocks and entropy of the elector, replaceable in tests.
#[derive(Debug, Clone)]
pub struct ElectionEnvironment {
    /// Measures all durations.
    pub timer: Arc<dyn MonotonicTimer>,
    /// Provides the times that are written to the Lease, which are informational.
    pub clock: Arc<dyn Clock>,
    /// Source of jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// One replica in the election.
pub struct LeaderElector {
    store: Arc<dyn LeaseStore>,
    machine: ElectionState,
    fence: TermFence,
    seams: ElectionEnvironment,
    drain: Duration,
    on_change: Box<dyn Fn(bool) + Send + Sync>,
}

impl fmt::Debug for LeaderElector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elector")
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl LeaderElector {
    /// Creates a replica with this identity, which no other process may ever use. `drain` is how
    /// long the work may take to end after a stop request; the Lease is kept meanwhile.
    pub fn new(
        store: Arc<dyn LeaseStore>,
        identity: String,
        timing: ElectionTiming,
        drain: Duration,
        seams: ElectionEnvironment,
    ) -> Self {
        Self {
            store,
            machine: ElectionState::new(identity, timing),
            fence: TermFence::new(seams.timer.clone()),
            seams,
            drain,
            on_change: Box::new(|_| ()),
        }
    }

    /// Registers a callback for the beginning and end of each term.
    #[must_use]
    pub fn on_change(mut self, tell: impl Fn(bool) + Send + Sync + 'static) -> Self {
        self.on_change = Box::new(tell);
        self
    }

    /// Returns the fence of this replica's terms.
    pub fn fence(&self) -> TermFence {
        self.fence.clone()
    }

    /// Waits for the Lease, runs the work while holding it, and continues as a standby after a lost
    /// term; until `stop` is cancelled or the work ends by itself. The work is polled by the task
    /// that renews the Lease: pass the handle of a spawned task that is aborted on drop.
    pub async fn run<W, F>(mut self, stop: CancellationToken, mut work: W) -> ElectionOutcome<F::Output>
    where
        W: FnMut(LeaderTerm) -> F,
        F: Future,
    {
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.acquire() => false,
            };
            if stopped {
                // A write that claims the Lease may be in flight.
                if self.machine.is_pending() {
                    self.release_lease().await;
                }
                return ElectionOutcome::Stopped;
            }
            tracing::info!(identity = self.machine.identity(), "leading");
            (self.on_change)(true);
            let end = self.hold_term(&stop, &mut work).await;
            self.fence.set_term_end(None);
            (self.on_change)(false);
            match end {
                TermOutcome::Lost(why) => tracing::warn!(why, "no longer leading; standing by"),
                TermOutcome::Stopped => {
                    self.release_lease().await;
                    return ElectionOutcome::Stopped;
                }
                TermOutcome::Work(result) => {
                    self.release_lease().await;
                    let asked = stop.is_cancelled();
                    return if asked {
                        ElectionOutcome::Stopped
                    } else {
                        ElectionOutcome::Work(result)
                    };
                }
            }
        }
    }

    /// Returns once this replica leads.
    async fn acquire(&mut self) {
        let mut before: Option<String> = None;
        loop {
            self.run_round().await;
            if self.machine.is_leading(self.now()) {
                return;
            }
            let holder = self.machine.holder().map(ToOwned::to_owned);
            if holder != before {
                tracing::info!(holder = holder.as_deref().unwrap_or("none"), "standing by");
                before = holder;
            }
            self.seams.timer.sleep_until(self.next_round_at()).await;
        }
    }

    /// Runs the work and renews the Lease meanwhile. The work has been dropped when this returns.
    async fn hold_term<W, F>(&mut self, stop: &CancellationToken, work: &mut W) -> TermOutcome<F::Output>
    where
        W: FnMut(LeaderTerm) -> F,
        F: Future,
    {
        let term = LeaderTerm {
            stop: CancellationToken::new(),
            fence: self.fence.clone(),
        };
        let stop_work = term.stop.clone();
        let timer = self.seams.timer.clone();
        let mut work = pin!(work(term));
        let mut drained_by: Option<Instant> = None;
        let (why, grace) = loop {
            let Some(until) = self.machine.term_end() else {
                break ("the lease was taken over or deleted", Duration::ZERO);
            };
            let next = self.next_round_at();
            tokio::select! {
                biased;
                result = &mut work => return TermOutcome::Work(result),
                () = timer.sleep_until(until) => {
                    break ("the lease could not be renewed in time", self.machine.timing().grace_period());
                }
                () = stop.cancelled(), if drained_by.is_none() => {
                    drained_by = Some(timer.now() + self.drain);
                    stop_work.cancel();
                }
                () = timer.sleep_until(drained_by.unwrap_or(until)), if drained_by.is_some() => {
                    tracing::warn!("the work did not stop in time; dropping it");
                    return TermOutcome::Stopped;
                }
                () = async { timer.sleep_until(next).await; self.run_round().await } => {}
            }
        };
        // From here on no write is sent, and work that continues without writing ends before
        // another replica can lead.
        self.fence.set_term_end(None);
        let dropped_at = self.machine.term_end().unwrap_or_else(|| timer.now()) + grace;
        stop_work.cancel();
        tokio::select! {
            biased;
            _ = &mut work => {}
            () = timer.sleep_until(dropped_at) => {}
        }
        TermOutcome::Lost(why)
    }

    /// Executes steps until there is none left for now. Safe to drop at any await point.
    async fn run_round(&mut self) {
        self.machine.begin_round(self.now());
        // Read, rejected write, read, write: further conflicts are left to the next round.
        let mut writes = 0;
        while writes < 2 {
            let go_on = match self.machine.next_step(self.now(), self.now_us()) {
                ElectionStep::Wait => false,
                ElectionStep::Read => self.read_lease().await,
                ElectionStep::Create(record) => {
                    writes += 1;
                    self.write_lease(&record, None).await
                }
                ElectionStep::Update(record, version) => {
                    writes += 1;
                    self.write_lease(&record, Some(&version)).await
                }
            };
            if !go_on {
                break;
            }
        }
    }

    /// Reads the Lease; returns `false` on failure.
    async fn read_lease(&mut self) -> bool {
        match self.with_timeout(self.store.get()).await {
            Ok(stored) => {
                self.machine.observe(stored, self.now());
                self.fence.set_term_end(self.machine.term_end());
                true
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the lease; retrying");
                false
            }
        }
    }

    /// Writes the Lease. Returns `true` on a conflict: the next read shows the holder.
    async fn write_lease(&mut self, record: &LeaseRecord, version: Option<&str>) -> bool {
        let sent = self.now();
        self.machine.begin_write();
        match self.send_write(record, version).await {
            Ok(stored) => {
                self.machine.finish_write(stored, sent, self.now());
                self.fence.set_term_end(self.machine.term_end());
                false
            }
            Err(LeaseStoreError::Conflict) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot write the lease; retrying");
                false
            }
        }
    }

    async fn send_write(
        &self,
        record: &LeaseRecord,
        version: Option<&str>,
    ) -> Result<VersionedLease, LeaseStoreError> {
        match version {
            Some(version) => self.with_timeout(self.store.update(record, version)).await,
            None => self.with_timeout(self.store.create(record)).await,
        }
    }

    /// Releases the Lease so that another replica can take over at once. Best effort: otherwise the
    /// others wait until it expires.
    async fn release_lease(&mut self) {
        self.fence.set_term_end(None);
        self.machine.end_term();
        if self.machine.release_record(0).is_none() && !self.read_lease().await {
            return;
        }
        let Some((record, version)) = self.machine.release_record(self.now_us()) else {
            return;
        };
        match self.send_write(&record, Some(&version)).await {
            Ok(_) => tracing::info!("the lease is released"),
            Err(error) => {
                tracing::warn!(%error, "cannot release the lease; another replica takes over when it expires");
            }
        }
    }

    /// Limits the duration of a call. A request may still arrive after the timeout.
    async fn with_timeout<T>(
        &self,
        call: impl Future<Output = Result<T, LeaseStoreError>>,
    ) -> Result<T, LeaseStoreError> {
        let limit = self.machine.timing().call_timeout();
        let over = self.seams.timer.sleep_until(self.now() + limit);
        tokio::select! {
            biased;
            answer = call => answer,
            () = over => Err(LeaseStoreError::Failed(format!("no answer within {limit:?}"))),
        }
    }

    /// Returns the time of the next round, with a jitter of a fifth so that replicas do not run in
    /// lockstep.
    fn next_round_at(&self) -> Instant {
        let retry = self.machine.timing().retry_period;
        self.now() + retry.mul_f64(0.8 + 0.4 * self.seams.entropy.fraction())
    }

    fn now(&self) -> Instant {
        self.seams.timer.now()
    }

    fn now_us(&self) -> i64 {
        self.seams.clock.now_ms().saturating_mul(1000)
    }
}
