//! Simulation of the election: virtual time, clocks of different speeds, processes that pause, and
//! a Lease behind a network that loses, delays and duplicates requests. Deterministic for a given
//! seed. Used by the tests of the election.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_core::time::{Clock, Entropy};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{
    elector::{ElectionEnvironment, ElectionOutcome, LeaderElector, LeaderTerm},
    fence::TermFence,
    state::{ElectionTiming, LeaseRecord, VersionedLease},
    store::{LeaseStore, LeaseStoreError},
    timer::MonotonicTimer,
};

type LeaseAnswer = Result<Option<VersionedLease>, LeaseStoreError>;
type AnswerSlot = Arc<Mutex<Option<LeaseAnswer>>>;

/// State of the simulation. True time starts at zero.
#[derive(Debug, Default)]
struct SimulationState {
    now: Duration,
    /// Times at which a replica may continue.
    timers: BTreeSet<Duration>,
    lease: Option<VersionedLease>,
    version: u64,
    /// Requests in flight, by arrival.
    requests: BTreeMap<(Duration, u64), (LeaseRequest, Option<AnswerSlot>)>,
    sequence: u64,
    random: u64,
    /// How many of a thousand calls are faulty.
    fault_rate: u64,
}

#[derive(Debug, Clone)]
enum LeaseRequest {
    Get,
    Create(LeaseRecord),
    Update(LeaseRecord, String),
}

/// The simulation, shared by all replicas.
#[derive(Debug, Clone, Default)]
pub(super) struct LeaseSimulation(Arc<Mutex<SimulationState>>);

impl LeaseSimulation {
    pub(super) fn new(seed: u64) -> Self {
        let world = Self::default();
        world.0.lock().random = seed;
        world
    }

    pub(super) fn now(&self) -> Duration {
        self.0.lock().now
    }

    /// Sets how many of a thousand calls are faulty from now on.
    pub(super) fn set_fault_rate(&self, of_a_thousand: u64) {
        self.0.lock().fault_rate = of_a_thousand;
    }

    /// Returns the record of the Lease.
    pub(super) fn lease(&self) -> Option<LeaseRecord> {
        self.0.lock().lease.as_ref().map(|stored| stored.record.clone())
    }

    /// Deletes the Lease.
    pub(super) fn delete_lease(&self) {
        self.0.lock().lease = None;
    }

    fn next_random(&self) -> u64 {
        let mut state = self.0.lock();
        // SplitMix64.
        state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a random duration of at most `longest`.
    fn random_duration(&self, longest: Duration) -> Duration {
        longest.mul_f64((self.next_random() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    async fn sleep_until(&self, at: Duration) {
        poll_fn(|_| {
            let mut state = self.0.lock();
            if state.now >= at {
                return Poll::Ready(());
            }
            state.timers.insert(at);
            Poll::Pending
        })
        .await;
    }

    /// Advances to the next time at which a replica may continue, but not beyond `end`; returns
    /// `false` at the end.
    pub(super) fn advance(&self, end: Duration) -> bool {
        let mut state = self.0.lock();
        let arrival = state.requests.keys().next().map(|(at, _)| *at);
        let timer = state.timers.first().copied();
        let next = [arrival, timer]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(end)
            .min(end);
        state.now = next.max(state.now);
        let now = state.now;
        state.timers.retain(|at| *at > now);
        while let Some(entry) = state.requests.first_entry().filter(|entry| entry.key().0 <= now) {
            let (request, slot) = entry.remove();
            let answer = state.apply_request(request);
            if let Some(slot) = slot {
                *slot.lock() = Some(answer);
            }
        }
        now < end
    }

    fn send(&self, request: LeaseRequest, after: Duration, slot: Option<AnswerSlot>) {
        let mut state = self.0.lock();
        state.sequence += 1;
        let key = (state.now + after, state.sequence);
        state.requests.insert(key, (request, slot));
    }

    async fn call(&self, request: LeaseRequest) -> LeaseAnswer {
        let slot = AnswerSlot::default();
        let latency = self.random_duration(Duration::from_millis(50));
        let draw = self.next_random() % 1000;
        let trouble = draw < self.0.lock().fault_rate;
        let seconds = Duration::from_secs;
        match draw % 6 {
            // The request is lost.
            0 if trouble => {}
            // The connection breaks before the request arrives; it arrives later, possibly much
            // later.
            1 if trouble => self.send(request, self.random_duration(seconds(20)), None),
            // The request arrives, the response is lost and the connection breaks at once.
            2 if trouble => {
                self.send(request, latency, None);
                self.sleep_until(self.now() + 2 * latency).await;
                return Err(LeaseStoreError::Failed("connection reset".to_owned()));
            }
            // The request arrives twice; the second response is delivered.
            3 if trouble => {
                self.send(request.clone(), latency, None);
                self.send(request, 2 * latency, Some(slot.clone()));
            }
            // The request is slow.
            4 if trouble => self.send(request, self.random_duration(seconds(8)), Some(slot.clone())),
            // The request arrives twice, the second time much later.
            5 if trouble => {
                self.send(request.clone(), latency, Some(slot.clone()));
                self.send(request, latency + self.random_duration(seconds(20)), None);
            }
            _ => self.send(request, latency, Some(slot.clone())),
        }
        let answer = poll_fn(|_| slot.lock().take().map_or(Poll::Pending, Poll::Ready)).await;
        let back = if trouble && draw.is_multiple_of(2) {
            self.random_duration(seconds(8))
        } else {
            latency
        };
        self.sleep_until(self.now() + back).await;
        answer
    }
}

impl SimulationState {
    /// Acts as the API server: one write at a time, rejected unless the version matches.
    fn apply_request(&mut self, request: LeaseRequest) -> LeaseAnswer {
        let (record, fits) = match request {
            LeaseRequest::Get => return Ok(self.lease.clone()),
            LeaseRequest::Create(record) => (record, self.lease.is_none()),
            LeaseRequest::Update(record, version) => (
                record,
                self.lease
                    .as_ref()
                    .is_some_and(|stored| stored.version == version),
            ),
        };
        if !fits {
            return Err(LeaseStoreError::Conflict);
        }
        // Like etcd behind the API server: a write that changes nothing keeps the version.
        if self.lease.as_ref().is_none_or(|stored| stored.record != record) {
            self.version += 1;
            let version = self.version.to_string();
            self.lease = Some(VersionedLease { record, version });
        }
        Ok(self.lease.clone())
    }
}

#[async_trait]
impl LeaseStore for LeaseSimulation {
    async fn get(&self) -> Result<Option<VersionedLease>, LeaseStoreError> {
        self.call(LeaseRequest::Get).await
    }

    async fn create(&self, record: &LeaseRecord) -> Result<VersionedLease, LeaseStoreError> {
        self.call(LeaseRequest::Create(record.clone()))
            .await?
            .ok_or(LeaseStoreError::Conflict)
    }

    async fn update(&self, record: &LeaseRecord, version: &str) -> Result<VersionedLease, LeaseStoreError> {
        let request = LeaseRequest::Update(record.clone(), version.to_owned());
        self.call(request).await?.ok_or(LeaseStoreError::Conflict)
    }
}

/// A clock that shows true time at its own speed.
pub(super) struct SkewedTimer {
    world: LeaseSimulation,
    base: Instant,
    rate: f64,
}

impl fmt::Debug for SkewedTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch(x{})", self.rate)
    }
}

#[async_trait]
impl MonotonicTimer for SkewedTimer {
    fn now(&self) -> Instant {
        self.base + self.world.now().mul_f64(self.rate)
    }

    async fn sleep_until(&self, at: Instant) {
        let shown = at.saturating_duration_since(self.base);
        // Never early because of rounding.
        let at = shown.div_f64(self.rate) + Duration::from_nanos(10);
        self.world.sleep_until(at).await;
    }
}

/// A wall clock that stands still: nothing may depend on it.
#[derive(Debug)]
struct FrozenClock;

impl Clock for FrozenClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

#[derive(Debug)]
struct SimulatedEntropy(LeaseSimulation);

impl Entropy for SimulatedEntropy {
    fn next_u64(&self) -> u64 {
        self.0.next_random()
    }
}

/// Behavior of a replica.
#[derive(Debug, Clone)]
pub(super) struct ReplicaBehavior {
    /// Speed of its clock.
    pub(super) rate: f64,
    /// When it starts.
    pub(super) start: Duration,
    /// When it is asked to stop.
    pub(super) stop: Option<Duration>,
    /// When it crashes.
    pub(super) crash: Option<Duration>,
    /// When it is suspended, and for how long.
    pub(super) pauses: Vec<(Duration, Duration)>,
    /// How long its work continues after a stop request.
    pub(super) shutdown_delay: Duration,
}

impl Default for ReplicaBehavior {
    fn default() -> Self {
        Self {
            rate: 1.0,
            start: Duration::ZERO,
            stop: None,
            crash: None,
            pauses: Vec::new(),
            shutdown_delay: Duration::ZERO,
        }
    }
}

/// One replica: a process with an elector.
pub(super) struct SimulatedReplica {
    pub(super) name: String,
    pub(super) fence: TermFence,
    behavior: ReplicaBehavior,
    world: LeaseSimulation,
    process: Option<Pin<Box<dyn Future<Output = ()>>>>,
    stop: CancellationToken,
    working: Weak<AtomicBool>,
}

/// Marks the work as running until it is dropped.
struct WorkGuard(Arc<AtomicBool>);

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl SimulatedReplica {
    pub(super) fn new(world: &LeaseSimulation, name: &str, habits: ReplicaBehavior) -> Self {
        let timer = Arc::new(SkewedTimer {
            world: world.clone(),
            base: Instant::now(),
            rate: habits.rate,
        });
        let seams = ElectionEnvironment {
            timer: timer.clone(),
            clock: Arc::new(FrozenClock),
            entropy: Arc::new(SimulatedEntropy(world.clone())),
        };
        let store = Arc::new(world.clone());
        let elector = LeaderElector::new(
            store,
            name.to_owned(),
            ElectionTiming::default(),
            Duration::from_secs(20),
            seams,
        );
        let (fence, stop) = (elector.fence(), CancellationToken::new());
        let working = Arc::new(AtomicBool::new(false));
        let watched = Arc::downgrade(&working);
        let (lingers, start, told, waits) =
            (habits.shutdown_delay, habits.start, stop.clone(), world.clone());
        let process = async move {
            waits.sleep_until(start).await;
            let work = |term: LeaderTerm| {
                let working = WorkGuard(working.clone());
                let timer = timer.clone();
                async move {
                    working.0.store(true, Ordering::SeqCst);
                    term.stop.cancelled().await;
                    timer.sleep_until(timer.now() + lingers).await;
                }
            };
            let ended = elector.run(told, work).await;
            assert!(
                matches!(ended, ElectionOutcome::Stopped),
                "the election ends only on request"
            );
        };
        Self {
            name: name.to_owned(),
            fence,
            behavior: habits,
            world: world.clone(),
            process: Some(Box::pin(process)),
            stop,
            working: watched,
        }
    }

    /// Returns whether it may write.
    pub(super) fn is_leading(&self) -> bool {
        self.process.is_some() && self.fence.is_open()
    }

    /// Returns whether its work has not been dropped.
    pub(super) fn is_working(&self) -> bool {
        self.working
            .upgrade()
            .is_some_and(|working| working.load(Ordering::SeqCst))
    }

    /// Returns whether its process exists.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Polls the process once.
    pub(super) fn poll(&mut self) {
        let now = self.world.now();
        let due = |at: Option<Duration>| at.is_some_and(|at| now >= at);
        let coming = [self.behavior.stop, self.behavior.crash];
        self.world
            .0
            .lock()
            .timers
            .extend(coming.into_iter().flatten().filter(|at| *at > now));
        if due(self.behavior.crash) {
            self.process = None;
        }
        if due(self.behavior.stop) {
            self.stop.cancel();
        }
        let pause = self
            .behavior
            .pauses
            .iter()
            .find(|(at, length)| now >= *at && now < *at + *length);
        if let Some((at, length)) = pause {
            self.world.0.lock().timers.insert(*at + *length);
            return;
        }
        let Some(process) = &mut self.process else {
            return;
        };
        if process
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
        {
            self.process = None;
        }
    }
}

/// Runs the simulation until `end` of true time and calls `look` after each step.
pub(super) fn run_simulation(
    world: &LeaseSimulation,
    replicas: &mut [SimulatedReplica],
    end: Duration,
    mut look: impl FnMut(&[SimulatedReplica]),
) {
    loop {
        // Progress of one replica may enable another at the same time.
        for _ in 0..3 {
            replicas.iter_mut().for_each(SimulatedReplica::poll);
        }
        look(replicas);
        if !world.advance(end) {
            return;
        }
    }
}
