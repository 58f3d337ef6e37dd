//! Runs the clients' programs to their end.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use streamhouse_testkit::{KafkaProgram, ProcessBuilder, kafka_python};

/// A program that takes longer hangs.
pub(crate) const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);

/// Returns the path of a file in `tests/kafka`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka").join(name)
}

/// Runs a program and returns its standard output.
///
/// # Errors
///
/// Fails with its output if it does not succeed.
pub(crate) fn output_of(program: ProcessBuilder) -> anyhow::Result<String> {
    let (success, text) = outcome_of(program)?;
    success.map(|()| text)
}

/// Runs a program and returns whether it succeeded, and its standard output.
pub(crate) fn outcome_of(program: ProcessBuilder) -> anyhow::Result<(anyhow::Result<()>, String)> {
    let mut process = program.start()?;
    let status = process.wait(PROGRAM_TIMEOUT)?;
    let success = if status.success() {
        Ok(())
    } else {
        Err(anyhow::anyhow!(
            "{} ended with {status}: {}",
            process.name(),
            process.log_tail()
        ))
    };
    Ok((success, process.stdout()))
}

/// Prepares a scenario of a Python script.
pub(crate) fn python(file: &str, scenario: &str, bootstrap: &str) -> anyhow::Result<ProcessBuilder> {
    Ok(ProcessBuilder::new(kafka_python()?)
        .name(format!("{file} {scenario}"))
        .args(["-W", "ignore"])
        .arg(script(file))
        .args([scenario, bootstrap]))
}

/// Prepares kcat with the address of a cluster.
pub(crate) fn kcat(bootstrap: &str, arguments: &[&str]) -> ProcessBuilder {
    ProcessBuilder::new("kcat")
        .args(["-b", bootstrap])
        .args(arguments)
}

/// Prepares one of Kafka's tools.
pub(crate) fn tool(class: &str, arguments: &[&str]) -> anyhow::Result<ProcessBuilder> {
    let class = format!("org.apache.kafka.tools.{class}");
    let command = KafkaProgram::Class(&class)
        .command()
        .context("Apache Kafka is needed")?;
    Ok(command.args(arguments))
}
