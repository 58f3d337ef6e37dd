//! [`Producer`]: sends records. `send` encodes a record straight into its partition's open batch and returns; one
//! dispatcher task closes batches, gives them sequence numbers, sends them to the leaders and settles their deliveries.
//!
//! Guarantees: a delivery succeeds only after the cluster acknowledged the record; every delivery is settled within
//! `delivery_timeout` and every callback called exactly once; with `idempotent` (the default) an acknowledged record is
//! stored once; records of one producer to one partition keep their order; `send` waits at most `max_block`.
//!
//! In reading order: `record` -> `topic` (partitions of a topic) -> `partition` (open and closed batches) -> `lane`
//! (sequence numbers and retries of a partition) -> `dispatcher` (when and where to send) -> `request` (what goes together)
//! -> `link` (the stream to one agent) -> `answers` -> `settle` -> `delivery`; `traces` beside them. What is rare has files of
//! its own: `regroup` (batches that are too large, topics that were made anew), `leaders` (partitions without one, agents that
//! are gone), `ending`.

mod answers;
mod builder;
mod delivery;
mod dispatcher;
mod encode;
mod ending;
mod lane;
mod leaders;
mod link;
mod partition;
mod partitioner;
mod record;
mod regroup;
mod request;
mod settle;
mod shared;
mod sizes;
mod topic;
mod traces;

use std::{fmt, sync::Arc, time::Duration};

use streamhouse_core::{ErrorCode, trace::Traces};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

pub use builder::ProducerBuilder;
pub use delivery::{Callback, Delivery};
pub use partitioner::{DefaultPartitioner, Partitioner, RoundRobinPartitioner, key_partition};
pub use record::{Header, Record, RecordMetadata, RecordRef};
pub use streamhouse_core::batch::Compression;
pub use topic::TopicHandle;

use self::{builder::ProducerConfig, ending::EndGuard, shared::Shared};
use crate::{
    Client,
    error::{Error, Result},
    metrics::Registry,
    retry::Deadline,
};

/// Sends records. Cheap to clone: clones share batches, buffer and connections. When the last clone is dropped without
/// [`Producer::close`], what is not yet acknowledged fails, as after a `close` that had no time, and a warning is logged.
///
/// It lives in the tokio runtime that it was built in: when that ends, everything that is left fails with
/// [`Error::ProducerEnded`] or [`Error::OutcomeUnknown`], and so does every later call.
#[derive(Debug, Clone)]
pub struct Producer {
    shared: Arc<Shared>,
    running: Arc<Running>,
}

/// Ends the dispatcher with the last producer.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    stop: CancellationToken,
    dispatcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.shared.warn_of_drop();
        }
        self.stop.cancel();
    }
}

/// Why a record was not taken, and the record. It was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError(Box<Rejected>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rejected {
    record: Record,
    error: Error,
}

impl SendError {
    fn new(record: Record, error: Error) -> Self {
        Self(Box::new(Rejected { record, error }))
    }

    /// Why it was not taken.
    pub fn error(&self) -> &Error {
        &self.0.error
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// The record, to be sent again or kept elsewhere, and why it was not taken.
    pub fn into_parts(self) -> (Record, Error) {
        (self.0.record, self.0.error)
    }

    /// The nearest code of the shared list, see [`Error::code`].
    pub fn code(&self) -> ErrorCode {
        self.0.error.code()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.error, f)
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.error.source()
    }
}

impl From<SendError> for Error {
    fn from(failed: SendError) -> Self {
        failed.0.error
    }
}

/// What a producer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProducerStats {
    /// Records acknowledged.
    pub records_sent: u64,
    /// Their bytes, encoded and compressed.
    pub bytes_sent: u64,
    /// Batches acknowledged.
    pub batches_sent: u64,
    /// Records that failed for good.
    pub records_failed: u64,
    /// Batches that were sent again.
    pub batches_retried: u64,
    /// Records that wait or are on their way.
    pub pending_records: u64,
    /// Bytes of `buffer_memory` in use.
    pub buffered_bytes: u64,
}

impl Producer {
    /// A producer with defaults, to be changed.
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    fn start(
        client: Client,
        config: ProducerConfig,
        registry: Option<Registry>,
        traces: Traces,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::State("the producer needs a tokio runtime; build it from async code".into())
        })?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(client, config, &registry.unwrap_or_default(), traces));
        // Made here: a task that is never run drops it, too.
        let guard = EndGuard::new(shared.clone(), stop.clone());
        let dispatcher = runtime.spawn(dispatcher::run(shared.clone(), guard, stop.clone()));
        let running = Running {
            shared: shared.clone(),
            stop,
            dispatcher: tokio::sync::Mutex::new(Some(dispatcher)),
        };
        Ok(Self {
            shared,
            running: Arc::new(running),
        })
    }

    /// A handle that spares looking up the topic for every record. Waits for the topic's metadata, at most `max_block`.
    pub async fn topic(&self, name: &str) -> Result<TopicHandle> {
        self.shared
            .topic(name, Deadline::after(self.shared.config.max_block))
            .await
    }

    /// Takes a record into its partition's batch. Waits while the buffer is full or the topic's metadata are unknown,
    /// at most `max_block`. On success the returned [`Delivery`] tells what becomes of the record.
    ///
    /// # Errors
    /// With the record, which was not taken then.
    pub async fn send(&self, record: Record) -> Result<Delivery, SendError> {
        match self.send_borrowed(&record).await {
            Ok(delivery) => Ok(delivery),
            Err(error) => Err(SendError::new(record, error)),
        }
    }

    async fn send_borrowed(&self, record: &Record) -> Result<Delivery> {
        let deadline = Deadline::after(self.shared.config.max_block);
        let topic = self.shared.topic(&record.topic, deadline).await?;
        let headers = borrowed_headers(record);
        self.shared
            .send(&topic, borrowed(record, &headers), deadline)
            .await
    }

    /// [`Producer::send`] for borrowed bytes and a known topic: the fastest way.
    pub async fn send_ref(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        match self.shared.try_send_untraced(topic, record) {
            Err(Error::BufferFull) => {
                let deadline = Deadline::after(self.shared.config.max_block);
                self.shared.send(topic, record, deadline).await
            }
            settled => settled,
        }
    }

    /// [`Producer::send`] that never waits: [`Error::BufferFull`] when the buffer is, [`Error::TopicNotKnown`] while the
    /// topic's metadata are unknown (call [`Producer::topic`] first).
    pub fn try_send(&self, record: &Record) -> Result<Delivery> {
        let topic = self
            .shared
            .known_topic(&record.topic)
            .ok_or_else(|| Error::TopicNotKnown {
                topic: record.topic.clone(),
            })?;
        self.shared
            .try_send(&topic, borrowed(record, &borrowed_headers(record)))
    }

    /// [`Producer::send_ref`] that never waits.
    pub fn try_send_ref(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        self.shared.try_send(topic, record)
    }

    /// [`Producer::send`] whose outcome goes to a callback. With `Ok` the callback is called exactly once, on the
    /// producer's task, where it must not block; with `Err` it is not called.
    ///
    /// # Errors
    /// With the record, which was not taken then.
    pub async fn send_with_callback(
        &self,
        record: Record,
        callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.send(record).await?.on_completion(callback);
        Ok(())
    }

    /// Sends all open batches at once and waits until everything sent before this call is settled, one way or the other
    /// (`delivery_timeout` at the latest), and its callbacks were called. The deliveries tell how it went.
    pub async fn flush(&self) -> Result<()> {
        self.shared.flush().await;
        if self.shared.is_stopped() {
            Err(self.shared.closed())
        } else {
            Ok(())
        }
    }

    /// Takes no more records, waits for those it has, and ends. What is not settled within `timeout` fails: with
    /// [`Error::Closed`] what surely is not stored, with [`Error::OutcomeUnknown`] what was sent and not answered.
    ///
    /// # Errors
    /// [`Error::Timeout`] when something was not settled in time; [`Error::ProducerEnded`] when it had ended before.
    pub async fn close(&self, timeout_after: Duration) -> Result<()> {
        self.shared.refuse_new();
        let settled = timeout(timeout_after, self.shared.flush()).await;
        self.running.stop.cancel();
        if let Some(dispatcher) = self.running.dispatcher.lock().await.take() {
            // It ends by itself once cancelled; a panic in it was reported by the runtime.
            let _ = dispatcher.await;
        }
        settled.map_err(|_| Error::timeout("sending the last records", timeout_after, None))?;
        match self.shared.closed() {
            ended @ Error::ProducerEnded { .. } => Err(ended),
            _ => Ok(()),
        }
    }

    /// What it has done so far.
    pub fn metrics(&self) -> ProducerStats {
        self.shared.stats()
    }
}

fn borrowed_headers(record: &Record) -> Vec<(&str, Option<&[u8]>)> {
    record
        .headers
        .iter()
        .map(|header| (header.key.as_str(), header.value.as_deref()))
        .collect()
}

fn borrowed<'a>(record: &'a Record, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> RecordRef<'a> {
    RecordRef {
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers,
        timestamp: record.timestamp,
        partition: record.partition,
    }
}
