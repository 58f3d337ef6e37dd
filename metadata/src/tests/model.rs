//! Random sequences of calls, compared step by step with a model that keeps everything in plain
//! lists: many long ones on SQLite, a few on PostgreSQL.

mod state;

use proptest::{prelude::*, test_runner::TestRunner};

use self::state::Model;
use crate::tests::support::{Fresh, postgres, sqlite_memory};

/// The number of agent ids.
const AGENTS: usize = 3;
/// The number of partitions of the topic.
const PARTITIONS: usize = 2;

/// The names that are claimed; only the first one is a topic.
const NAMES: [&str; 2] = ["orders", "payments"];
/// The number of claimants.
const OWNERS: usize = 3;

/// One call before its ids are known. Agents and partitions are indexes.
#[derive(Debug, Clone)]
enum Op {
    Register(usize),
    Seal(usize),
    Move {
        partition: usize,
        to: Option<usize>,
        stale: bool,
    },
    Commit {
        agent: usize,
        parts: Vec<(usize, Vec<Send>)>,
    },
    CommitAgain(usize),
    Begin {
        agent: usize,
        partition: usize,
    },
    Finish {
        agent: usize,
        partition: usize,
        ranges: usize,
    },
    Advance {
        agent: usize,
        partition: usize,
        by: i64,
    },
    Garbage {
        confirm: bool,
    },
    Claim {
        name: usize,
        owner: usize,
    },
    Release {
        name: usize,
        owner: usize,
    },
    Overview,
}

/// One batch: its producer, its epoch, and its sequence relative to the next one expected.
#[derive(Debug, Clone)]
struct Send {
    producer: Option<i64>,
    raise_epoch: bool,
    back: i32,
    records: i32,
}

fn send() -> impl Strategy<Value = Send> {
    (
        prop::option::weighted(0.7, 0..2_i64),
        prop::bool::weighted(0.05),
        prop_oneof![4 => Just(0), 2 => 1..4, 1 => -1..0, 1 => 4..12],
        1..4_i32,
    )
        .prop_map(|(producer, raise_epoch, back, records)| Send {
            producer,
            raise_epoch,
            back,
            records,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let agent = 0..AGENTS;
    let partition = 0..PARTITIONS;
    let parts = prop::collection::vec(
        (0..PARTITIONS, prop::collection::vec(send(), 1..4)),
        1..=PARTITIONS,
    )
    .prop_map(|mut parts: Vec<(usize, Vec<Send>)>| {
        parts.sort_by_key(|part| part.0);
        parts.dedup_by_key(|part| part.0);
        parts
    });
    prop_oneof![
        2 => agent.clone().prop_map(Op::Register),
        1 => agent.clone().prop_map(Op::Seal),
        4 => (partition.clone(), prop::option::weighted(0.9, agent.clone()), prop::bool::weighted(0.2))
            .prop_map(|(partition, to, stale)| Op::Move { partition, to, stale }),
        10 => (agent.clone(), parts).prop_map(|(agent, parts)| Op::Commit { agent, parts }),
        2 => (0..20_usize).prop_map(Op::CommitAgain),
        2 => (agent.clone(), partition.clone()).prop_map(|(agent, partition)| Op::Begin { agent, partition }),
        4 => (agent.clone(), partition.clone(), 0..4_usize)
            .prop_map(|(agent, partition, ranges)| Op::Finish { agent, partition, ranges }),
        2 => (agent, partition, -2..9_i64).prop_map(|(agent, partition, by)| Op::Advance { agent, partition, by }),
        2 => any::<bool>().prop_map(|confirm| Op::Garbage { confirm }),
        2 => (0..NAMES.len(), 0..OWNERS).prop_map(|(name, owner)| Op::Claim { name, owner }),
        1 => (0..NAMES.len(), 0..OWNERS).prop_map(|(name, owner)| Op::Release { name, owner }),
        1 => Just(Op::Overview),
    ]
}

/// Runs `cases` random sequences, each on a fresh store.
fn run<F: Future<Output = Fresh>>(cases: u32, length: usize, fresh: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let strategy = prop::collection::vec(op(), 1..length);
    let outcome = TestRunner::new(config).run(&strategy, |ops| {
        // A failed comparison panics, which the runner catches and shrinks.
        runtime.block_on(async {
            let fresh = fresh().await;
            let mut model = Model::new(&fresh.store, AGENTS, PARTITIONS).await;
            for op in &ops {
                model.step(op).await;
            }
            model.compare_all().await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn sqlite_does_what_the_model_does() {
    run(150, 80, sqlite_memory);
}

#[test]
fn postgres_does_what_the_model_does() {
    run(12, 60, postgres);
}
