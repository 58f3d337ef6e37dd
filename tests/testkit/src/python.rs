//! Finds the Python environments that the test command installs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

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
    let cache = env::var_os("STREAMHOUSE_CACHE").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/streamhouse"))
    });
    let cache = cache.context("set HOME, or STREAMHOUSE_CACHE to the folder hack/test.sh installs into")?;
    let folders = cache.read_dir().into_iter().flatten().flatten();
    let folders = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("venv-kafka-"));
    // The interpreter is a link to the system's, so its own time says nothing.
    let finished = folders.filter_map(|entry| {
        let marker = entry.path().join("ready").metadata().ok()?;
        Some((marker.modified().ok()?, entry.path().join("bin/python")))
    });
    let newest = finished.filter(|(_, python)| python.exists()).max();
    newest.map(|(_, python)| python).with_context(|| {
        format!(
            "there is no Python with kafka-python in {}; run hack/test.sh, which installs it",
            cache.display()
        )
    })
}
