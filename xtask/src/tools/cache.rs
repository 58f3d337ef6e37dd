//! The cache folder: `~/.cache/streamhouse`, or `$STREAMHOUSE_CACHE`.
//!
//! Guarantees: what is built appears in its folder when it is complete, and one process at a time
//! builds.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::command::note;
use super::machine::is_program;
use super::spec::ToolContent;

/// Returns the cache folder.
pub(crate) fn cache_folder() -> anyhow::Result<PathBuf> {
    match std::env::var_os("STREAMHOUSE_CACHE").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(std::env::home_dir()
            .context("set HOME or STREAMHOUSE_CACHE")?
            .join(".cache/streamhouse")),
    }
}

/// The lock of the cache, held until it is dropped.
#[derive(Debug)]
pub(crate) struct CacheLock {
    _file: File,
}

impl CacheLock {
    /// Waits until no other process holds the lock.
    pub(crate) fn acquire(cache: &Path) -> anyhow::Result<CacheLock> {
        fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let path = cache.join("lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                note("waiting for another run, which installs something");
                file.lock()
                    .with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        Ok(CacheLock { _file: file })
    }
}

/// Whether a folder has all that a tool has.
pub(crate) fn is_complete(folder: &Path, contents: &[ToolContent]) -> bool {
    contents.iter().all(|content| has_content(folder, content))
}

fn has_content(folder: &Path, content: &ToolContent) -> bool {
    match content {
        ToolContent::Program(path) => is_program(&folder.join(path)),
        ToolContent::File(path) => {
            let file = folder.join(path).metadata();
            file.is_ok_and(|file| file.is_file() && file.len() > 0)
        }
        ToolContent::Marker(path) => folder.join(path).is_file(),
        ToolContent::Folder(path) => folder.join(path).is_dir(),
    }
}

/// Returns the folder beside `folder` that is built into.
pub(crate) fn new_folder(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    folder.with_file_name(name)
}

/// Makes an empty folder to build into; one that a killed build left goes.
pub(crate) fn prepare_new_folder(folder: &Path) -> anyhow::Result<PathBuf> {
    let new = new_folder(folder);
    remove(&new)?;
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    Ok(new)
}

/// Moves what was built to its place. A folder that several tools share keeps what it has.
pub(crate) fn publish(new: &Path, folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return fs::rename(new, folder).with_context(|| format!("cannot make {}", folder.display()));
    }
    for entry in fs::read_dir(new)? {
        let entry = entry?;
        let target = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            remove(&target)?;
        }
        fs::rename(entry.path(), &target).with_context(|| format!("cannot make {}", target.display()))?;
    }
    remove(new)
}

/// Removes a folder, which need not exist.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
