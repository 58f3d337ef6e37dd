//! [`Shared`]: the state that appenders and the dispatcher share: topics, the buffer budget,
//! unsettled batches, and the inbox of events for the dispatcher.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use opentelemetry::trace::SpanContext;
use parking_lot::{Mutex, RwLock};
use streamhouse_core::trace::Traces;
use tokio::{
    sync::{Notify, Semaphore, TryAcquireError},
    time::{Instant, timeout},
};

use super::{
    ProducerStats,
    builder::ProducerConfig,
    delivery::{Delivery, Ticket},
    encode::Encoder,
    partition::{Appended, Opening, Partition, Prefers},
    record::RecordRef,
    sizes::size_of,
    topic::{Topic, TopicHandle},
    traces::ProducerTraces,
};
use crate::{
    Client,
    error::{Error, Result},
    metrics::{ProducerMetrics, Registry},
    retry::Deadline,
};

/// Maximum number of encoders kept with their buffers for the next batches.
const SPARE_ENCODERS: usize = 8;
/// How long `send` waits for a missing topic to appear.
const MISSING_TOPIC: std::time::Duration = std::time::Duration::from_secs(3);

/// Events from appenders to the dispatcher.
#[derive(Debug, Clone, Copy)]
pub(super) enum Note {
    /// A batch was opened in this lane.
    Opened(usize, Instant),
    /// A batch in this lane is full.
    Filled(usize),
}

/// A batch that is not settled.
pub(super) struct Unsettled {
    opened: Instant,
    pub(super) lane: usize,
    pub(super) ticket: Arc<Ticket>,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) records_sent: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) batches_sent: AtomicU64,
    pub(super) records_failed: AtomicU64,
    pub(super) batches_retried: AtomicU64,
}

/// Shared state of a producer.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) config: ProducerConfig,
    pub(super) metrics: ProducerMetrics,
    pub(super) counters: Counters,
    pub(super) traces: ProducerTraces,
    /// Notified when the dispatcher has work.
    pub(super) wake: Notify,
    topics: RwLock<HashMap<Arc<str>, TopicHandle>>,
    /// All partitions, by lane.
    lanes: Mutex<Vec<(Arc<Topic>, Arc<Partition>)>>,
    /// Free bytes of the buffer.
    pub(super) buffer: Semaphore,
    pub(super) unsettled: Mutex<BTreeMap<u64, Unsettled>>,
    next_ticket: AtomicU64,
    inbox: Mutex<Vec<Note>>,
    /// Number of callers that want open batches to be sent at once.
    hurried: AtomicUsize,
    pub(super) refusing: AtomicBool,
    /// Why the producer has ended, once it has.
    pub(super) ended: OnceLock<Error>,
    spare: Mutex<Vec<Encoder>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// While one exists, open batches do not wait for more records.
struct Hurry<'a>(&'a Shared);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(super) fn new(client: Client, config: ProducerConfig, registry: &Registry, traces: Traces) -> Self {
        Self {
            traces: ProducerTraces::new(traces, &client.settings().client_id),
            buffer: Semaphore::new(config.buffer_memory),
            metrics: ProducerMetrics::new(registry),
            client,
            config,
            counters: Counters::default(),
            wake: Notify::new(),
            topics: RwLock::default(),
            lanes: Mutex::default(),
            unsettled: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            inbox: Mutex::default(),
            hurried: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            ended: OnceLock::new(),
            spare: Mutex::default(),
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
        if self.refusing.load(Ordering::Acquire) {
            return Err(self.closed());
        }
        let known = loop {
            self.client.partitions_of(name, deadline, MISSING_TOPIC).await?;
            // Use one answer of the cluster for everything: the name may belong to another topic by
            // now.
            if let Some(known) = self.client.cache().known(name) {
                break known;
            }
        };
        let mut topics = self.topics.write();
        if let Some(topic) = topics.get(name) {
            return Ok(topic.clone());
        }
        let name: Arc<str> = name.into();
        let first = self.client.settings().entropy.next_u64() as u32 % known.partitions.unsigned_abs().max(1);
        let topic = Arc::new(Topic::new(name.clone(), &known, first, self.metrics.topic(&name)));
        self.grow(&topic, known.partitions);
        let handle = TopicHandle { topic };
        topics.insert(name, handle.clone());
        drop(topics);
        // Wake the dispatcher to check that the topic has not been recreated meanwhile.
        self.wake.notify_one();
        Ok(handle)
    }

    /// Adds the partitions that a topic does not have yet.
    pub(super) fn grow(&self, topic: &Arc<Topic>, count: i32) {
        let mut partitions = topic.partitions.write();
        let have = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
        if have < count {
            let mut all = partitions.to_vec();
            all.extend(self.new_partitions(topic, have..count));
            *partitions = all.into();
        }
    }

    /// Creates partitions of a topic, each with a lane.
    pub(super) fn new_partitions(&self, topic: &Arc<Topic>, indexes: Range<i32>) -> Vec<Arc<Partition>> {
        let topic_id = topic.id();
        let mut lanes = self.lanes.lock();
        let new = indexes.map(|index| {
            let partition = Partition::new(topic.name.clone(), topic_id.clone(), index, lanes.len());
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
    pub(super) fn lanes_from(&self, from: usize) -> Vec<(Arc<Topic>, Arc<Partition>)> {
        self.lanes
            .lock()
            .get(from..)
            .map(<[_]>::to_vec)
            .unwrap_or_default()
    }

    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics
            .read()
            .values()
            .map(|handle| handle.topic.clone())
            .collect()
    }

    /// Appends a record without waiting.
    pub(super) fn try_send(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        let Some(span) = self.traces.send(&topic.topic.name, &record) else {
            return self.try_append(topic, record, None);
        };
        let carried = span.carried(&record);
        let headers = carried.as_ref().map(|carried| carried.with(record.headers));
        let headers = headers.as_deref().unwrap_or(record.headers);
        let sent = self.try_append(topic, RecordRef { headers, ..record }, Some(span.context()));
        span.follow(sent)
    }

    /// Like [`Shared::try_send`], without a span. With tracing, fails as if the buffer were full,
    /// so that a record that has to wait gets only one span.
    pub(super) fn try_send_untraced(&self, topic: &TopicHandle, record: RecordRef<'_>) -> Result<Delivery> {
        if self.traces.is_on() {
            return Err(Error::BufferFull);
        }
        self.try_append(topic, record, None)
    }

    fn try_append(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let size = size_of(&record, &self.config)?;
        match self.buffer.try_acquire_many(size as u32) {
            Ok(room) => {
                room.forget();
                self.append(topic, record, size, trace)
            }
            Err(TryAcquireError::NoPermits) => Err(Error::BufferFull),
            Err(TryAcquireError::Closed) => Err(self.closed()),
        }
    }

    /// Appends a record, waiting for buffer space until the deadline.
    pub(super) async fn send(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        deadline: Deadline,
    ) -> Result<Delivery> {
        let Some(span) = self.traces.send(&topic.topic.name, &record) else {
            return self.append_in_time(topic, record, deadline, None).await;
        };
        let carried = span.carried(&record);
        let headers = carried.as_ref().map(|carried| carried.with(record.headers));
        let headers = headers.as_deref().unwrap_or(record.headers);
        let record = RecordRef { headers, ..record };
        let sent = self
            .append_in_time(topic, record, deadline, Some(span.context()))
            .await;
        span.follow(sent)
    }

    async fn append_in_time(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        deadline: Deadline,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let size = size_of(&record, &self.config)?;
        let room = match self.buffer.try_acquire_many(size as u32) {
            Ok(room) => room,
            Err(_) => {
                // Send open batches now: they would otherwise wait for records that wait for buffer
                // space.
                let _hurry = self.hurry();
                match timeout(deadline.left(), self.buffer.acquire_many(size as u32)).await {
                    Ok(room) => room.map_err(|_| self.closed())?,
                    Err(_) => return Err(Error::BufferFull),
                }
            }
        };
        room.forget();
        self.append(topic, record, size, trace)
    }

    /// Appends a record for which `size` bytes of the buffer are reserved.
    fn append(
        &self,
        topic: &TopicHandle,
        record: RecordRef<'_>,
        size: usize,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        let appended = self.append_to(&topic.topic, &record, size, trace);
        if appended.is_err() {
            self.buffer.add_permits(size);
        }
        appended
    }

    fn append_to(
        &self,
        topic: &Arc<Topic>,
        record: &RecordRef<'_>,
        size: usize,
        trace: Option<&SpanContext>,
    ) -> Result<Delivery> {
        if self.refusing.load(Ordering::Acquire) {
            return Err(self.closed());
        }
        let timestamp = record.timestamp.unwrap_or_else(|| self.client.now_ms());
        let batch_size = topic.fill(self.config.batch_size);
        let mut moved_on = false;
        loop {
            let choice = topic.choose(&*self.config.partitioner, record.key, record.partition)?;
            let partition = &choice.partition;
            let new = |now| self.open_batch(partition, now);
            let opening = Opening {
                batch_size,
                prefers: if moved_on { Prefers::This } else { choice.prefers() },
                new: &new,
            };
            match partition.append(record, timestamp, size, trace, &opening) {
                Appended::Done {
                    delivery,
                    opened,
                    filled,
                } => {
                    topic.pending.fetch_add(1, Ordering::Relaxed);
                    if opened || filled {
                        self.tell(partition.lane, filled);
                    }
                    return Ok(delivery);
                }
                Appended::Refused(error) => return Err(error),
                Appended::Stopped => return Err(self.closed()),
                // Retry: `choose` blocks until the new partitions exist.
                Appended::Retired => {}
                Appended::MoveOn { filled } => {
                    // A new batch is needed, so switch to another partition.
                    if filled {
                        self.note(Note::Filled(partition.lane));
                    }
                    topic.move_on(choice.sticky.unwrap_or(0));
                    moved_on = true;
                }
            }
        }
    }

    /// Opens a batch of this partition, whose oldest record was accepted at `opened`.
    pub(super) fn open_batch(&self, partition: &Partition, opened: Instant) -> (Encoder, Arc<Ticket>) {
        let encoder = self
            .spare
            .lock()
            .pop()
            .unwrap_or_else(|| Encoder::new(self.config.compression));
        (encoder, self.open_ticket(partition, opened))
    }

    pub(super) fn open_ticket(&self, partition: &Partition, opened: Instant) -> Arc<Ticket> {
        let id = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket::new(id, partition.topic.clone(), partition.index);
        let unsettled = Unsettled {
            opened,
            lane: partition.lane,
            ticket: ticket.clone(),
        };
        self.unsettled.lock().insert(id, unsettled);
        ticket
    }

    fn tell(&self, lane: usize, filled: bool) {
        if filled {
            self.note(Note::Filled(lane));
        }
        self.note(Note::Opened(lane, Instant::now()));
    }

    pub(super) fn note(&self, note: Note) {
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
    pub(super) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut *self.inbox.lock())
    }

    /// Keeps an encoder for the next batch.
    pub(super) fn recycle(&self, mut encoder: Encoder) {
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_ENCODERS {
            encoder.clear();
            spare.push(encoder);
        }
    }

    fn hurry(&self) -> Hurry<'_> {
        self.hurried.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
        Hurry(self)
    }

    /// Returns whether open batches should be sent at once.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire) > 0
    }

    /// Waits until every batch that is unsettled now is settled.
    pub(super) async fn flush(&self) {
        let _hurry = self.hurry();
        let tickets: Vec<_> = self
            .unsettled
            .lock()
            .values()
            .map(|batch| batch.ticket.clone())
            .collect();
        for ticket in tickets {
            ticket.done().await;
        }
    }

    /// Releases a settled batch's `reserved` bytes and `records`. The caller completes the ticket.
    pub(super) fn release(&self, topic: &Topic, ticket: &Ticket, records: u32, reserved: usize) {
        self.unsettled.lock().remove(&ticket.id());
        topic.pending.fetch_sub(i64::from(records), Ordering::Relaxed);
        self.buffer.add_permits(reserved);
    }

    /// Returns the lanes with a batch opened before `cutoff`.
    pub(super) fn overdue(&self, cutoff: Instant) -> Vec<usize> {
        let mut unsettled = self.unsettled.lock();
        unsettled.retain(|_, batch| !batch.ticket.is_done());
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
