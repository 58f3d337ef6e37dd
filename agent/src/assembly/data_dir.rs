//! Creates and locks the data directory of the embedded default, so that no two agents use it.

use std::fs::{File, TryLockError};

use anyhow::Context;
use streamhouse_core::settings::AgentSettings;

/// Another agent uses the data directory.
#[derive(Debug, thiserror::Error)]
#[error("another agent uses the data directory {0}; stop it, or give this agent another --data-dir")]
pub struct DataDirInUseError(String);

/// Creates the data directory of the embedded default, which is missing before the first start.
/// Does nothing with other settings, which have no data directory.
///
/// # Errors
/// If it cannot be created.
pub fn make_data_dir(settings: &AgentSettings) -> anyhow::Result<()> {
    if !settings.dev {
        return Ok(());
    }
    let made = std::fs::create_dir_all(&settings.data_dir);
    made.with_context(|| format!("cannot create the data directory {}", settings.data_dir.display()))
}

/// Locks the data directory of the embedded default for as long as the returned file stays open.
/// Returns `None` with other settings, which have no data directory.
///
/// # Errors
/// [`DataDirInUseError`] if another agent holds the lock; otherwise if the directory cannot be
/// written.
pub fn lock_data_dir(settings: &AgentSettings) -> anyhow::Result<Option<File>> {
    if !settings.dev {
        return Ok(None);
    }
    let shown = settings.data_dir.display();
    make_data_dir(settings)?;
    let lock = File::create(settings.data_dir.join("agent.lock"));
    let lock = lock.with_context(|| format!("cannot write to the data directory {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(DataDirInUseError(shown.to_string()).into()),
        // The file system has no locks: a second agent cannot be detected.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(%error, "cannot lock the data directory; do not run a second agent on it");
            Ok(None)
        }
    }
}
