//! Finds the Python environments that the test command installs.

use std::env;
use std::path::PathBuf;

use anyhow::Context;

use crate::programs;

/// Returns the interpreter with kafka-python, confluent-kafka and aiokafka: `$STREAMHOUSE_PYTHON`,
/// or that of the newest environment in the cache folder.
///
/// # Errors
///
/// Fails if there is none.
pub fn kafka_python() -> anyhow::Result<PathBuf> {
    if let Some(python) = env::var_os("STREAMHOUSE_PYTHON") {
        return Ok(python.into());
    }
    // The interpreter is a link to the system's, so its own time says nothing: the marker's does.
    let marker = programs::find_newest("venv-kafka-", "ready")?;
    let python = marker.map(|marker| marker.with_file_name("bin").join("python"));
    python
        .filter(|python| python.exists())
        .context("there is no Python with kafka-python; run hack/test.sh, which installs it")
}
