//! Runs Kafka clients that nobody here wrote against Apache Kafka and against a cluster of agents,
//! and compares what the clients print. Called by `hack/test-kafka.sh`, which installs them.
//!
//! `kafka_clients [--small] [SCENARIO]...` runs all scenarios, the small set that every run of the
//! tests has, or the named ones; `--list` names them. Prints the result and the time of each; ends
//! with 0 only if all passed.

mod authentication;
mod comparison;
mod connect;
mod failover;
mod franz_go;
mod java_load;
mod kcat;
mod mirror;
mod programs;
mod protocols;
mod python_clients;
mod scenario;
mod streams;
mod subject;
mod tools;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use self::{
    scenario::{ClientScenario, SCENARIOS, ScenarioSize},
    subject::TestSubjects,
};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--list"] {
        for scenario in SCENARIOS {
            let size = match scenario.size {
                ScenarioSize::Small => "small",
                ScenarioSize::Whole => "",
            };
            println!("{:<28} {size:<6} {}", scenario.name, scenario.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&arguments)?;
    let begin = now();
    let subjects = TestSubjects::start()?;
    println!("servers started in {:.1} s", elapsed(begin));
    let mut failed = Vec::new();
    for scenario in &chosen {
        let begin = now();
        let result = scenario.run.run(&subjects);
        let time = elapsed(begin);
        match result {
            Ok(()) => println!("{:<28} ok     {time:>6.1} s", scenario.name),
            Err(error) => {
                println!("{:<28} FAILED {time:>6.1} s\n{error:#}\n", scenario.name);
                failed.push(scenario.name);
            }
        }
    }
    // Before the total, which includes the end of the servers.
    drop(subjects);
    println!("\ntotal: {:.1} s", elapsed(begin));
    for name in &failed {
        println!("FAILED {name}");
    }
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn choose(arguments: &[String]) -> anyhow::Result<Vec<&'static ClientScenario>> {
    let small = arguments.iter().any(|argument| argument == "--small");
    let names: Vec<&String> = arguments
        .iter()
        .filter(|argument| *argument != "--small")
        .collect();
    if names.is_empty() {
        let chosen = SCENARIOS.iter();
        return Ok(chosen
            .filter(|scenario| !small || scenario.size == ScenarioSize::Small)
            .collect());
    }
    let find = |name: &&String| {
        SCENARIOS
            .iter()
            .find(|scenario| scenario.name == **name)
            .with_context(|| format!("no scenario {name}; --list names them"))
    };
    names.iter().map(find).collect()
}

#[expect(clippy::disallowed_methods, reason = "real programs take real time")]
fn now() -> Instant {
    Instant::now()
}

fn elapsed(begin: Instant) -> f64 {
    now()
        .saturating_duration_since(begin)
        .max(Duration::ZERO)
        .as_secs_f64()
}
