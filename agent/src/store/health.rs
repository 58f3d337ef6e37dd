//! Health of the object store, judged by real uploads. A decorator watches every creation; the
//! lease keeper reports a write without progress; the store check reports success. All feed one
//! readiness condition of the agent, so that a deleted bucket or a full disk is noticed within
//! seconds.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind};
use crate::health::{AgentHealth, ReadinessCondition};

/// Consecutive failed uploads from which on the store counts as failing; one or two are normal.
const MAX_CONSECUTIVE_FAILURES: u32 = 3;

/// The health of the object store.
#[derive(Debug)]
pub struct StoreHealth {
    health: Arc<AgentHealth>,
    state: Mutex<UploadState>,
    /// Wakes the task that checks the store.
    doubted: Notify,
}

#[derive(Debug, Default)]
struct UploadState {
    /// Whether the store has passed its check once: before that only the check decides.
    proved: bool,
    /// Whether the store may have failed since.
    doubtful: bool,
    failures: u32,
    last_error: Option<String>,
}

impl StoreHealth {
    /// Creates the health of a store that was not checked yet.
    pub fn new(health: Arc<AgentHealth>) -> Arc<Self> {
        Arc::new(Self {
            health,
            state: Mutex::default(),
            doubted: Notify::new(),
        })
    }

    /// Returns the agent's readiness, which includes this condition.
    pub fn health(&self) -> &Arc<AgentHealth> {
        &self.health
    }

    /// Returns whether the store may have failed.
    pub fn is_doubtful(&self) -> bool {
        self.state.lock().doubtful
    }

    /// Returns the error of the last upload, if it failed.
    pub fn last_error(&self) -> Option<String> {
        self.state.lock().last_error.clone()
    }

    /// Marks the store as doubtful, and requests a new check.
    pub fn mark_doubtful(&self, why: &str) {
        self.state.lock().doubtful = true;
        if self.health.set_unmet(ReadinessCondition::ObjectStore, why) {
            tracing::warn!(why, "the object store is failing");
        }
        self.doubted.notify_one();
    }

    /// Records that the store passed its check.
    pub fn mark_proved(&self) {
        *self.state.lock() = UploadState {
            proved: true,
            ..UploadState::default()
        };
        self.health.set_met(ReadinessCondition::ObjectStore);
    }

    /// Resolves when a new check is requested.
    pub async fn wait_doubtful(&self) {
        self.doubted.notified().await;
    }

    /// Records the outcome of an upload.
    fn record_upload(&self, outcome: &Result<(), StoreError>) {
        let mut state = self.state.lock();
        let error = match outcome {
            // The store responds consistently, so it works.
            Err(error) if !is_store_failure(error.kind()) => {
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
                self.health.set_met(ReadinessCondition::ObjectStore);
                tracing::info!("the object store accepts objects again");
            }
            return;
        };
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.message().to_owned());
        let (failures, proved) = (state.failures, state.proved);
        drop(state);
        if proved && failures >= MAX_CONSECUTIVE_FAILURES {
            self.mark_doubtful(&format!(
                "{failures} uploads in a row failed: {}",
                error.message()
            ));
        }
    }
}

/// Returns whether a failure means that nothing can be stored. A store that throttles works.
const fn is_store_failure(kind: StoreErrorKind) -> bool {
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

/// A decorator that watches uploads.
#[derive(Debug)]
pub struct WatchedStore {
    inner: Arc<dyn ObjectStore>,
    health: Arc<StoreHealth>,
}

impl WatchedStore {
    /// Reports the outcomes of uploads to `inner` to `health`.
    pub fn new(inner: Arc<dyn ObjectStore>, health: Arc<StoreHealth>) -> Self {
        Self { inner, health }
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let done = self.inner.put_new(key, body).await;
        self.health.record_upload(&done);
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
        let ready = Arc::new(AgentHealth::default());
        let store = StoreHealth::new(ready.clone());
        // Before the first successful check, uploads do not count.
        store.record_upload(&Ok(()));
        assert!(ready.reason(ReadinessCondition::ObjectStore).is_some());
        store.mark_proved();
        for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Unauthorized] {
            store.record_upload(&failed(kind));
            assert_eq!(ready.reason(ReadinessCondition::ObjectStore), None, "{kind}");
        }
        store.record_upload(&failed(StoreErrorKind::Timeout));
        let reason = ready.reason(ReadinessCondition::ObjectStore).unwrap();
        assert!(reason.contains("no space left on device"), "{reason}");
        assert!(store.is_doubtful());
        store.record_upload(&Ok(()));
        assert_eq!(
            (ready.reason(ReadinessCondition::ObjectStore), store.is_doubtful()),
            (None, false)
        );
    }

    #[test]
    fn a_store_that_asks_to_slow_down_works() {
        let ready = Arc::new(AgentHealth::default());
        let store = StoreHealth::new(ready.clone());
        store.mark_proved();
        for _ in 0..100 {
            store.record_upload(&failed(StoreErrorKind::Throttled));
        }
        assert_eq!(ready.reason(ReadinessCondition::ObjectStore), None);
        assert!(store.last_error().is_some(), "the reason is available");
    }
}
