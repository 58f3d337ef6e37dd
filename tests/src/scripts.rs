//! Scripts of Kafka clients that tests run with the Python environment of the test command.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use streamhouse_testkit::{ChildProcess, ProcessBuilder, kafka_python};

/// Starts a script of this package, such as `tests/kafka_clients.py`, under a name for messages.
///
/// # Errors
///
/// Fails if there is no such Python environment, or if the script cannot be started.
pub fn start_script(path: &str, name: &str, arguments: &[&str]) -> anyhow::Result<ChildProcess> {
    ProcessBuilder::new(kafka_python()?)
        .name(name)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .args(arguments)
        .start()
}

/// Waits for the end of a script and returns the JSON that it has printed.
///
/// # Errors
///
/// Fails if the script does not end in time, fails, or prints anything else.
pub fn finish_script(script: &mut ChildProcess, limit: Duration) -> anyhow::Result<Value> {
    let status = script.wait(limit)?;
    let name = script.name().to_owned();
    anyhow::ensure!(
        status.success(),
        "{name} ended with {status}: {}",
        script.log_tail()
    );
    let printed = script.stdout();
    serde_json::from_str(&printed).with_context(|| format!("{name} printed {printed}"))
}
