//! [`Producer`]: sends records in batches.
//!
//! [`Producer::send`] encodes a record directly into the open batch of its partition and returns a
//! [`Delivery`], a future of the outcome. A background task closes batches, gives them sequence
//! numbers, sends them to the partition leaders, and retries.
//!
//! Guarantees:
//!
//! - A delivery succeeds only after the cluster has acknowledged the record.
//! - Every delivery completes within `delivery_timeout`, and every callback is called exactly once.
//! - An idempotent producer (the default) stores an acknowledged record once.
//! - Records of one producer to one partition keep their order.
//! - `send` waits for at most `max_block`.

mod agent_link;
mod append;
mod batch_content;
mod builder;
mod delivery;
mod dispatcher;
mod encode;
mod leader_backoff;
mod leader_lookup;
mod partition_buffer;
mod partition_sender;
mod partitioner;
mod rebatch;
mod record;
mod record_size;
mod request;
mod responses;
mod settle;
mod shared;
mod shutdown;
mod topic;
mod traces;

use std::{fmt, sync::Arc, time::Duration};

use streamhouse_core::{ErrorCode, trace::OptionalTracer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use builder::ProducerBuilder;
pub use delivery::{Delivery, DeliveryCallback};
pub use partitioner::{DefaultPartitioner, Partitioner, RoundRobinPartitioner, key_partition};
pub use record::{Record, RecordHeader, RecordMetadata, RecordRef};
pub use streamhouse_core::batch::Compression;
pub use topic::TopicHandle;

use self::{builder::ProducerConfig, shared::ProducerShared, shutdown::ProducerEndGuard};
use crate::{
    Client,
    error::{Error, Result},
    metrics::MetricsRegistry,
    retry::Deadline,
};

/// Sends records. Cheap to clone: clones share batches, buffer and connections.
///
/// A producer runs in the tokio runtime that it was built in. When that ends, all outstanding
/// records fail with [`Error::ProducerEnded`] or [`Error::OutcomeUnknown`], and so does every later
/// call. If the last clone is dropped without [`Producer::close`], records that are not
/// acknowledged fail and a warning is logged.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use std::time::Duration;
/// use streamhouse_client::{Producer, Record};
///
/// let producer = Producer::builder().bootstrap("localhost:50051").build().await?;
/// let mut deliveries = Vec::new();
/// for order in ["tea", "coffee"] {
///     deliveries.push(producer.send(Record::new("orders", order)).await?);
/// }
/// for delivery in deliveries {
///     let stored = delivery.await?;
///     println!("partition {}, offset {}", stored.partition, stored.offset);
/// }
/// producer.close(Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Producer {
    shared: Arc<ProducerShared>,
    running: Arc<DispatcherHandle>,
}

/// Stops the dispatcher when the last clone of the producer is dropped.
#[derive(Debug)]
struct DispatcherHandle {
    shared: Arc<ProducerShared>,
    stop: CancellationToken,
    dispatcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for DispatcherHandle {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.shared.warn_of_drop();
        }
        self.stop.cancel();
    }
}

/// The error of a record that was not accepted, together with the record. The record was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError(Box<RejectedRecord>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct RejectedRecord {
    record: Record,
    error: Error,
}

impl SendError {
    fn new(record: Record, error: Error) -> Self {
        Self(Box::new(RejectedRecord { record, error }))
    }

    /// Returns why the record was not accepted.
    pub fn error(&self) -> &Error {
        &self.0.error
    }

    /// Returns the record.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// Splits the error into the record, to be sent again or stored elsewhere, and the cause.
    pub fn into_parts(self) -> (Record, Error) {
        (self.0.record, self.0.error)
    }

    /// Returns the nearest error code, see [`Error::code`].
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

/// Totals of a producer, see [`Producer::metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Acknowledged records.
    pub records_sent: u64,
    /// Bytes of those records, encoded and compressed.
    pub bytes_sent: u64,
    /// Acknowledged batches.
    pub batches_sent: u64,
    /// Records that failed finally.
    pub records_failed: u64,
    /// Batches that were sent again.
    pub batches_retried: u64,
    /// Records that are buffered or in flight.
    pub pending_records: u64,
    /// Bytes of `buffer_memory` in use.
    pub buffered_bytes: u64,
}

impl Producer {
    /// Returns a builder with default settings.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> streamhouse_client::Result<()> {
    /// use std::time::Duration;
    /// use streamhouse_client::Producer;
    ///
    /// let producer = Producer::builder()
    ///     .bootstrap("localhost:50051")
    ///     .linger(Duration::from_millis(20))
    ///     .build()
    ///     .await?;
    /// # drop(producer);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ProducerBuilder {
        ProducerBuilder::default()
    }

    fn start(
        client: Client,
        config: ProducerConfig,
        registry: Option<MetricsRegistry>,
        traces: OptionalTracer,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::State("the producer needs a tokio runtime; build it from async code".into())
        })?;
        let stop = CancellationToken::new();
        let shared = Arc::new(ProducerShared::new(
            client,
            config,
            &registry.unwrap_or_default(),
            traces,
        ));
        // Create the guard here: it must run even if the task never starts.
        let guard = ProducerEndGuard::new(shared.clone(), stop.clone());
        let dispatcher = runtime.spawn(dispatcher::run(shared.clone(), guard, stop.clone()));
        let running = DispatcherHandle {
            shared: shared.clone(),
            stop,
            dispatcher: tokio::sync::Mutex::new(Some(dispatcher)),
        };
        Ok(Self {
            shared,
            running: Arc::new(running),
        })
    }

    /// Returns a handle to a topic, which saves the lookup of the topic for every record. Waits for
    /// the topic's metadata, for at most `max_block`.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION if there is no such topic, [`Error::Timeout`] if its metadata is
    /// not available in time, [`Error::Closed`] and [`Error::ProducerEnded`].
    pub async fn topic(&self, name: &str) -> Result<TopicHandle> {
        self.shared
            .topic(name, Deadline::after(self.shared.config.max_block))
            .await
    }

    /// Appends a record to a batch of its partition. Waits while the buffer is full or the topic's
    /// metadata is not cached, for at most `max_block`. The returned [`Delivery`] is a future of
    /// the record's outcome.
    ///
    /// # Errors
    /// The record was not accepted, and is returned with the error: [`Error::BufferFull`],
    /// [`Error::RecordTooLarge`], an unknown topic or partition, [`Error::Timeout`],
    /// [`Error::Closed`] or [`Error::ProducerEnded`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Producer, Result};
    /// # async fn example(producer: Producer) -> Result<()> {
    /// use streamhouse_client::Record;
    ///
    /// let delivery = producer.send(Record::new("orders", "tea").with_key("customer-1")).await?;
    /// println!("stored at offset {}", delivery.await?.offset);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, record: Record) -> Result<Delivery, SendError> {
        match self.send_borrowed(&record).await {
            Ok(delivery) => Ok(delivery),
            Err(error) => Err(SendError::new(record, error)),
        }
    }

    async fn send_borrowed(&self, record: &Record) -> Result<Delivery> {
        let deadline = Deadline::after(self.shared.config.max_block);
        let topic = self.shared.topic(&record.topic, deadline).await?;
        let headers = header_refs(record);
        self.shared
            .send(&topic, record_ref(record, &headers), deadline)
            .await
    }

    /// Like [`Producer::send`], for borrowed bytes and a known topic: the fastest way to send.
    ///
    /// # Errors
    /// As [`Producer::send`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Producer, Result};
    /// # async fn example(producer: Producer) -> Result<()> {
    /// use streamhouse_client::RecordRef;
    ///
    /// let orders = producer.topic("orders").await?;
    /// let delivery = producer.send_ref(&orders, RecordRef::keyed(b"customer-1", b"tea")).await?;
    /// delivery.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_ref(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        match self.shared.try_send_untraced(topic, record) {
            Err(Error::BufferFull) => {
                let deadline = Deadline::after(self.shared.config.max_block);
                self.shared.send(topic, record, deadline).await
            }
            settled => settled,
        }
    }

    /// Like [`Producer::send`], but never waits.
    ///
    /// # Errors
    /// [`Error::BufferFull`] if the buffer is full; [`Error::TopicNotKnown`] if the topic's
    /// metadata is not cached (call [`Producer::topic`] first); otherwise as [`Producer::send`].
    pub fn try_send(&self, record: &Record) -> Result<Delivery> {
        let topic = self
            .shared
            .known_topic(&record.topic)
            .ok_or_else(|| Error::TopicNotKnown {
                topic: record.topic.clone(),
            })?;
        self.shared
            .try_send(&topic, record_ref(record, &header_refs(record)))
    }

    /// Like [`Producer::send_ref`], but never waits.
    ///
    /// # Errors
    /// [`Error::BufferFull`] if the buffer is full; otherwise as [`Producer::send`].
    pub fn try_send_ref(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        self.shared.try_send(topic, record)
    }

    /// Like [`Producer::send`], with a callback for the outcome. If this returns `Ok`, the callback
    /// is called exactly once, on the producer's task, where it must not block; otherwise it is not
    /// called.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_with_callback(
        &self,
        record: Record,
        callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static,
    ) -> Result<(), SendError> {
        self.send(record).await?.on_completion(callback);
        Ok(())
    }

    /// Sends all open batches at once, and waits until all records sent before this call are
    /// settled (within `delivery_timeout`) and their callbacks were called. The outcome of each
    /// record is in its delivery.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::ProducerEnded`] if the producer has ended.
    pub async fn flush(&self) -> Result<()> {
        self.shared.flush().await;
        if self.shared.is_stopped() {
            Err(self.shared.end_error())
        } else {
            Ok(())
        }
    }

    /// Rejects new records, waits for the outstanding ones, and ends. Records that are not settled
    /// within `timeout` fail: with [`Error::Closed`] if they are not stored, with
    /// [`Error::OutcomeUnknown`] if they were sent but not answered.
    ///
    /// # Errors
    /// [`Error::Timeout`] if records were not settled in time; [`Error::ProducerEnded`] if the
    /// producer had ended before.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use streamhouse_client::{Producer, Result};
    /// # async fn example(producer: Producer) -> Result<()> {
    /// producer.close(std::time::Duration::from_secs(10)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        self.shared.reject_new_records();
        let settled = tokio::time::timeout(timeout, self.shared.flush()).await;
        self.running.stop.cancel();
        if let Some(dispatcher) = self.running.dispatcher.lock().await.take() {
            // The task ends by itself once cancelled; the runtime has reported a panic in it.
            let _ = dispatcher.await;
        }
        settled.map_err(|_| Error::timeout("sending the last records", timeout, None))?;
        match self.shared.end_error() {
            ended @ Error::ProducerEnded { .. } => Err(ended),
            _ => Ok(()),
        }
    }

    /// Returns the producer's totals.
    pub fn metrics(&self) -> ProducerStats {
        self.shared.stats()
    }
}

fn header_refs(record: &Record) -> Vec<(&str, Option<&[u8]>)> {
    record
        .headers
        .iter()
        .map(|header| (header.key.as_str(), header.value.as_deref()))
        .collect()
}

fn record_ref<'a>(record: &'a Record, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> RecordRef<'a> {
    RecordRef {
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers,
        timestamp: record.timestamp,
        partition: record.partition,
    }
}
