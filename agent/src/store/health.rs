//! Whether objects can be stored, as real uploads show it. A decorator watches every creation; the lease keeper says when a
//! write makes no progress; the proof of the store says when all is well. All of them end in one condition of the agent's
//! readiness, so that a bucket that is gone and a disk that is full are known within seconds.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind};
use crate::health::{Condition, Health};

/// So many uploads in a row that fail are a store that fails. One or two are the weather.
const FAILURES: u32 = 3;

/// What is known of the store's health.
#[derive(Debug)]
pub struct StoreHealth {
    health: Arc<Health>,
    state: Mutex<Observed>,
    /// Wakes who proves the store.
    doubted: Notify,
}

#[derive(Debug, Default)]
struct Observed {
    /// The store was proved to work once: until then only the proof speaks.
    proved: bool,
    /// There is a reason to doubt it.
    doubtful: bool,
    failures: u32,
    last_error: Option<String>,
}

impl StoreHealth {
    /// Nothing is known yet.
    pub fn new(health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self {
            health,
            state: Mutex::default(),
            doubted: Notify::new(),
        })
    }

    /// The agent's readiness, of which this is a part.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Whether there is a reason to doubt that it works.
    pub fn is_doubtful(&self) -> bool {
        self.state.lock().doubtful
    }

    /// What the last upload failed with, if it failed.
    pub fn last_error(&self) -> Option<String> {
        self.state.lock().last_error.clone()
    }

    /// It does not do what it should: it is to be proved again.
    pub fn doubt(&self, why: &str) {
        self.state.lock().doubtful = true;
        if self.health.unmet(Condition::ObjectStore, why) {
            tracing::warn!(why, "the object store fails");
        }
        self.doubted.notify_one();
    }

    /// It was proved to do all that the agent needs.
    pub fn proved(&self) {
        *self.state.lock() = Observed {
            proved: true,
            ..Observed::default()
        };
        self.health.met(Condition::ObjectStore);
    }

    /// Resolves when there is a reason to prove it again.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// An upload ended.
    fn observe(&self, outcome: &Result<(), StoreError>) {
        let mut state = self.state.lock();
        let error = match outcome {
            // It answers, and knows what it holds.
            Err(error) if !counts(error.kind()) => {
                if error.kind() == StoreErrorKind::Throttled {
                    state.last_error = Some(error.message().to_owned());
                    return;
                }
                None
            }
            Err(error) => Some(error),
            Ok(()) => None,
        };
        let Some(error) = error else {
            state.failures = 0;
            state.last_error = None;
            if state.proved && std::mem::take(&mut state.doubtful) {
                drop(state);
                self.health.met(Condition::ObjectStore);
                tracing::info!("the object store takes objects again");
            }
            return;
        };
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.message().to_owned());
        let (failures, proved) = (state.failures, state.proved);
        drop(state);
        if proved && failures >= FAILURES {
            self.doubt(&format!(
                "{failures} uploads in a row failed: {}",
                error.message()
            ));
        }
    }
}

/// Whether a failure says that nothing can be stored. A store that asks to slow down works.
const fn counts(kind: StoreErrorKind) -> bool {
    match kind {
        StoreErrorKind::MissingBucket
        | StoreErrorKind::Other
        | StoreErrorKind::Timeout
        | StoreErrorKind::Unauthorized
        | StoreErrorKind::Unavailable
        | StoreErrorKind::Unsupported => true,
        StoreErrorKind::AlreadyExists
        | StoreErrorKind::Cancelled
        | StoreErrorKind::Corrupt
        | StoreErrorKind::InvalidKey
        | StoreErrorKind::InvalidRange
        | StoreErrorKind::NotFound
        | StoreErrorKind::Throttled => false,
    }
}

/// A store whose uploads are watched.
#[derive(Debug)]
pub struct WatchedStore {
    inner: Arc<dyn ObjectStore>,
    health: Arc<StoreHealth>,
}

impl WatchedStore {
    /// Tells `health` how the uploads to `inner` end.
    pub fn new(inner: Arc<dyn ObjectStore>, health: Arc<StoreHealth>) -> Self {
        Self { inner, health }
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let done = self.inner.put_new(key, body).await;
        self.health.observe(&done);
        done
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.inner.head(key).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: StoreErrorKind) -> Result<(), StoreError> {
        Err(StoreError::new(kind, "no space left on device"))
    }

    #[test]
    fn uploads_that_fail_in_a_row_make_the_agent_unready_and_one_that_succeeds_ends_that() {
        let ready = Arc::new(Health::default());
        let store = StoreHealth::new(ready.clone());
        // Before the proof only the proof counts.
        store.observe(&Ok(()));
        assert!(ready.reason(Condition::ObjectStore).is_some());
        store.proved();
        for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Unauthorized] {
            store.observe(&failed(kind));
            assert_eq!(ready.reason(Condition::ObjectStore), None, "{kind}");
        }
        store.observe(&failed(StoreErrorKind::Timeout));
        let reason = ready.reason(Condition::ObjectStore).unwrap();
        assert!(reason.contains("no space left on device"), "{reason}");
        assert!(store.is_doubtful());
        store.observe(&Ok(()));
        assert_eq!(
            (ready.reason(Condition::ObjectStore), store.is_doubtful()),
            (None, false)
        );
    }

    #[test]
    fn a_store_that_asks_to_slow_down_works() {
        let ready = Arc::new(Health::default());
        let store = StoreHealth::new(ready.clone());
        store.proved();
        for _ in 0..100 {
            store.observe(&failed(StoreErrorKind::Throttled));
        }
        assert_eq!(ready.reason(Condition::ObjectStore), None);
        assert!(store.last_error().is_some(), "who waits is told why");
    }
}
