//! A cluster in one process under a random schedule of faults, while producers write and consumers
//! read through every fail-over. Consumers compare each response with the records acknowledged at
//! that time, and at the end everything is compared, including the bucket.
//!
//! The schedule follows from a seed, which a failure prints; `STREAMHOUSE_SEED` repeats it. Tasks
//! still interleave freely: a seed gives the same faults in the same order, not the same timing.
//! Incarnations end when the schedule says so, never by the clock.

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

/// One step of the schedule.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An agent crashes; its incarnation is sealed a step later. At least one agent stays up.
    Crash,
    /// A crashed agent starts again.
    Start,
    /// The incarnation of a running agent is sealed, as if the agent had been cut off.
    Seal,
    /// Calls of one method hang, are lost, lose their answer, or are delayed.
    Metadata(MetadataFaultKind),
    /// One operation of the object store fails or loses its answer.
    Store(ToxicKind),
    /// The put of a segment or WAL object is applied after its caller gave up.
    LatePut(&'static str),
    /// An agent blocks at one of the fail points.
    Hold,
    /// An agent rolls all partitions that it leads.
    Roll,
    /// An agent deletes unreferenced objects.
    Delete,
    /// An agent sweeps orphans.
    Sweep,
    /// A separate topic is created, written and deleted.
    DeleteTopic,
    /// A topic is deleted, and created again under the same name.
    RecreateTopic,
}

/// The steps of every schedule, weighted by how often they are listed.
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
/// Longest duration of a step while no record is acknowledged.
const STEP_TIME: Duration = Duration::from_millis(60);

/// Deterministic randomness.
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

/// State shared by the schedule, the producers and the consumers.
struct World {
    stores: FaultyStores,
    ledger: Mutex<Ledger>,
    /// The running agents.
    nodes: Mutex<Vec<(String, Arc<Node>)>>,
    /// The gRPC address of each agent.
    addresses: Mutex<HashMap<String, SocketAddr>>,
    logs: Mutex<Vec<LogName>>,
    /// Held while reading; deletion waits for the reads that began before it, which stands for a
    /// grace longer than the longest read.
    reads: RwLock<()>,
    /// For the clients; the schedule has its own, so that they cannot change it.
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
    /// Number of topics created and deleted.
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

    /// Fails the simulation if a client or a job has failed.
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

    /// Runs a background job of one agent. It may fail, since it is repeated.
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

    /// Runs the lifetime of a topic that the clients do not use.
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

    /// Ends all faults, waits for what is in flight, and compares everything acknowledged with
    /// everything stored.
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
            // The producers get their last acknowledgements; then the consumers read to the end.
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
            "the clients get no responses"
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

    /// Crashes all other agents, ends all other incarnations, and deletes the remaining topics.
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

/// Creates, writes, rolls, reads and deletes a topic. Each step may fail, or take too long.
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
        // An agent that does not lead it reads it through its cache.
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

/// Methods of the metadata store that may fail. Two are left out: `delete_topic` names only a
/// topic, and offsets that a group commits late are not fenced within a generation.
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
