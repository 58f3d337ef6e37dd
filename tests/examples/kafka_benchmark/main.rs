//! The comparison of `docs/benchmarks.md` with Apache Kafka: the same command lines of Kafka's own
//! performance tools against a Kafka broker and against one agent, in the same run.
//!
//! The agent stores in a real MinIO and commits in a real PostgreSQL with fsync before it
//! acknowledges; the broker acknowledges what is in its page cache, as it does by default. One
//! agent has the default cache, smaller than what a load produces, so that consumers read objects;
//! another one has a cache that holds it, as the page cache of the broker does. All have the same
//! partitions, payloads (random) and clients. Each round runs every load against both, in turns,
//! and the medians of the rounds are compared. All traffic stays on loopback, and the benchmark
//! ends by itself.
//!
//! Run it with `hack/bench/kafka.sh`.

mod load;
mod processes;
mod report;
mod systems;
mod tools;

use anyhow::Context;

use self::{
    load::{LOADS, MeasuredLoad},
    systems::{KafkaSystem, LARGE_CACHE, MeasuredSystem, STREAMHOUSE, StreamHouseSystem},
};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let number = |text: Option<String>, name: &'static str, default: u64| -> anyhow::Result<u64> {
        text.map_or(Ok(default), |text| text.parse()).context(name)
    };
    let rounds = number(arguments.next(), "the number of rounds", 2)?.max(1);
    let percent = number(arguments.next(), "the share of the records, in percent", 100)?.max(1);
    let title = arguments.next().unwrap_or_default();
    println!("== starting Kafka, and PostgreSQL, MinIO and an agent");
    let systems: [Box<dyn MeasuredSystem>; 3] = [
        Box::new(KafkaSystem::start()?),
        Box::new(StreamHouseSystem::start(STREAMHOUSE, None)?),
        Box::new(StreamHouseSystem::start(LARGE_CACHE, Some("2GiB"))?),
    ];
    let mut measured: Vec<MeasuredLoad> = Vec::new();
    for round in 0..rounds {
        for load in LOADS.iter().filter(|load| load.title.contains(&title)) {
            // The one that comes first has the quieter machine now and then.
            let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
            for system in order {
                let run = load.run(&*systems[system], round, percent)?;
                println!("{}", report::line(&run));
                measured.push(run);
            }
        }
    }
    println!(
        "\n== the table of docs/benchmarks.md, medians of {rounds} rounds\n{}",
        report::render_table(&measured)
    );
    Ok(())
}
