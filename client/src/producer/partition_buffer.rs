//! [`PartitionBuffer`]: the batches of one partition that the dispatcher has not taken yet: the
//! open one, to which `send` appends, and the full ones. A short lock guards both; the dispatcher
//! takes batches in order.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;
use streamhouse_core::{Error as ClusterError, trace::MAX_LINKS};
use tokio::time::Instant;

use super::{
    delivery::{BatchTicket, Delivery},
    encode::BatchEncoder,
    record::RecordRef,
};
use crate::error::Error;

/// A batch that accepts records, or is full and waits to be sealed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) encoder: BatchEncoder,
    pub(super) ticket: Arc<BatchTicket>,
    pub(super) opened: Instant,
    /// Bytes of the buffer that its records have reserved.
    pub(super) reserved: usize,
    /// Spans of its records, up to the number of links a span may have.
    pub(super) traced: Vec<SpanContext>,
    /// The records whose partition was set explicitly, not chosen.
    pub(super) pinned: PinnedRecords,
    /// Whether it could be sent already, and waits for its leader.
    pub(super) due: bool,
}

impl OpenBatch {
    /// Creates a batch without records.
    pub(super) fn new(encoder: BatchEncoder, ticket: Arc<BatchTicket>, opened: Instant) -> Self {
        Self {
            encoder,
            ticket,
            opened,
            reserved: 0,
            traced: Vec::new(),
            pinned: PinnedRecords::default(),
            due: false,
        }
    }
}

/// Indexes of records in a batch, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct PinnedRecords(Vec<Range<u32>>);

impl PinnedRecords {
    /// Returns the indexes within a part of the batch, relative to the start of the part.
    pub(super) fn part(&self, part: Range<u32>) -> Self {
        let within = |range: &Range<u32>| {
            let (start, end) = (range.start.max(part.start), range.end.min(part.end));
            (start < end).then(|| start - part.start..end - part.start)
        };
        Self(self.0.iter().filter_map(within).collect())
    }

    pub(super) fn add(&mut self, at: u32) {
        match self.0.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => self.0.push(at..at + 1),
        }
    }

    pub(super) fn contains(&self, at: u32) -> bool {
        let before = self.0.partition_point(|range| range.end <= at);
        self.0.get(before).is_some_and(|range| range.contains(&at))
    }
}

/// The appending side of a partition.
#[derive(Debug)]
pub(super) struct PartitionBuffer {
    pub(super) topic: Arc<str>,
    /// Id of the topic; empty if agents send no ids.
    pub(super) topic_id: Arc<str>,
    pub(super) index: i32,
    /// Index of its lane in the dispatcher.
    pub(super) lane: usize,
    has_leader: AtomicBool,
    /// Number of batches that wait for the leader.
    queued_batches: AtomicUsize,
    batches: Mutex<BufferedBatches>,
}

#[derive(Debug, Default)]
struct BufferedBatches {
    open: Option<OpenBatch>,
    full: VecDeque<OpenBatch>,
    state: AppendState,
}

/// Whether a partition accepts records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum AppendState {
    #[default]
    Open,
    /// The topic was recreated: other partitions accept its records.
    Retired,
    /// The producer has ended.
    Stopped,
}

/// Outcome of an append.
pub(super) enum AppendOutcome {
    /// The record was appended; flags for a new batch opened for it, and for a full one closed by
    /// it.
    Done {
        delivery: Delivery,
        opened: bool,
        filled: bool,
    },
    /// Not appended: it would need a new batch, or join one that is due, and the caller then
    /// prefers another partition.
    MoveOn { filled: bool },
    /// Not appended: the topic was recreated and has other partitions.
    Retired,
    /// Not appended: the producer has ended.
    Stopped,
    /// Not appended, because of this error.
    Refused(Error),
}

/// What a partition has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullState {
    /// A batch of this many bytes, uncompressed.
    Batch(usize),
    /// A batch that waits for more records until then.
    Later(Instant),
    /// No records.
    Nothing,
}

/// How an append opens batches.
pub(super) struct BatchOpening<'a> {
    pub(super) batch_size: usize,
    pub(super) prefers: PartitionPreference,
    pub(super) new: &'a dyn Fn(Instant) -> (BatchEncoder, Arc<BatchTicket>),
}

/// When a record without a key prefers another partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionPreference {
    /// Never.
    This,
    /// If it would need a new batch.
    OpenBatch,
    /// If it would need a new batch, or the open one is due: a slow leader must not get more
    /// records than the others only because its batches are open longer.
    PromptBatch,
}

impl BufferedBatches {
    fn queued_batches(&self) -> usize {
        self.full.len() + usize::from(self.open.as_ref().is_some_and(|open| open.due))
    }
}

impl PartitionBuffer {
    pub(super) fn new(topic: Arc<str>, topic_id: Arc<str>, index: i32, lane: usize) -> Self {
        Self {
            topic,
            topic_id,
            index,
            lane,
            has_leader: AtomicBool::new(true),
            queued_batches: AtomicUsize::new(0),
            batches: Mutex::default(),
        }
    }

    /// Returns the number of batches that wait for the leader.
    pub(super) fn queued_batches(&self) -> usize {
        self.queued_batches.load(Ordering::Relaxed)
    }

    pub(super) fn has_leader(&self) -> bool {
        self.has_leader.load(Ordering::Relaxed)
    }

    pub(super) fn set_has_leader(&self, led: bool) {
        self.has_leader.store(led, Ordering::Relaxed);
    }

    /// Appends a record, for which `reserved` bytes of the buffer are reserved already.
    pub(super) fn append(
        &self,
        record: &RecordRef<'_>,
        timestamp: i64,
        reserved: usize,
        trace: Option<&SpanContext>,
        opening: &BatchOpening<'_>,
    ) -> AppendOutcome {
        let mut batches = self.batches.lock();
        match batches.state {
            AppendState::Open => {}
            AppendState::Retired => return AppendOutcome::Retired,
            AppendState::Stopped => return AppendOutcome::Stopped,
        }
        let fits = batches
            .open
            .as_ref()
            .is_some_and(|open| open.encoder.size() + reserved <= opening.batch_size);
        let mut filled = false;
        if !fits && let Some(full) = batches.open.take() {
            batches.full.push_back(full);
            self.queued_batches
                .store(batches.queued_batches(), Ordering::Relaxed);
            filled = true;
        }
        let moves_on = match opening.prefers {
            PartitionPreference::This => false,
            PartitionPreference::OpenBatch => !fits,
            PartitionPreference::PromptBatch => !fits || batches.open.as_ref().is_some_and(|open| open.due),
        };
        if moves_on {
            return AppendOutcome::MoveOn { filled };
        }
        let opened = batches.open.is_none();
        let open = batches.open.get_or_insert_with(|| {
            let now = Instant::now();
            let (encoder, ticket) = (opening.new)(now);
            OpenBatch::new(encoder, ticket, now)
        });
        match open.encoder.append(timestamp, record) {
            Ok(index) => {
                open.reserved += reserved;
                if record.partition.is_some() {
                    open.pinned.add(index);
                }
                if open.traced.len() <= MAX_LINKS {
                    open.traced.extend(trace.cloned());
                }
                AppendOutcome::Done {
                    delivery: Delivery::new(open.ticket.clone(), index, timestamp),
                    opened,
                    filled,
                }
            }
            Err(error) => {
                let error = Error::from(ClusterError::new(error.code(), error.to_string()));
                if let Some(empty) = batches.open.take_if(|open| open.encoder.records() == 0) {
                    empty.ticket.complete_failed(error.clone());
                }
                AppendOutcome::Refused(error)
            }
        }
    }

    /// Takes the next batch to send: a full one, or the open one after it has waited for `linger`.
    pub(super) fn pull(&self, now: Instant, linger: Duration) -> Option<OpenBatch> {
        let mut batches = self.batches.lock();
        let pulled = match batches.full.pop_front() {
            Some(full) => Some(full),
            None => batches.open.take_if(|open| now >= open.opened + linger),
        };
        self.queued_batches
            .store(batches.queued_batches(), Ordering::Relaxed);
        pulled
    }

    /// Returns what [`PartitionBuffer::pull`] would take.
    pub(super) fn pull_state(&self, now: Instant, linger: Duration) -> PullState {
        let mut batches = self.batches.lock();
        let full = batches.full.front().map(|full| full.encoder.size());
        let Some(open) = &mut batches.open else {
            return full.map_or(PullState::Nothing, PullState::Batch);
        };
        let (size, at) = (open.encoder.size(), open.opened + linger);
        if now >= at && !open.due {
            open.due = true;
            self.queued_batches
                .store(batches.queued_batches(), Ordering::Relaxed);
        }
        match full {
            Some(size) => PullState::Batch(size),
            None if now >= at => PullState::Batch(size),
            None => PullState::Later(at),
        }
    }

    /// Takes the batches that were opened before `cutoff`.
    pub(super) fn take_older(&self, cutoff: Instant) -> Vec<OpenBatch> {
        let mut batches = self.batches.lock();
        // Batches of a recreated topic are not in the order in which they were opened.
        let (mut old, young): (Vec<_>, Vec<_>) = std::mem::take(&mut batches.full)
            .into_iter()
            .partition(|batch| batch.opened <= cutoff);
        batches.full = young.into();
        old.extend(batches.open.take_if(|open| open.opened <= cutoff));
        self.queued_batches
            .store(batches.queued_batches(), Ordering::Relaxed);
        old
    }

    /// Appends full batches. Only before appenders use the partition.
    pub(super) fn push_full(&self, full: impl IntoIterator<Item = OpenBatch>) {
        let mut batches = self.batches.lock();
        batches.full.extend(full);
        self.queued_batches
            .store(batches.queued_batches(), Ordering::Relaxed);
    }

    /// Stops accepting records, because other partitions do, and returns the remaining batches.
    pub(super) fn retire(&self) -> Vec<OpenBatch> {
        self.close(AppendState::Retired)
    }

    /// Stops accepting records, because the producer has ended, and returns the remaining batches.
    pub(super) fn stop(&self) -> Vec<OpenBatch> {
        self.close(AppendState::Stopped)
    }

    fn close(&self, state: AppendState) -> Vec<OpenBatch> {
        let mut batches = self.batches.lock();
        batches.state = state;
        let mut left: Vec<_> = std::mem::take(&mut batches.full).into();
        left.extend(batches.open.take());
        self.queued_batches.store(0, Ordering::Relaxed);
        left
    }
}
