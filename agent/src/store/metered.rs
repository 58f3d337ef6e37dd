//! Counts and times the requests to the object store: a decorator, added at start. The metrics go
//! to Prometheus; the plain counters to `bench` and tests.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

use super::{GetRange, ObjectMeta, ObjectStore, StoreError, StoreOperation};

/// Requests so far, failed ones included, and the transferred bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Creations.
    pub put: u64,
    /// Reads.
    pub get: u64,
    /// Metadata lookups of one object.
    pub head: u64,
    /// Deletions; one for any number of keys.
    pub delete: u64,
    /// Listings.
    pub list: u64,
    /// Bytes written.
    pub bytes_put: u64,
    /// Bytes read.
    pub bytes_get: u64,
}

/// The instruments of one operation, looked up once.
struct OperationMeter {
    operation: StoreOperation,
    requests: IntCounterVec,
    succeeded: IntCounter,
    duration: Histogram,
    bytes: IntCounter,
    asked: AtomicU64,
    moved: AtomicU64,
}

impl OperationMeter {
    async fn measure<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let done = work.await;
        self.duration.observe(started.elapsed().as_secs_f64());
        match &done {
            Ok(value) => {
                let bytes = bytes(value);
                self.succeeded.inc();
                self.bytes.inc_by(bytes);
                self.moved.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => self
                .requests
                .with_label_values(&[self.operation.name(), error.kind().name()])
                .inc(),
        }
        done
    }
}

/// A decorator that counts requests.
pub struct MeteredObjectStore {
    inner: Arc<dyn ObjectStore>,
    meters: [OperationMeter; StoreOperation::ALL.len()],
}

impl fmt::Debug for MeteredObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MeteredObjectStore {
    /// Counts the requests to `inner`, and registers the metrics with `registry`.
    ///
    /// # Errors
    /// Fails if `registry` has the metrics already.
    pub fn new(inner: Arc<dyn ObjectStore>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "streamhouse_agent_object_store_requests_total",
                "Requests to the object store by outcome.",
            ),
            &["operation", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "streamhouse_agent_object_store_request_duration_seconds",
                "How long requests to the object store took.",
            )
            .buckets(prometheus::exponential_buckets(0.001, 2.0, 14)?),
            &["operation"],
        )?;
        let bytes = IntCounterVec::new(
            Opts::new(
                "streamhouse_agent_object_store_bytes_total",
                "Bytes moved to and from the object store.",
            ),
            &["operation"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        let meters = StoreOperation::ALL.map(|operation| OperationMeter {
            operation,
            succeeded: requests.with_label_values(&[operation.name(), "ok"]),
            requests: requests.clone(),
            duration: duration.with_label_values(&[operation.name()]),
            bytes: bytes.with_label_values(&[operation.name()]),
            asked: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        });
        Ok(Self { inner, meters })
    }

    fn meter(&self, operation: StoreOperation) -> &OperationMeter {
        &self.meters[operation as usize]
    }

    /// Returns the requests so far.
    pub fn counts(&self) -> RequestCounts {
        let asked = |operation| self.meter(operation).asked.load(Ordering::Relaxed);
        let moved = |operation| self.meter(operation).moved.load(Ordering::Relaxed);
        RequestCounts {
            put: asked(StoreOperation::Put),
            get: asked(StoreOperation::Get),
            head: asked(StoreOperation::Head),
            delete: asked(StoreOperation::Delete),
            list: asked(StoreOperation::List),
            bytes_put: moved(StoreOperation::Put),
            bytes_get: moved(StoreOperation::Get),
        }
    }
}

#[async_trait]
impl ObjectStore for MeteredObjectStore {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let size = body.len() as u64;
        self.meter(StoreOperation::Put)
            .measure(self.inner.put_new(key, body), |()| size)
            .await
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<Bytes, StoreError> {
        self.meter(StoreOperation::Get)
            .measure(self.inner.get(key, range), |bytes| bytes.len() as u64)
            .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.meter(StoreOperation::Head)
            .measure(self.inner.head(key), |_| 0)
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.meter(StoreOperation::Delete)
            .measure(self.inner.delete(keys), |()| 0)
            .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        self.meter(StoreOperation::List)
            .measure(self.inner.list(prefix, after, limit), |_| 0)
            .await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
