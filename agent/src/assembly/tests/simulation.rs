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
    stores::{FaultyStores, QUIET_ARGUMENTS, expire_ended_incarnations, run_jobs_until_idle},
    *,
};
use crate::{
    failpoint::FailPointGuard,
    faulty_metadata::{MetadataFault, MetadataFaultHandle, MetadataFaultKind, MetadataMethod},
    maintenance::{delete, roll, sweep},
    store::{
        StoreErrorKind, StoreOperation,
        fault::{Toxic, ToxicId, ToxicKind},
    },
};

/// One step of the schedule.
#[derive(Debug, Clone, Copy)]
enum SimulationStep {
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
const STEPS: &[SimulationStep] = &[
    SimulationStep::Crash,
    SimulationStep::Crash,
    SimulationStep::Start,
    SimulationStep::Start,
    SimulationStep::Seal,
    SimulationStep::Metadata(MetadataFaultKind::Hang),
    SimulationStep::Metadata(MetadataFaultKind::HangAfter),
    SimulationStep::Metadata(MetadataFaultKind::LoseBefore),
    SimulationStep::Metadata(MetadataFaultKind::LoseAfter),
    SimulationStep::Metadata(MetadataFaultKind::Late),
    SimulationStep::Store(ToxicKind::Error(StoreErrorKind::Throttled)),
    SimulationStep::Store(ToxicKind::Error(StoreErrorKind::Timeout)),
    SimulationStep::Store(ToxicKind::LoseReply),
    SimulationStep::LatePut("log-"),
    SimulationStep::Hold,
    SimulationStep::Hold,
    SimulationStep::Roll,
    SimulationStep::Roll,
    SimulationStep::Roll,
    SimulationStep::Delete,
    SimulationStep::Delete,
    SimulationStep::Sweep,
    SimulationStep::DeleteTopic,
    SimulationStep::RecreateTopic,
    SimulationStep::LatePut("_wal/"),
];

const STEPS_PER_RUN: usize = 30;
const SEEDS: [u64; 3] = [1, 2, 3];
const LOG_PARTITIONS: i32 = 2;
/// Longest duration of a step while no record is acknowledged.
const STEP_TIME: Duration = Duration::from_millis(60);

/// Deterministic randomness.
#[derive(Debug)]
struct SeededEntropy(AtomicU64);

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        // SplitMix64.
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl SeededEntropy {
    fn below(&self, bound: usize) -> usize {
        (self.next_u64() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// State shared by the schedule, the producers and the consumers.
struct SimulatedCluster {
    stores: FaultyStores,
    ledger: Mutex<RecordLedger>,
    /// The running agents.
    nodes: Mutex<Vec<(String, Arc<AgentNode>)>>,
    /// The gRPC address of each agent.
    addresses: Mutex<HashMap<String, SocketAddr>>,
    logs: Mutex<Vec<PartitionName>>,
    /// Held while reading; deletion waits for the reads that began before it, which stands for a
    /// grace longer than the longest read.
    reads: RwLock<()>,
    /// For the clients; the schedule has its own, so that they cannot change it.
    entropy: SeededEntropy,
    stop_producing: CancellationToken,
    stop_reading: CancellationToken,
    reads_done: IntCounter,
    out_of_range: IntCounter,
}

impl SimulatedCluster {
    fn node(&self) -> Arc<AgentNode> {
        let nodes = self.nodes.lock();
        nodes[self.entropy.below(nodes.len())].1.clone()
    }
}

/// How a fault ends.
enum FaultRecovery {
    Metadata(MetadataFaultHandle),
    Store(ToxicId),
    Hold(#[allow(dead_code)] FailPointGuard), // by being dropped
    Seal(Incarnation),
}

struct ClusterSimulation {
    seed: u64,
    world: Arc<SimulatedCluster>,
    entropy: SeededEntropy,
    agents: Vec<(String, Agent)>,
    crashed: Vec<String>,
    recoveries: Vec<(usize, FaultRecovery)>,
    jobs: JoinSet<()>,
    clients: JoinSet<()>,
    /// Number of topics created and deleted.
    topics: usize,
}

impl ClusterSimulation {
    async fn new(seed: u64) -> Self {
        let stores = FaultyStores::without_graces().await;
        let mut simulation = Self {
            seed,
            world: Arc::new(SimulatedCluster {
                stores,
                ledger: Mutex::default(),
                nodes: Mutex::default(),
                addresses: Mutex::default(),
                logs: Mutex::default(),
                reads: RwLock::new(()),
                entropy: SeededEntropy(AtomicU64::new(seed ^ 0xC11E_4715)),
                stop_producing: CancellationToken::new(),
                stop_reading: CancellationToken::new(),
                reads_done: IntCounter::new("reads", "reads").unwrap(),
                out_of_range: IntCounter::new("out_of_range", "out of range").unwrap(),
            }),
            entropy: SeededEntropy(AtomicU64::new(seed)),
            agents: Vec::new(),
            crashed: Vec::new(),
            recoveries: Vec::new(),
            jobs: JoinSet::new(),
            clients: JoinSet::new(),
            topics: 0,
        };
        for id in ["one", "two", "three"] {
            simulation.start(id.to_owned()).await;
        }
        wait_ready(&simulation.agents[0].1).await;
        create_topic(&simulation.agents[0].1, "log-a", LOG_PARTITIONS).await;
        for log in user_partitions(&simulation.world.stores).await {
            for _ in 0..2 {
                let producer = TestProducer::new(&simulation.world.stores, &log).await;
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
        let agent = self.world.stores.start_agent(&id, &QUIET_ARGUMENTS).await;
        self.world.nodes.lock().push((id.clone(), agent.node.clone()));
        self.world
            .addresses
            .lock()
            .insert(id.clone(), agent.addresses().0);
        self.agents.push((id, agent));
    }

    async fn run(&mut self) {
        for step in 0..STEPS_PER_RUN {
            let what = self.entropy.pick(STEPS);
            println!("seed {}, step {step}: {what:?}", self.seed);
            let acks = self.world.ledger.lock().acks;
            let ends = step + 1 + self.entropy.below(3);
            self.run_step(what, ends).await;
            self.recover_faults(step).await;
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

    async fn recover_faults(&mut self, step: usize) {
        let (due, later) = std::mem::take(&mut self.recoveries)
            .into_iter()
            .partition(|(at, _)| *at <= step);
        self.recoveries = later;
        let due: Vec<(usize, FaultRecovery)> = due;
        for (_, heal) in due {
            match heal {
                FaultRecovery::Metadata(fault) => fault.release(),
                FaultRecovery::Store(toxic) => self.world.stores.store.remove(toxic),
                FaultRecovery::Hold(hold) => drop(hold),
                FaultRecovery::Seal(incarnation) => self
                    .world
                    .stores
                    .metadata
                    .inner()
                    .seal(incarnation)
                    .await
                    .unwrap(),
            }
        }
    }

    async fn run_step(&mut self, step: SimulationStep, ends: usize) {
        let stores = self.world.stores.clone();
        match step {
            SimulationStep::Crash if self.agents.len() > 1 => {
                let (id, agent) = self.agents.swap_remove(self.entropy.below(self.agents.len()));
                self.world.nodes.lock().retain(|(other, _)| *other != id);
                let incarnation = agent.node.session().map(|life| life.incarnation);
                agent.crash().await;
                self.crashed.push(id);
                self.recoveries
                    .extend(incarnation.map(|life| (ends, FaultRecovery::Seal(life))));
            }
            SimulationStep::Start if !self.crashed.is_empty() => {
                let id = self.crashed.swap_remove(0);
                self.start(id).await;
            }
            SimulationStep::Crash | SimulationStep::Start => {}
            SimulationStep::Seal => {
                let node = self.any_agent();
                if let Some(session) = node.session() {
                    stores.metadata.inner().seal(session.incarnation).await.unwrap();
                }
            }
            SimulationStep::Metadata(kind) => {
                let method = self.entropy.pick(FAULTY_METHODS);
                let fault = MetadataFault::new(kind, [method]).with_limit(4);
                println!("  {method:?}");
                self.recoveries
                    .push((ends, FaultRecovery::Metadata(stores.metadata.add_fault(fault))));
            }
            SimulationStep::Store(kind) => {
                let operation = self.entropy.pick(&StoreOperation::ALL);
                println!("  {operation:?}");
                let toxic = Toxic::new(kind).on(&[operation]).times(3);
                self.recoveries
                    .push((ends, FaultRecovery::Store(stores.store.add(toxic))));
            }
            SimulationStep::LatePut(prefix) => {
                let toxic = Toxic::new(ToxicKind::Late)
                    .on(&[StoreOperation::Put])
                    .with_prefix(prefix);
                self.recoveries
                    .push((ends, FaultRecovery::Store(stores.store.add(toxic.times(1)))));
            }
            SimulationStep::Hold => {
                let point = self.entropy.pick(&FailPoint::ALL);
                println!("  {point:?}");
                let hold = self.any_agent().failpoints.hold(point);
                self.recoveries.push((ends, FaultRecovery::Hold(hold)));
            }
            SimulationStep::Roll | SimulationStep::Delete | SimulationStep::Sweep => self.spawn_job(step),
            SimulationStep::DeleteTopic | SimulationStep::RecreateTopic => self.spawn_topic_job(step),
        }
    }

    fn any_agent(&self) -> Arc<AgentNode> {
        self.agents[self.entropy.below(self.agents.len())].1.node.clone()
    }

    /// Runs a background job of one agent. It may fail, since it is repeated.
    fn spawn_job(&mut self, step: SimulationStep) {
        let (world, node) = (self.world.clone(), self.any_agent());
        self.jobs.spawn(async move {
            let Some(session) = node.session() else { return };
            let _either = match step {
                SimulationStep::Roll => roll::roll_all(&node.maintenance(), &session).await,
                SimulationStep::Sweep => sweep::run(&node.maintenance(), &session).await,
                _ => {
                    let _no_reads = world.reads.write().await;
                    delete::run(&node.maintenance()).await
                }
            };
        });
    }

    /// Runs the lifetime of a topic that the clients do not use.
    fn spawn_topic_job(&mut self, step: SimulationStep) {
        let (world, node) = (self.world.clone(), self.any_agent());
        self.topics += 1;
        let name = match step {
            SimulationStep::RecreateTopic => "again".to_owned(),
            _ => format!("short-{}", self.topics),
        };
        let times = if matches!(step, SimulationStep::RecreateTopic) {
            2
        } else {
            1
        };
        self.jobs.spawn(async move {
            for _ in 0..times {
                run_short_lived_topic(&world, &node, &name).await;
            }
        });
    }

    /// Ends all faults, waits for what is in flight, and compares everything acknowledged with
    /// everything stored.
    async fn finish(mut self) {
        self.world.stores.metadata.clear();
        self.world.stores.store.clear();
        self.recover_faults(usize::MAX).await;
        let judge = self
            .world
            .stores
            .start_ready_agent("judge", &QUIET_ARGUMENTS)
            .await;
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
            timeout(EVENT_TIMEOUT, ends).await.is_ok(),
            "the clients get no responses"
        );
        self.world.stores.store.wait_settled().await;
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
        self.end_all_but(&judge).await;
        run_jobs_until_idle(&self.world.stores, &judge.node).await;
        expire_ended_incarnations(&self.world.stores).await;
        run_jobs_until_idle(&self.world.stores, &judge.node).await;
        check_objects(&self.world.stores, &self.world.ledger, true).await;
        let acks = self.world.ledger.lock().acks;
        let (reads, out_of_range) = (self.world.reads_done.get(), self.world.out_of_range.get());
        let seed = self.seed;
        println!("seed {seed}: {acks} acknowledgements, {reads} reads, {out_of_range} out of range");
        judge.drain().await;
    }

    /// Crashes all other agents, ends all other incarnations, and deletes the remaining topics.
    async fn end_all_but(&mut self, judge: &Agent) {
        for (_, agent) in self.agents.drain(..) {
            agent.crash().await;
        }
        let metadata = self.world.stores.metadata.inner();
        let mine = incarnation(judge);
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
        wait_until("the judge leads all", || {
            led_count(judge) == LOG_PARTITIONS as usize
        })
        .await;
    }
}

/// Creates, writes, rolls, reads and deletes a topic. Each step may fail, or take too long.
async fn run_short_lived_topic(world: &SimulatedCluster, node: &AgentNode, name: &str) {
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        ..Default::default()
    };
    if topics::create(&node.topics(), request).await.is_err() {
        return;
    }
    let created = user_partitions(&world.stores).await;
    if let Some(log) = created.into_iter().find(|log| log.topic == name) {
        let mut producer = TestProducer::new(&world.stores, &log).await;
        let _either = timeout(STEP_TIME * 4, producer.send(&world.ledger, node)).await;
        if let Some(session) = node.session() {
            let _either = timeout(STEP_TIME, roll::roll_all(&node.maintenance(), &session)).await;
        }
        // An agent that does not lead it reads it through its cache.
        for _ in 0..3 {
            let reader = world.node();
            let _reads = world.reads.read().await;
            let read = read_and_check(&world.stores, &world.ledger, &reader, &log, 0);
            let _either = timeout(STEP_TIME, read).await;
        }
    }
    let _either = topics::delete(&node.topics(), name).await;
    let _no_reads = world.reads.write().await;
    let _either = timeout(STEP_TIME * 4, delete::run(&node.maintenance())).await;
}

/// Methods of the metadata store that may fail. Two are left out: `delete_topic` names only a
/// topic, and offsets that a group commits late are not fenced within a generation.
const FAULTY_METHODS: &[MetadataMethod] = &[
    MetadataMethod::commit_object,
    MetadataMethod::commit_object,
    MetadataMethod::read_log,
    MetadataMethod::bounds,
    MetadataMethod::begin_segment,
    MetadataMethod::finish_segment,
    MetadataMethod::collect_garbage,
    MetadataMethod::confirm_deleted,
    MetadataMethod::orphans,
    MetadataMethod::mark_swept,
    MetadataMethod::snapshot,
    MetadataMethod::move_leases,
    MetadataMethod::register_agent,
    MetadataMethod::groups,
];

#[tokio::test]
async fn what_is_acknowledged_is_read_through_every_fault() {
    let seeds = match std::env::var("STREAMHOUSE_SEED") {
        Ok(seed) => vec![seed.parse().expect("STREAMHOUSE_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    };
    let runs = seeds.into_iter().map(async |seed| {
        println!("seed {seed}: repeat this run with STREAMHOUSE_SEED={seed}");
        let mut simulation = ClusterSimulation::new(seed).await;
        simulation.run().await;
        simulation.finish().await;
    });
    futures::future::join_all(runs).await;
}
