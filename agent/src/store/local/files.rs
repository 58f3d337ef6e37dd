//! The blocking file operations behind [`LocalStore`](super::LocalStore), which runs them on the
//! blocking pool.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use parking_lot::RwLock;
use streamhouse_core::time::{Entropy, SystemEntropy};

use super::{
    super::{GetRange, ObjectMeta, StoreError, StoreErrorKind},
    TEMP_DIRECTORY,
};

/// How often a put recreates its directory while another process keeps removing it.
const DIRECTORY_ATTEMPTS: usize = 8;

/// An opened directory.
#[derive(Debug)]
pub(super) struct LocalFiles {
    root: PathBuf,
    /// The temporary directory of this process; no other process writes there.
    temp: PathBuf,
    /// Locked while this process runs, so that others know that `temp` is in use.
    _lock: File,
    next_temp: AtomicU64,
    /// Directories known to be durable, with all their parents. Locked for reading while a name is
    /// linked, for writing while an empty directory is removed.
    durable: RwLock<HashSet<PathBuf>>,
}

impl LocalFiles {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        Self::try_open(root).map_err(|error| {
            StoreError::new(
                error_kind(&error),
                format!(
                    "cannot use the directory {} ({error}); check the path and its permissions",
                    root.display()
                ),
            )
        })
    }

    fn try_open(root: &Path) -> io::Result<Self> {
        let temp_root = root.join(TEMP_DIRECTORY);
        fs::create_dir_all(&temp_root)?;
        let root = fs::canonicalize(root)?;
        if let Some(parent) = root.parent() {
            // The directory itself may be new. If its parent cannot be opened, another user created
            // it before.
            let _ = sync_directory(parent);
        }
        // One opener at a time, so that a temporary directory is not taken for abandoned while its
        // owner is about to lock it.
        let opening = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(temp_root.join("open.lock"))?;
        opening.lock()?;
        remove_abandoned(&temp_root)?;
        let name = format!("{:016x}", SystemEntropy.next_u64());
        let lock = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(temp_root.join(format!("{name}.owner")))?;
        lock.lock()?;
        let temp = temp_root.join(name);
        fs::create_dir(&temp)?;
        drop(opening);
        Ok(Self {
            root,
            temp,
            _lock: lock,
            next_temp: AtomicU64::new(0),
            durable: RwLock::default(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn put_new(&self, key: &str, body: &[u8]) -> Result<(), StoreError> {
        let temp = self
            .temp
            .join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string());
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&temp)
            .and_then(|mut file| {
                file.write_all(body)?;
                file.sync_data()
            });
        let linked = written.and_then(|()| self.link_durably(&temp, &self.root.join(key)));
        // If it stays behind, the next open removes it.
        let _ = fs::remove_file(&temp);
        linked.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => StoreError::already_exists(key),
            _ => self.failure("put", key, &error),
        })
    }

    /// Links the file to its name durably, even if the name already exists.
    fn link_durably(&self, temp: &Path, path: &Path) -> io::Result<()> {
        let Some(directory) = path.parent() else {
            return Err(ErrorKind::InvalidInput.into());
        };
        for _ in 0..DIRECTORY_ATTEMPTS {
            let durable = self.durable.read();
            if durable.contains(directory) {
                let linked = fs::hard_link(temp, path);
                drop(durable);
                match linked {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.durable.write().remove(directory);
                    }
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    done => return sync_directory(directory).and(done),
                }
            } else {
                drop(durable);
                self.make_directory(directory)?;
            }
        }
        Err(io::Error::new(
            ErrorKind::NotFound,
            "the directory keeps being removed",
        ))
    }

    /// Creates the directory, and makes it and everything above it up to the root durable.
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        // Never recreates the root: a vanished root is an unmounted disk, not an empty store.
        fs::metadata(&self.root)?;
        let mut durable = self.durable.write();
        fs::create_dir_all(directory)?;
        for made in directory.ancestors().take_while(|path| *path != self.root) {
            if let Some(parent) = made.parent() {
                sync_directory(parent)?;
            }
        }
        durable.insert(directory.to_owned());
        Ok(())
    }

    pub(super) fn get(&self, key: &str, range: &GetRange) -> Result<Bytes, StoreError> {
        let failure = |error| self.read_failure("get", key, &error);
        let mut file = File::open(self.root.join(key)).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        if !metadata.is_file() {
            return Err(StoreError::not_found(key));
        }
        let range = range.within(key, metadata.len())?;
        let length = usize::try_from(range.end - range.start).map_err(|_| StoreError::not_found(key))?;
        let mut bytes = Vec::with_capacity(length);
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start)).map_err(failure)?;
        }
        file.take(length as u64)
            .read_to_end(&mut bytes)
            .map_err(failure)?;
        if bytes.len() != length {
            return Err(StoreError::new(
                StoreErrorKind::Corrupt,
                format!("object {key} shrank while it was read"),
            ));
        }
        Ok(bytes.into())
    }

    pub(super) fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let metadata =
            fs::metadata(self.root.join(key)).map_err(|error| self.read_failure("head", key, &error))?;
        if !metadata.is_file() {
            return Err(StoreError::not_found(key));
        }
        Ok(object_meta(key, &metadata))
    }

    pub(super) fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut directories = HashSet::new();
        for key in keys {
            let path = self.root.join(key);
            match fs::remove_file(&path) {
                Ok(()) => directories.extend(path.parent().map(Path::to_owned)),
                Err(error) if is_missing(&error) => self.check_root()?,
                Err(error) => return Err(self.failure("delete", key, &error)),
            }
        }
        directories
            .iter()
            .for_each(|directory| self.remove_if_empty(directory));
        Ok(())
    }

    /// Removes the directory, and those above it, as long as they are empty.
    fn remove_if_empty(&self, directory: &Path) {
        let mut durable = self.durable.write();
        for empty in directory.ancestors().take_while(|path| *path != self.root) {
            if fs::remove_dir(empty).is_err() {
                return;
            }
            durable.remove(empty);
        }
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        self.check_root()?;
        let mut found = Vec::new();
        self.walk("", &ListPage { prefix, after, limit }, &mut found)
            .map_err(|error| self.failure("list", prefix, &error))?;
        Ok(found)
    }

    /// Appends what lies below `directory` (empty, or ending in a slash), in the order of the keys.
    fn walk(&self, directory: &str, page: &ListPage<'_>, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Not an object: every key is Unicode.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // With its slash, a directory sorts where its keys do.
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            let key = format!("{directory}{name}{slash}");
            if page.includes(&key) {
                names.push(key);
            }
        }
        names.sort_unstable();
        for key in names {
            if found.len() >= page.limit {
                return Ok(());
            }
            if key.ends_with('/') {
                self.walk(&key, page, found)?;
                continue;
            }
            match fs::metadata(self.root.join(&key)) {
                Ok(metadata) => found.push(object_meta(&key, &metadata)),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_root(&self) -> Result<(), StoreError> {
        if self.root.is_dir() {
            return Ok(());
        }
        Err(StoreError::new(
            StoreErrorKind::MissingBucket,
            format!(
                "the directory {} is gone; mount or restore it",
                self.root.display()
            ),
        ))
    }

    fn read_failure(&self, what: &str, key: &str, error: &io::Error) -> StoreError {
        if !is_missing(error) {
            return self.failure(what, key, error);
        }
        self.check_root()
            .err()
            .unwrap_or_else(|| StoreError::not_found(key))
    }

    fn failure(&self, what: &str, key: &str, error: &io::Error) -> StoreError {
        if let Err(missing) = self.check_root() {
            return missing;
        }
        StoreError::new(
            error_kind(error),
            format!(
                "cannot {what} {key} in {} ({error}); check the disk and its permissions",
                self.root.display()
            ),
        )
    }
}

/// The parameters of a listing.
struct ListPage<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
}

impl ListPage<'_> {
    /// Returns whether the key, or for a directory (ending in a slash) some key below it, belongs
    /// to the page.
    fn includes(&self, key: &str) -> bool {
        if key.starts_with(TEMP_DIRECTORY) {
            return false;
        }
        let (below, in_prefix) = (key.ends_with('/'), key.starts_with(self.prefix));
        let prefixed = in_prefix || (below && self.prefix.starts_with(key));
        let later = self
            .after
            .is_none_or(|after| key > after || (below && after.starts_with(key)));
        prefixed && later
    }
}

fn object_meta(key: &str, metadata: &fs::Metadata) -> ObjectMeta {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let modified_ms = i64::try_from(modified.as_millis()).unwrap_or(i64::MAX);
    ObjectMeta {
        key: key.to_owned(),
        size: metadata.len(),
        modified_ms,
    }
}

/// Removes the temporary directories of dead processes: their locks are free.
fn remove_abandoned(temp_root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(temp_root)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "owner") {
            continue;
        }
        let lock = OpenOptions::new().write(true).open(&path)?;
        if lock.try_lock().is_ok() {
            match fs::remove_dir_all(path.with_extension("")) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => fs::remove_file(&path)?,
            }
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn error_kind(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Unauthorized,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename => StoreErrorKind::InvalidKey,
        // A full or failing disk: writes wait until it is repaired.
        _ => StoreErrorKind::Unavailable,
    }
}
