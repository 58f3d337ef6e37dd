//! Helpers of the examples: a cluster ([`cluster`]), HTTP ([`http`]), metrics ([`measurements`]),
//! and plain output.
#![allow(dead_code, unreachable_pub)]

pub mod cluster;
pub mod http;
pub mod measurements;

use std::{fmt::Display, future::Future, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use tokio::time::Instant;

pub use cluster::ExampleCluster;

/// Starts or finds a cluster, runs the example on it, and stops what was started, also after an
/// interrupt.
pub fn run<F>(agent_flags: &[&str], example: impl FnOnce(ExampleCluster) -> F) -> ExitCode
where
    F: Future<Output = Result<ExampleCluster>>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let work = async {
            let cluster = ExampleCluster::connect_or_start(agent_flags).await?;
            example(cluster).await?.stop().await
        };
        tokio::select! {
            outcome = work => outcome,
            // Dropping the future ends the embedded agent.
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the headline of a step.
pub fn step(title: impl Display) {
    println!("\n== {title}");
}

/// Prints a table with aligned columns.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(header.get(column).map(|cell| cell.len()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let line: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("   {}", line.join("  ").trim_end());
    };
    print(&mut header.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}

/// Calls `ask` until it returns a value, printing a message every few seconds, for at most
/// `patience`.
pub async fn wait_until<T, Fut>(what: &str, patience: Duration, mut ask: impl FnMut() -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<Option<T>>>,
{
    let started = Instant::now();
    let mut said = started;
    loop {
        if let Some(answer) = ask().await.with_context(|| format!("while waiting for {what}"))? {
            return Ok(answer);
        }
        anyhow::ensure!(started.elapsed() < patience, "{what}: not after {patience:?}");
        if said.elapsed() > Duration::from_secs(3) {
            said = Instant::now();
            println!("   waiting for {what} ({} s)", started.elapsed().as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
