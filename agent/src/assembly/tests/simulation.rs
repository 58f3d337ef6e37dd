//! A cluster in one process under a random schedule of faults, while producers write and readers read through every
//! fail-over. Readers compare each answer with what is acknowledged at that moment, and the end compares everything, the
//! bucket included.
//!
//! The schedule follows from a seed, which a failure prints; `STREAMHOUSE_SEED` repeats it. Tasks still interleave as the
//! machine likes: a seed gives the same faults in the same order, not the same nanoseconds. Lives end when the schedule says
//! so, never by the clock.

mod clients;

use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus::IntCounter;
use streamhouse_core::time::Entropy;
use tokio::{sync::RwLock, task::JoinSet};

use self::clients::{consume_group, produce_values, read_logs};
use super::{
    ledger::*,
    stores::{FaultyStores, QUIET, look_again, tidy},
    *,
};
use crate::{
    failpoint::Hold,
    faulty_metadata::{FaultHandle, MetadataFault, MetadataFaultKind, Method},
    maintenance::{delete, roll, sweep},
    store::{
        Operation, StoreErrorKind,
        fault::{Toxic, ToxicId, ToxicKind},
    },
};

/// What can happen in one step.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An agent crashes; its life is sealed a step later. One always lives.
    Crash,
    /// A crashed agent starts again.
    Start,
    /// The life of a running agent is sealed, as if it had been cut off.
    Seal,
    /// Calls of one method hang, are lost, lose their answer, or come late.
    Metadata(MetadataFaultKind),
    /// One operation of the object store fails or loses its answer.
    Store(ToxicKind),
    /// A segment's put, or a WAL object's, lands after its caller gave up.
    LatePut(&'static str),
    /// An agent stands still at one of the fail points.
    Hold,
    /// An agent rolls all that it leads.
    Roll,
    /// An agent deletes what nothing references.
    Delete,
    /// An agent sweeps.
    Sweep,
    /// A topic of its own is created, written and deleted again.
    DeleteTopic,
    /// A topic is deleted, and created again under its name.
    RecreateTopic,
}

/// The steps of every schedule, as likely as they stand here often.
const STEPS: &[Step] = &[
    Step::Crash,
    Step::Crash,
    Step::Start,
    Step::Start,
    Step::Seal,
    Step::Metadata(MetadataFaultKind::Hang),
    Step::Metadata(MetadataFaultKind::HangAfter),
    Step::Metadata(MetadataFaultKind::LoseBefore),
    Step::Metadata(MetadataFaultKind::LoseAfter),
    Step::Metadata(MetadataFaultKind::Late),
    Step::Store(ToxicKind::Error(StoreErrorKind::Throttled)),
    Step::Store(ToxicKind::Error(StoreErrorKind::Timeout)),
    Step::Store(ToxicKind::LoseReply),
    Step::LatePut("log-"),
    Step::Hold,
    Step::Hold,
    Step::Roll,
    Step::Roll,
    Step::Roll,
    Step::Delete,
    Step::Delete,
    Step::Sweep,
    Step::DeleteTopic,
    Step::RecreateTopic,
    Step::LatePut("_wal/"),
];

const STEPS_A_RUN: usize = 30;
const SEEDS: [u64; 3] = [1, 2, 3];
const LOGS: i32 = 2;
/// How long a step lasts at most when no record is acknowledged.
const STEP_TIME: Duration = Duration::from_millis(60);

/// Randomness that repeats itself.
#[derive(Debug)]
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        // SplitMix64.
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Seeded {
    fn below(&self, bound: usize) -> usize {
        (self.next_u64() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What the schedule, the producers and the readers share.
struct World {
    stores: FaultyStores,
    ledger: Mutex<Ledger>,
    /// The agents that run.
    nodes: Mutex<Vec<(String, Arc<Node>)>>,
    /// Where each of them answers.
    addresses: Mutex<HashMap<String, SocketAddr>>,
    logs: Mutex<Vec<LogName>>,
    /// Held while reading; deleting waits for the reads that began before: the grace that is longer than the longest read.
    reads: RwLock<()>,
    /// For the clients; the schedule has its own, so that they cannot disturb it.
    entropy: Seeded,
    stop_producing: CancellationToken,
    stop_reading: CancellationToken,
    reads_done: IntCounter,
    out_of_range: IntCounter,
}

impl World {
    fn node(&self) -> Arc<Node> {
        let nodes = self.nodes.lock();
        nodes[self.entropy.below(nodes.len())].1.clone()
    }
}

/// How a fault ends.
enum Heal {
    Metadata(FaultHandle),
    Store(ToxicId),
    Hold(#[allow(dead_code)] Hold), // by being dropped
    Seal(Incarnation),
}

struct Simulation {
    seed: u64,
    world: Arc<World>,
    entropy: Seeded,
    agents: Vec<(String, Agent)>,
    crashed: Vec<String>,
    heals: Vec<(usize, Heal)>,
    jobs: JoinSet<()>,
    clients: JoinSet<()>,
    /// Topics that came and went.
    topics: usize,
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let stores = FaultyStores::without_graces().await;
        let mut simulation = Self {
            seed,
            world: Arc::new(World {
                stores,
                ledger: Mutex::default(),
                nodes: Mutex::default(),
                addresses: Mutex::default(),
                logs: Mutex::default(),
                reads: RwLock::new(()),
                entropy: Seeded(AtomicU64::new(seed ^ 0xC11E_4715)),
                stop_producing: CancellationToken::new(),
                stop_reading: CancellationToken::new(),
                reads_done: IntCounter::new("reads", "reads").unwrap(),
                out_of_range: IntCounter::new("out_of_range", "out of range").unwrap(),
            }),
            entropy: Seeded(AtomicU64::new(seed)),
            agents: Vec::new(),
            crashed: Vec::new(),
            heals: Vec::new(),
            jobs: JoinSet::new(),
            clients: JoinSet::new(),
            topics: 0,
        };
        for id in ["one", "two", "three"] {
            simulation.start(id.to_owned()).await;
        }
        until_ready(&simulation.agents[0].1).await;
        create(&simulation.agents[0].1, "log-a", LOGS).await;
        for log in logs(&simulation.world.stores).await {
            for _ in 0..2 {
                let producer = Producer::new(&simulation.world.stores, &log).await;
                let world = simulation.world.clone();
                simulation.clients.spawn(produce_values(world, producer));
            }
            simulation.world.logs.lock().push(log);
        }
        for _ in 0..2 {
            simulation.clients.spawn(read_logs(simulation.world.clone()));
        }
        let group = consume_group(simulation.world.clone());
        simulation.clients.spawn(group);
        simulation
    }

    async fn start(&mut self, id: String) {
        let agent = self.world.stores.starting(&id, &QUIET).await;
        self.world.nodes.lock().push((id.clone(), agent.node.clone()));
        self.world
            .addresses
            .lock()
            .insert(id.clone(), agent.addresses().0);
        self.agents.push((id, agent));
    }

    async fn run(&mut self) {
        for step in 0..STEPS_A_RUN {
            let what = self.entropy.pick(STEPS);
            println!("seed {}, step {step}: {what:?}", self.seed);
            let acks = self.world.ledger.lock().acks;
            let ends = step + 1 + self.entropy.below(3);
            self.take(what, ends).await;
            self.heal(step).await;
            let deadline = Instant::now() + STEP_TIME;
            while self.world.ledger.lock().acks < acks + 3 && Instant::now() < deadline {
                sleep(Duration::from_millis(2)).await;
            }
            self.report_failures();
            check_objects(&self.world.stores, &self.world.ledger, false).await;
        }
    }

    /// A client or a job that failed fails the simulation.
    fn report_failures(&mut self) {
        let done = [self.clients.try_join_next(), self.jobs.try_join_next()];
        if let Some(failed) = done.into_iter().flatten().find_map(Result::err) {
            panic!("seed {}: {failed}", self.seed);
        }
    }

    async fn heal(&mut self, step: usize) {
        let (due, later) = std::mem::take(&mut self.heals)
            .into_iter()
            .partition(|(at, _)| *at <= step);
        self.heals = later;
        let due: Vec<(usize, Heal)> = due;
        for (_, heal) in due {
            match heal {
                Heal::Metadata(fault) => fault.release(),
                Heal::Store(toxic) => self.world.stores.store.remove(toxic),
                Heal::Hold(hold) => drop(hold),
                Heal::Seal(life) => self.world.stores.metadata.inner().seal(life).await.unwrap(),
            }
        }
    }

    async fn take(&mut self, step: Step, ends: usize) {
        let stores = self.world.stores.clone();
        match step {
            Step::Crash if self.agents.len() > 1 => {
                let (id, agent) = self.agents.swap_remove(self.entropy.below(self.agents.len()));
                self.world.nodes.lock().retain(|(other, _)| *other != id);
                let life = agent.node.life().map(|life| life.incarnation);
                agent.crash().await;
                self.crashed.push(id);
                self.heals.extend(life.map(|life| (ends, Heal::Seal(life))));
            }
            Step::Start if !self.crashed.is_empty() => {
                let id = self.crashed.swap_remove(0);
                self.start(id).await;
            }
            Step::Crash | Step::Start => {}
            Step::Seal => {
                let node = self.any_agent();
                if let Some(life) = node.life() {
                    stores.metadata.inner().seal(life.incarnation).await.unwrap();
                }
            }
            Step::Metadata(kind) => {
                let method = self.entropy.pick(METHODS);
                let fault = MetadataFault::new(kind, [method]).times(4);
                println!("  {method:?}");
                self.heals
                    .push((ends, Heal::Metadata(stores.metadata.add(fault))));
            }
            Step::Store(kind) => {
                let operation = self.entropy.pick(&Operation::ALL);
                println!("  {operation:?}");
                let toxic = Toxic::new(kind).on(&[operation]).times(3);
                self.heals.push((ends, Heal::Store(stores.store.add(toxic))));
            }
            Step::LatePut(prefix) => {
                let toxic = Toxic::new(ToxicKind::Late).on(&[Operation::Put]).below(prefix);
                self.heals
                    .push((ends, Heal::Store(stores.store.add(toxic.times(1)))));
            }
            Step::Hold => {
                let point = self.entropy.pick(&FailPoint::ALL);
                println!("  {point:?}");
                let hold = self.any_agent().failpoints.hold(point);
                self.heals.push((ends, Heal::Hold(hold)));
            }
            Step::Roll | Step::Delete | Step::Sweep => self.job(step),
            Step::DeleteTopic | Step::RecreateTopic => self.jobs_topic(step),
        }
    }

    fn any_agent(&self) -> Arc<Node> {
        self.agents[self.entropy.below(self.agents.len())].1.node.clone()
    }

    /// A background job of one agent. It may fail: it is tried again another time.
    fn job(&mut self, step: Step) {
        let (world, node) = (self.world.clone(), self.any_agent());
        self.jobs.spawn(async move {
            let Some(life) = node.life() else { return };
            let _either = match step {
                Step::Roll => roll::all(&node, &life).await,
                Step::Sweep => sweep::run(&node, &life).await,
                _ => {
                    let _no_reads = world.reads.write().await;
                    delete::run(&node).await
                }
            };
        });
    }

    /// A topic that comes and goes; the clients do not know of it.
    fn jobs_topic(&mut self, step: Step) {
        let (world, node) = (self.world.clone(), self.any_agent());
        self.topics += 1;
        let name = match step {
            Step::RecreateTopic => "again".to_owned(),
            _ => format!("short-{}", self.topics),
        };
        let times = if matches!(step, Step::RecreateTopic) { 2 } else { 1 };
        self.jobs.spawn(async move {
            for _ in 0..times {
                short_life(&world, &node, &name).await;
            }
        });
    }

    /// Heals everything, lets what is under way end, and compares all that was promised with all that is there.
    async fn finish(mut self) {
        self.world.stores.metadata.clear();
        self.world.stores.store.clear();
        self.heal(usize::MAX).await;
        let judge = self.world.stores.agent("judge", &QUIET).await;
        self.world
            .nodes
            .lock()
            .push(("judge".to_owned(), judge.node.clone()));
        self.world.stop_producing.cancel();
        let world = self.world.clone();
        let ends = async {
            while let Some(done) = self.jobs.join_next().await {
                done.unwrap();
            }
            // The producers get their last acknowledgements; then the readers read to the end.
            while self.clients.len() > 2 {
                self.clients.join_next().await.unwrap().unwrap();
            }
            world.stop_reading.cancel();
            while let Some(done) = self.clients.join_next().await {
                done.unwrap();
            }
        };
        assert!(
            timeout(PATIENCE, ends).await.is_ok(),
            "the clients get no answers"
        );
        self.world.stores.store.settled().await;
        let logs = self.world.logs.lock().clone();
        for log in logs {
            let bounds = self
                .world
                .stores
                .metadata
                .inner()
                .bounds(&[log.uid])
                .await
                .unwrap();
            self.world
                .ledger
                .lock()
                .check_whole(&log, bounds[0].1.high_watermark);
        }
        self.end_everything_but(&judge).await;
        tidy(&self.world.stores, &judge.node).await;
        look_again(&self.world.stores).await;
        tidy(&self.world.stores, &judge.node).await;
        check_objects(&self.world.stores, &self.world.ledger, true).await;
        let acks = self.world.ledger.lock().acks;
        let (reads, out_of_range) = (self.world.reads_done.get(), self.world.out_of_range.get());
        let seed = self.seed;
        println!("seed {seed}: {acks} acknowledgements, {reads} reads, {out_of_range} out of range");
        judge.drain().await;
    }

    /// Every other agent crashes, every other life ends, and the topics that were left go.
    async fn end_everything_but(&mut self, judge: &Agent) {
        for (_, agent) in self.agents.drain(..) {
            agent.crash().await;
        }
        let metadata = self.world.stores.metadata.inner();
        let mine = life(judge);
        let snapshot = metadata.snapshot(None).await.unwrap().unwrap();
        for agent in snapshot.agents {
            if Some(agent.incarnation) != mine {
                metadata.seal(agent.incarnation).await.unwrap();
            }
        }
        for topic in snapshot.topics {
            if !topic.internal && topic.name != "log-a" {
                metadata.delete_topic(&topic.name).await.unwrap();
            }
        }
        until("the judge leads all", || held(judge) == LOGS as usize).await;
    }
}

/// A topic is created, written, rolled, read and deleted. Any of it may fail, or take too long.
async fn short_life(world: &World, node: &Node, name: &str) {
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        ..Default::default()
    };
    if topics::create(node, request).await.is_err() {
        return;
    }
    let created = logs(&world.stores).await;
    if let Some(log) = created.into_iter().find(|log| log.topic == name) {
        let mut producer = Producer::new(&world.stores, &log).await;
        let _either = timeout(STEP_TIME * 4, producer.send(&world.ledger, node)).await;
        if let Some(life) = node.life() {
            let _either = timeout(STEP_TIME, roll::all(node, &life)).await;
        }
        // Whoever does not lead it reads it through its cache.
        for _ in 0..3 {
            let reader = world.node();
            let _reads = world.reads.read().await;
            let read = read_and_check(&world.stores, &world.ledger, &reader, &log, 0);
            let _either = timeout(STEP_TIME, read).await;
        }
    }
    let _either = topics::delete(node, name).await;
    let _no_reads = world.reads.write().await;
    let _either = timeout(STEP_TIME * 4, delete::run(node)).await;
}

/// What may go wrong in the metadata store. Two are left out: `delete_topic` says only a name, and offsets that a group
/// commits late are not fenced within a generation.
const METHODS: &[Method] = &[
    Method::commit_object,
    Method::commit_object,
    Method::read_log,
    Method::bounds,
    Method::begin_segment,
    Method::finish_segment,
    Method::garbage,
    Method::confirm_deleted,
    Method::orphans,
    Method::mark_swept,
    Method::snapshot,
    Method::move_leases,
    Method::register_agent,
    Method::groups,
];

#[tokio::test]
async fn what_is_acknowledged_is_read_through_every_fault() {
    let seeds = match std::env::var("STREAMHOUSE_SEED") {
        Ok(seed) => vec![seed.parse().expect("STREAMHOUSE_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    };
    let runs = seeds.into_iter().map(async |seed| {
        println!("seed {seed}: repeat this run with STREAMHOUSE_SEED={seed}");
        let mut simulation = Simulation::new(seed).await;
        simulation.run().await;
        simulation.finish().await;
    });
    futures::future::join_all(runs).await;
}
