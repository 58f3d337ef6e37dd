//! An in-memory object store for the unit tests of this crate: keeps the trait's rules, without
//! I/O.

use std::{collections::BTreeMap, ops::Bound};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind, validate_key};

/// Objects by key.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    /// Returns all keys in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    fn object(&self, key: &str) -> Result<Bytes, StoreError> {
        validate_key(key)?;
        let object = self.objects.lock().get(key).cloned();
        object
            .ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, format!("object {key} does not exist")))
    }
}

fn object_meta(key: &str, body: &Bytes) -> ObjectMeta {
    ObjectMeta {
        key: key.to_owned(),
        size: body.len() as u64,
        modified_ms: 0,
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        validate_key(key)?;
        let mut objects = self.objects.lock();
        if objects.contains_key(key) {
            let message = format!("object {key} already exists");
            return Err(StoreError::new(StoreErrorKind::AlreadyExists, message));
        }
        objects.insert(key.to_owned(), body);
        Ok(())
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        let object = self.object(key)?;
        let range = range.within(key, object.len() as u64)?;
        Ok(object.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        Ok(object_meta(key, &self.object(key)?))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| validate_key(key))?;
        let mut objects = self.objects.lock();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.objects.lock();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = objects
            .range::<str, _>((after, Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, body)| object_meta(key, body));
        Ok(found.take(limit).collect())
    }

    fn describe(&self) -> String {
        "memory:".to_owned()
    }
}
