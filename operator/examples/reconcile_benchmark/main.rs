//! The benchmark of the operator in `docs/benchmarks.md`: 200 clusters with 5,000 Topics on a real
//! API server and a real PostgreSQL, without nodes. Prints how many requests and queries the
//! operator sends at rest and while everything changes, and how much memory it uses.
//!
//! The benchmark plays the parts that are missing: it reports Deployments as available and Jobs as
//! complete, and each cluster's database contains an agent that leads all partitions. Each cluster
//! has a database of its own. All traffic stays on loopback, and the benchmark ends by itself.
//!
//! `reconcile_benchmark [CLUSTERS [TOPICS [SECONDS]]]`; run it with `hack/benchmark-operator.sh`.

mod measure;
mod world;

use std::time::Duration;

use tokio::time::Instant;

use anyhow::{Context as _, Result};

use self::{
    measure::{OperatorUnderTest, RequestCounters},
    world::BenchmarkEnvironment,
};

/// Time for the reconciliations of the start to end before the rest is measured.
const SETTLE_TIME: Duration = Duration::from_secs(65);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        let given = arguments.get(at);
        given.map_or(Ok(default), |text| {
            text.parse().with_context(|| format!("not a number: {text}"))
        })
    };
    let (clusters, topics, seconds) = (number(0, 200)?, number(1, 5_000)?, number(2, 120)?);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run(clusters, topics, Duration::from_secs(seconds as u64)))
}

async fn run(clusters: usize, topics: usize, rest: Duration) -> Result<()> {
    let world = BenchmarkEnvironment::create(clusters).await?;
    let background = world.measure(Duration::from_secs(20)).await?;
    let mut operator = OperatorUnderTest::start(&world)?;
    let nodes = world.play_nodes();

    println!("{clusters} clusters, {topics} Topics\n");
    println!(
        "| phase | duration | API requests/min | of these writes | PostgreSQL transactions/min | memory, MiB | peak, MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let phase = BenchmarkPhase::begin("creation", &world)?;
    world.create_resources(topics).await?;
    operator.wait_until_ready(clusters, topics).await?;
    phase.print(&world, &operator, &background)?;

    tokio::time::sleep(SETTLE_TIME).await;
    // The part of the nodes asks every few seconds otherwise.
    drop(nodes);
    let phase = BenchmarkPhase::begin("rest", &world)?;
    tokio::time::sleep(rest).await;
    phase.print(&world, &operator, &background)?;

    let nodes = world.play_nodes();
    let phase = BenchmarkPhase::begin("every resource changed", &world)?;
    world.change_resources().await?;
    world.wait_until_observed().await?;
    phase.print(&world, &operator, &background)?;
    drop(nodes);
    operator.stop()
}

/// A phase of the benchmark.
struct BenchmarkPhase {
    name: &'static str,
    began: Instant,
    before: RequestCounters,
}

impl BenchmarkPhase {
    fn begin(name: &'static str, world: &BenchmarkEnvironment) -> Result<Self> {
        Ok(Self {
            name,
            began: Instant::now(),
            before: world.counters()?,
        })
    }

    /// Prints the phase as a row of the table. `background` is counted without an operator.
    fn print(
        self,
        world: &BenchmarkEnvironment,
        operator: &OperatorUnderTest,
        background: &RequestCounters,
    ) -> Result<()> {
        let counted = world.counters()?.since(&self.before);
        let seconds = self.began.elapsed().as_secs_f64();
        let minutes = seconds / 60.0;
        let per_minute = |of: fn(&RequestCounters) -> f64| {
            let idle = of(background) * minutes / background.minutes;
            ((of(&counted) - idle).max(0.0) / minutes).round()
        };
        let (memory, peak) = operator.memory()?;
        println!(
            "| {} | {seconds:.0} s | {} | {} | {} | {:.0} | {:.0} |",
            self.name,
            per_minute(|counters| counters.requests),
            per_minute(|counters| counters.writes),
            per_minute(|counters| counters.transactions),
            memory as f64 / 1024.0,
            peak as f64 / 1024.0,
        );
        Ok(())
    }
}
