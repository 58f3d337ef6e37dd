//! A local directory as object store, for development mode and tests: same guarantees, no server.
//!
//! An object is written to a temporary file, synced, and linked to its name: the link fails if the
//! name is taken, and a name never refers to a partial object. Several processes may share the
//! directory. A key cannot be the directory of another key (`a` and `a/b`); the agent's keys never
//! are.

mod files;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use self::files::LocalFiles;
use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind, validate_key};

/// Directory of unfinished objects; no key begins with it.
pub(super) const TEMP_DIRECTORY: &str = ".unfinished";

/// Stores objects as files below one directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    files: Arc<LocalFiles>,
}

impl LocalStore {
    /// Opens the directory, creating it if needed, and removes what crashed processes left
    /// unfinished.
    ///
    /// # Errors
    /// Fails if the directory cannot be created, locked or read.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let root = root.to_owned();
        let files = spawn_io(move || LocalFiles::open(&root)).await?;
        Ok(Self {
            files: Arc::new(files),
        })
    }

    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LocalFiles) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let files = self.files.clone();
        spawn_io(move || work(&files)).await
    }
}

async fn spawn_io<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // The task fails only if the runtime shuts down or the work panicked.
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError::new(
            StoreErrorKind::Other,
            format!("the file operation was aborted: {error}"),
        ))
    })
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run_blocking(move |files| files.put_new(&key, &body)).await
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run_blocking(move |files| files.get(&key, &range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run_blocking(move |files| files.head(&key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        let keys = keys.to_vec();
        self.run_blocking(move |files| files.delete(&keys)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run_blocking(move |files| files.list(&prefix, after.as_deref(), limit))
            .await
    }

    fn describe(&self) -> String {
        format!("file:{}", self.files.root().display())
    }
}
