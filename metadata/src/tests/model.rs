//! Random sequences of calls, compared step by step with a model that keeps everything in plain
//! lists: many long ones on SQLite, a few on PostgreSQL.

mod state;

use proptest::prelude::*;

use self::state::StoreModel;
use crate::tests::support::{TestStore, postgres, run_random_cases, sqlite_memory};

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
enum ModelOperation {
    Register(usize),
    Seal(usize),
    Move {
        partition: usize,
        to: Option<usize>,
        stale: bool,
    },
    Commit {
        agent: usize,
        parts: Vec<(usize, Vec<BatchSpec>)>,
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
struct BatchSpec {
    producer: Option<i64>,
    raise_epoch: bool,
    back: i32,
    records: i32,
}

fn batch_spec() -> impl Strategy<Value = BatchSpec> {
    (
        prop::option::weighted(0.7, 0..2_i64),
        prop::bool::weighted(0.05),
        prop_oneof![4 => Just(0), 2 => 1..4, 1 => -1..0, 1 => 4..12],
        1..4_i32,
    )
        .prop_map(|(producer, raise_epoch, back, records)| BatchSpec {
            producer,
            raise_epoch,
            back,
            records,
        })
}

fn operation() -> impl Strategy<Value = ModelOperation> {
    let agent = 0..AGENTS;
    let partition = 0..PARTITIONS;
    let parts = prop::collection::vec(
        (0..PARTITIONS, prop::collection::vec(batch_spec(), 1..4)),
        1..=PARTITIONS,
    )
    .prop_map(|mut parts: Vec<(usize, Vec<BatchSpec>)>| {
        parts.sort_by_key(|part| part.0);
        parts.dedup_by_key(|part| part.0);
        parts
    });
    prop_oneof![
        2 => agent.clone().prop_map(ModelOperation::Register),
        1 => agent.clone().prop_map(ModelOperation::Seal),
        4 => (partition.clone(), prop::option::weighted(0.9, agent.clone()), prop::bool::weighted(0.2))
            .prop_map(|(partition, to, stale)| ModelOperation::Move { partition, to, stale }),
        10 => (agent.clone(), parts).prop_map(|(agent, parts)| ModelOperation::Commit { agent, parts }),
        2 => (0..20_usize).prop_map(ModelOperation::CommitAgain),
        2 => (agent.clone(), partition.clone()).prop_map(|(agent, partition)| ModelOperation::Begin { agent, partition }),
        4 => (agent.clone(), partition.clone(), 0..4_usize)
            .prop_map(|(agent, partition, ranges)| ModelOperation::Finish { agent, partition, ranges }),
        2 => (agent, partition, -2..9_i64).prop_map(|(agent, partition, by)| ModelOperation::Advance { agent, partition, by }),
        2 => any::<bool>().prop_map(|confirm| ModelOperation::Garbage { confirm }),
        2 => (0..NAMES.len(), 0..OWNERS).prop_map(|(name, owner)| ModelOperation::Claim { name, owner }),
        1 => (0..NAMES.len(), 0..OWNERS).prop_map(|(name, owner)| ModelOperation::Release { name, owner }),
        1 => Just(ModelOperation::Overview),
    ]
}

/// Runs `cases` random sequences, each on a fresh store.
fn run_random_sequences<F: Future<Output = TestStore>>(cases: u32, length: usize, fresh: impl Fn() -> F) {
    let sequences = prop::collection::vec(operation(), 1..length);
    run_random_cases(cases, &sequences, async |ops| {
        let fresh = fresh().await;
        let mut model = StoreModel::new(&fresh.store, AGENTS, PARTITIONS).await;
        for op in &ops {
            model.step(op).await;
        }
        model.compare_all().await;
    });
}

#[test]
fn sqlite_does_what_the_model_does() {
    run_random_sequences(150, 80, sqlite_memory);
}

#[test]
fn postgres_does_what_the_model_does() {
    run_random_sequences(12, 60, postgres);
}
