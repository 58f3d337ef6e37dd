//! A local directory as object store, for the embedded default and for tests: same rules, no server.
//!
//! An object is written to a temporary file, synced, and then linked to its name: the link fails when the name is taken,
//! and a name never shows half an object. Several processes may use the directory at once. A key cannot be the
//! directory of another key (`a` and `a/b`); the agent's keys never are.

mod files;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use self::files::Files;
use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind, validate_key};

/// Where unfinished objects lie; no key begins like this.
pub(super) const TEMP_DIRECTORY: &str = ".unfinished";

/// Objects as files below one directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    files: Arc<Files>,
}

impl LocalStore {
    /// Opens the directory, creates it if need be, and removes what crashed processes left unfinished.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let root = root.to_owned();
        let files = blocking(move || Files::open(&root)).await?;
        Ok(Self {
            files: Arc::new(files),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let files = self.files.clone();
        blocking(move || work(&files)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // The task fails only when the runtime goes down or the work panicked.
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError::new(
            StoreErrorKind::Other,
            format!("file work did not end: {error}"),
        ))
    })
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run(move |files| files.put_new(&key, &body)).await
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run(move |files| files.get(&key, &range)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.run(move |files| files.head(&key)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        let keys = keys.to_vec();
        self.run(move |files| files.delete(&keys)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |files| files.list(&prefix, after.as_deref(), limit))
            .await
    }

    fn describe(&self) -> String {
        format!("file:{}", self.files.root().display())
    }
}
