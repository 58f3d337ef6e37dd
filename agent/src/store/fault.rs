//! Fault injection: a decorator that makes a store misbehave as its [`Toxic`]s say. Used by tests
//! and simulations; seeded through [`Entropy`], so that a run can be repeated. Without toxics it
//! changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use streamhouse_core::time::Entropy;
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreErrorKind, StoreOperation};

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToxicKind {
    /// The operation is not executed, and fails with this kind.
    Error(StoreErrorKind),
    /// The operation is delayed.
    Delay(Duration),
    /// The operation is executed, but its reply is lost: [`StoreErrorKind::Timeout`].
    LoseReply,
    /// The operation is not executed before the toxic is removed.
    Hang,
    /// The caller gets [`StoreErrorKind::Timeout`] at once; a put or a deletion is executed when
    /// the toxic is removed, like a request that was still under way. Other operations are not
    /// executed.
    Late,
    /// One bit of the read bytes is flipped.
    FlipBit,
}

/// A fault: its kind, the affected operations, and how often it hits.
#[derive(Debug, Clone)]
pub struct Toxic {
    /// What goes wrong.
    pub kind: ToxicKind,
    /// The affected operations; all if empty.
    pub operations: Vec<StoreOperation>,
    /// Only keys (for listings: prefixes) with this prefix are affected; a deletion if one of its
    /// keys is.
    pub prefix: String,
    /// Maximum number of hits; unlimited if `None`.
    pub times: Option<u64>,
    /// The probability that a matching operation is hit.
    pub probability: f64,
}

impl Toxic {
    /// Creates a fault that hits every operation on every key until it is removed.
    pub fn new(kind: ToxicKind) -> Self {
        Self {
            kind,
            operations: Vec::new(),
            prefix: String::new(),
            times: None,
            probability: 1.0,
        }
    }

    /// Limits the fault to these operations.
    #[must_use]
    pub fn on(mut self, operations: &[StoreOperation]) -> Self {
        self.operations = operations.to_vec();
        self
    }

    /// Limits the fault to keys with this prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Limits the number of hits.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Sets the probability of a hit.
    #[must_use]
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn matches<'a>(&self, operation: StoreOperation, mut keys: impl Iterator<Item = &'a str>) -> bool {
        self.times != Some(0)
            && (self.operations.is_empty() || self.operations.contains(&operation))
            && keys.any(|key| key.starts_with(&self.prefix))
    }
}

/// Identifies an added toxic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ToxicId(u64);

#[derive(Debug)]
struct ActiveToxic {
    id: ToxicId,
    toxic: Toxic,
    hits: u64,
}

/// A store that misbehaves on demand.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    entropy: Arc<dyn Entropy>,
    active: Arc<Mutex<Vec<ActiveToxic>>>,
    next_id: Mutex<u64>,
    changed: watch::Sender<()>,
    /// Number of operations that are still to be executed late.
    late: Arc<watch::Sender<usize>>,
}

/// The faults to apply to the reply of an operation.
#[derive(Debug, Default, Clone, Copy)]
struct ReplyFaults {
    late: Option<ToxicId>,
    lose_reply: bool,
    flip_bit: bool,
}

impl FaultStore {
    /// Wraps `inner`, without faults yet.
    pub fn new(inner: Arc<dyn ObjectStore>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            inner,
            entropy,
            active: Arc::default(),
            next_id: Mutex::new(0),
            changed: watch::Sender::new(()),
            late: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Adds a fault, effective from the next operation on.
    pub fn add(&self, toxic: Toxic) -> ToxicId {
        let mut next = self.next_id.lock();
        let id = ToxicId(*next);
        *next += 1;
        self.active.lock().push(ActiveToxic { id, toxic, hits: 0 });
        id
    }

    /// Removes a fault; operations that hang on it continue.
    pub fn remove(&self, id: ToxicId) {
        self.active.lock().retain(|active| active.id != id);
        self.changed.send_replace(());
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.active.lock().clear();
        self.changed.send_replace(());
    }

    /// Returns how often the fault has hit; 0 once it is removed.
    pub fn hits(&self, id: ToxicId) -> u64 {
        self.active
            .lock()
            .iter()
            .find(|active| active.id == id)
            .map_or(0, |active| active.hits)
    }

    /// Returns the faults that hit this operation, in the order in which they were added.
    fn matching_toxics<'a>(
        &self,
        operation: StoreOperation,
        keys: impl Iterator<Item = &'a str> + Clone,
    ) -> Vec<(ToxicId, ToxicKind)> {
        let mut hit = Vec::new();
        for active in self.active.lock().iter_mut() {
            if !active.toxic.matches(operation, keys.clone()) {
                continue;
            }
            // Certain faults draw no random number, so that adding one does not change the rest of
            // a seeded run.
            if active.toxic.probability < 1.0 && self.entropy.fraction() >= active.toxic.probability {
                continue;
            }
            active.hits += 1;
            active.toxic.times = active.toxic.times.map(|times| times.saturating_sub(1));
            hit.push((active.id, active.toxic.kind));
        }
        hit
    }

    async fn apply_before<'a>(
        &self,
        operation: StoreOperation,
        keys: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<ReplyFaults, StoreError> {
        let mut after = ReplyFaults::default();
        for (id, kind) in self.matching_toxics(operation, keys) {
            match kind {
                ToxicKind::Error(kind) => return Err(injected_error(operation, kind)),
                ToxicKind::Delay(delay) => sleep(delay).await,
                ToxicKind::Hang => self.wait_removed(id).await,
                ToxicKind::Late => after.late = Some(id),
                ToxicKind::LoseReply => after.lose_reply = true,
                ToxicKind::FlipBit => after.flip_bit = true,
            }
        }
        Ok(after)
    }

    /// Resolves when the toxic is removed, even after the store is dropped.
    fn wait_removed(&self, id: ToxicId) -> impl Future<Output = ()> + Send + use<> {
        let (active, mut changed) = (self.active.clone(), self.changed.subscribe());
        async move {
            while active.lock().iter().any(|active| active.id == id) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Executes the operation when the toxic is removed, even if the caller is gone.
    fn run_late<T>(&self, id: ToxicId, operation: impl Future<Output = T> + Send + 'static) {
        let (removed, late) = (self.wait_removed(id), self.late.clone());
        late.send_modify(|late| *late += 1);
        tokio::spawn(async move {
            removed.await;
            let _unheard = operation.await;
            late.send_modify(|late| *late -= 1);
        });
    }

    /// Resolves when at least `operations` operations are waiting to be executed late.
    pub async fn wait_late(&self, operations: usize) {
        let _ = self.late.subscribe().wait_for(|late| *late >= operations).await;
    }

    /// Resolves when no operation is waiting to be executed late.
    pub async fn wait_settled(&self) {
        let _ = self.late.subscribe().wait_for(|late| *late == 0).await;
    }

    fn flip_bit(&self, bytes: Bytes) -> Bytes {
        let mut bytes = BytesMut::from(bytes.as_ref());
        if !bytes.is_empty() {
            let random = self.entropy.next_u64();
            let at = (random / 8) % bytes.len() as u64;
            bytes[at as usize] ^= 1 << (random % 8);
        }
        bytes.freeze()
    }
}

fn injected_error(operation: StoreOperation, kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, format!("injected failure of {}", operation.name()))
}

fn apply_to_reply<T>(
    operation: StoreOperation,
    after: ReplyFaults,
    done: Result<T, StoreError>,
) -> Result<T, StoreError> {
    if after.lose_reply || after.late.is_some() {
        Err(injected_error(operation, StoreErrorKind::Timeout))
    } else {
        done
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let after = self.apply_before(StoreOperation::Put, [key].into_iter()).await?;
        if let Some(id) = after.late {
            let (inner, key) = (self.inner.clone(), key.to_owned());
            self.run_late(id, async move { inner.put_new(&key, body).await });
            return Err(injected_error(StoreOperation::Put, StoreErrorKind::Timeout));
        }
        apply_to_reply(StoreOperation::Put, after, self.inner.put_new(key, body).await)
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        let after = self.apply_before(StoreOperation::Get, [key].into_iter()).await?;
        let read = self.inner.get(key, range).await;
        let read = if after.flip_bit {
            read.map(|bytes| self.flip_bit(bytes))
        } else {
            read
        };
        apply_to_reply(StoreOperation::Get, after, read)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let after = self.apply_before(StoreOperation::Head, [key].into_iter()).await?;
        apply_to_reply(StoreOperation::Head, after, self.inner.head(key).await)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let after = self
            .apply_before(StoreOperation::Delete, keys.iter().map(String::as_str))
            .await?;
        if let Some(id) = after.late {
            let (inner, keys) = (self.inner.clone(), keys.to_vec());
            self.run_late(id, async move { inner.delete(&keys).await });
            return Err(injected_error(StoreOperation::Delete, StoreErrorKind::Timeout));
        }
        apply_to_reply(StoreOperation::Delete, after, self.inner.delete(keys).await)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let then = self
            .apply_before(StoreOperation::List, [prefix].into_iter())
            .await?;
        apply_to_reply(
            StoreOperation::List,
            then,
            self.inner.list(prefix, after, limit).await,
        )
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
