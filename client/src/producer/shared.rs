//! [`ProducerShared`]: the state that appenders and the dispatcher share: topics, the buffer
//! budget, unsettled batches, and the inbox of events for the dispatcher.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use streamhouse_core::trace::OptionalTracer;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{
    ProducerStats,
    batch_content::BatchContent,
    builder::ProducerConfig,
    delivery::BatchTicket,
    encode::{BatchEncoder, ProducerIdentity},
    partition_buffer::{OpenBatch, PartitionBuffer},
    topic::{ProducerTopic, TopicHandle},
    traces::ProducerTraces,
};
use crate::{
    Client,
    error::{Error, Result},
    metrics::{MetricsRegistry, ProducerMetrics},
    retry::Deadline,
};

/// Maximum number of encoders kept with their buffers for the next batches.
const MAX_SPARE_ENCODERS: usize = 8;
/// How long `send` waits for a missing topic to appear.
const MISSING_TOPIC_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// Events from appenders to the dispatcher.
#[derive(Debug, Clone, Copy)]
pub(super) enum DispatchEvent {
    /// A batch was opened in this lane.
    Opened(usize, Instant),
    /// A batch in this lane is full.
    Filled(usize),
}

/// A batch that is not settled.
pub(super) struct UnsettledBatch {
    opened: Instant,
    pub(super) lane: usize,
    pub(super) ticket: Arc<BatchTicket>,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(super) struct ProducerCounters {
    pub(super) records_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) batches_sent: AtomicU64,
    pub(super) records_failed: AtomicU64,
    pub(super) batches_retried: AtomicU64,
}

/// Shared state of a producer.
pub(super) struct ProducerShared {
    pub(super) client: Client,
    pub(super) config: ProducerConfig,
    pub(super) metrics: ProducerMetrics,
    pub(super) counters: ProducerCounters,
    pub(super) traces: ProducerTraces,
    /// Notified when the dispatcher has work.
    pub(super) wake: Notify,
    topics: RwLock<HashMap<Arc<str>, TopicHandle>>,
    /// All partitions, by lane.
    lanes: Mutex<Vec<(Arc<ProducerTopic>, Arc<PartitionBuffer>)>>,
    /// Free bytes of the buffer.
    pub(super) buffer: Semaphore,
    pub(super) unsettled: Mutex<BTreeMap<u64, UnsettledBatch>>,
    next_ticket: AtomicU64,
    inbox: Mutex<Vec<DispatchEvent>>,
    /// Number of callers that want open batches to be sent at once.
    flush_requests: AtomicUsize,
    pub(super) rejecting_sends: AtomicBool,
    /// Why the producer has ended, once it has.
    pub(super) ended: OnceLock<Error>,
    spare_encoders: Mutex<Vec<BatchEncoder>>,
}

impl fmt::Debug for ProducerShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerShared")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// While one exists, open batches do not wait for more records.
pub(super) struct FlushGuard<'a>(&'a ProducerShared);

impl Drop for FlushGuard<'_> {
    fn drop(&mut self) {
        self.0.flush_requests.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ProducerShared {
    pub(super) fn new(
        client: Client,
        config: ProducerConfig,
        registry: &MetricsRegistry,
        traces: OptionalTracer,
    ) -> Self {
        Self {
            traces: ProducerTraces::new(traces, &client.config().client_id),
            buffer: Semaphore::new(config.buffer_memory),
            metrics: ProducerMetrics::new(registry),
            client,
            config,
            counters: ProducerCounters::default(),
            wake: Notify::new(),
            topics: RwLock::default(),
            lanes: Mutex::default(),
            unsettled: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            inbox: Mutex::default(),
            flush_requests: AtomicUsize::new(0),
            rejecting_sends: AtomicBool::new(false),
            ended: OnceLock::new(),
            spare_encoders: Mutex::default(),
        }
    }

    /// Returns a topic that was used before.
    pub(super) fn known_topic(&self, name: &str) -> Option<TopicHandle> {
        self.topics.read().get(name).cloned()
    }

    /// Returns a topic, waiting for its metadata if necessary.
    pub(super) async fn topic(&self, name: &str, deadline: Deadline) -> Result<TopicHandle> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        if self.rejecting_sends.load(Ordering::Acquire) {
            return Err(self.end_error());
        }
        let known = loop {
            self.client
                .wait_for_partitions(name, deadline, MISSING_TOPIC_TIMEOUT)
                .await?;
            // Use one answer of the cluster for everything: the name may belong to another topic by
            // now.
            if let Some(known) = self.client.cache().topic_snapshot(name) {
                break known;
            }
        };
        let mut topics = self.topics.write();
        if let Some(topic) = topics.get(name) {
            return Ok(topic.clone());
        }
        let name: Arc<str> = name.into();
        let first = self.client.config().entropy.next_u64() as u32 % known.partitions.unsigned_abs().max(1);
        let topic = Arc::new(ProducerTopic::new(
            name.clone(),
            &known,
            first,
            self.metrics.for_topic(&name),
        ));
        self.add_partitions(&topic, known.partitions);
        let handle = TopicHandle { topic };
        topics.insert(name, handle.clone());
        drop(topics);
        // Wake the dispatcher to check that the topic has not been recreated meanwhile.
        self.wake.notify_one();
        Ok(handle)
    }

    /// Adds the partitions that a topic does not have yet.
    pub(super) fn add_partitions(&self, topic: &Arc<ProducerTopic>, count: i32) {
        let mut partitions = topic.partitions.write();
        let have = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        if have < count {
            let mut all = partitions.to_vec();
            all.extend(self.new_partitions(topic, have..count));
            *partitions = all.into();
        }
    }

    /// Creates partitions of a topic, each with a lane.
    pub(super) fn new_partitions(
        &self,
        topic: &Arc<ProducerTopic>,
        indexes: Range<i32>,
    ) -> Vec<Arc<PartitionBuffer>> {
        let topic_id = topic.id();
        let mut lanes = self.lanes.lock();
        let new = indexes.map(|index| {
            let partition = PartitionBuffer::new(topic.name.clone(), topic_id.clone(), index, lanes.len());
            let partition = Arc::new(partition);
            lanes.push((topic.clone(), partition.clone()));
            // The producer may have ended meanwhile, and has stopped only the partitions that
            // existed then.
            if self.is_stopped() {
                partition.stop();
            }
            partition
        });
        new.collect()
    }

    /// Returns the lanes from `from` on.
    pub(super) fn lanes_from(&self, from: usize) -> Vec<(Arc<ProducerTopic>, Arc<PartitionBuffer>)> {
        self.lanes
            .lock()
            .get(from..)
            .map(<[_]>::to_vec)
            .unwrap_or_default()
    }

    pub(super) fn topics(&self) -> Vec<Arc<ProducerTopic>> {
        self.topics
            .read()
            .values()
            .map(|handle| handle.topic.clone())
            .collect()
    }

    /// Opens a batch of this partition, whose oldest record was accepted at `opened`.
    pub(super) fn open_batch(
        &self,
        partition: &PartitionBuffer,
        opened: Instant,
    ) -> (BatchEncoder, Arc<BatchTicket>) {
        let encoder = self
            .spare_encoders
            .lock()
            .pop()
            .unwrap_or_else(|| BatchEncoder::new(self.config.compression));
        (encoder, self.open_ticket(partition, opened))
    }

    /// Seals a batch. If that fails, fails its records and returns `None`.
    pub(super) fn seal(
        &self,
        topic: &ProducerTopic,
        open: OpenBatch,
        identity: ProducerIdentity,
        sequence: i32,
    ) -> Option<BatchContent> {
        let OpenBatch {
            mut encoder,
            ticket,
            opened,
            reserved,
            traced,
            pinned,
            due: _,
        } = open;
        let records = encoder.records();
        let sealed = encoder.seal(identity, sequence);
        self.recycle(encoder);
        match sealed {
            Ok(bytes) => Some(BatchContent {
                bytes,
                records,
                ticket,
                opened,
                reserved,
                traced: traced.into(),
                pinned,
            }),
            Err(error) => {
                self.fail(topic, &ticket, records, reserved, error.into());
                None
            }
        }
    }

    /// Opens a ticket for a batch of this partition.
    pub(super) fn open_ticket(&self, partition: &PartitionBuffer, opened: Instant) -> Arc<BatchTicket> {
        let id = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let ticket = BatchTicket::new(id, partition.topic.clone(), partition.index);
        let unsettled = UnsettledBatch {
            opened,
            lane: partition.lane,
            ticket: ticket.clone(),
        };
        self.unsettled.lock().insert(id, unsettled);
        ticket
    }

    pub(super) fn post_event(&self, note: DispatchEvent) {
        let first = {
            let mut inbox = self.inbox.lock();
            inbox.push(note);
            inbox.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// Takes the events posted since the last call.
    pub(super) fn take_events(&self) -> Vec<DispatchEvent> {
        std::mem::take(&mut *self.inbox.lock())
    }

    /// Keeps an encoder for the next batch.
    pub(super) fn recycle(&self, mut encoder: BatchEncoder) {
        let mut spare = self.spare_encoders.lock();
        if spare.len() < MAX_SPARE_ENCODERS {
            encoder.clear();
            spare.push(encoder);
        }
    }

    pub(super) fn request_flush(&self) -> FlushGuard<'_> {
        self.flush_requests.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
        FlushGuard(self)
    }

    /// Returns whether open batches should be sent at once.
    pub(super) fn is_flush_requested(&self) -> bool {
        self.flush_requests.load(Ordering::Acquire) > 0
    }

    /// Waits until every batch that is unsettled now is settled.
    pub(super) async fn flush(&self) {
        let _hurry = self.request_flush();
        let tickets: Vec<_> = self
            .unsettled
            .lock()
            .values()
            .map(|batch| batch.ticket.clone())
            .collect();
        for ticket in tickets {
            ticket.wait_complete().await;
        }
    }

    /// Releases a settled batch's `reserved` bytes and `records`. The caller completes the ticket.
    pub(super) fn release(&self, topic: &ProducerTopic, ticket: &BatchTicket, records: u32, reserved: usize) {
        self.unsettled.lock().remove(&ticket.id());
        topic.pending.fetch_sub(i64::from(records), Ordering::Relaxed);
        self.buffer.add_permits(reserved);
    }

    /// Returns the lanes with a batch opened before `cutoff`.
    pub(super) fn overdue_lanes(&self, cutoff: Instant) -> Vec<usize> {
        let mut unsettled = self.unsettled.lock();
        unsettled.retain(|_, batch| !batch.ticket.is_complete());
        let mut lanes: Vec<_> = unsettled
            .values()
            .filter(|batch| batch.opened <= cutoff)
            .map(|batch| batch.lane)
            .collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    pub(super) fn stats(&self) -> ProducerStats {
        let pending: i64 = self
            .topics()
            .iter()
            .map(|topic| topic.pending.load(Ordering::Relaxed))
            .sum();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let free = self.buffer.available_permits();
        ProducerStats {
            records_sent: get(&self.counters.records_sent),
            bytes_sent: get(&self.counters.bytes_sent),
            batches_sent: get(&self.counters.batches_sent),
            records_failed: get(&self.counters.records_failed),
            batches_retried: get(&self.counters.batches_retried),
            pending_records: u64::try_from(pending).unwrap_or(0),
            buffered_bytes: self.config.buffer_memory.saturating_sub(free) as u64,
        }
    }
}
