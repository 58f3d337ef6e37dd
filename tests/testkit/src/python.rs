//! Finds the Python environments that the test command installs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Returns the interpreter with kafka-python: `$STREAMHOUSE_PYTHON`, or that of the newest
/// environment in the cache folder.
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
    let pythons = folders.map(|entry| entry.path().join("bin/python"));
    let newest = pythons
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().and_then(|file| file.modified()).ok());
    newest.with_context(|| {
        format!(
            "there is no Python with kafka-python in {}; run hack/test.sh, which installs it",
            cache.display()
        )
    })
}
