//! The open WAL object: what was admitted and waits for the next flush. Appending is a short lock; the flusher takes
//! whole objects out of it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode, PartitionUid, trace::MAX_LINKS};
use streamhouse_metadata::{BatchMeta, PartitionCommit};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::partition::Partition;

/// What the producer is told of one partition's part of a request.
pub type Ack = Result<Appended, Error>;

/// Where the records ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The log start in force.
    pub log_start: i64,
}

/// Validated batches of one request for one partition, and the ticket that answers it once.
#[derive(Debug)]
pub struct Append {
    /// Where to.
    pub partition: Arc<Partition>,
    /// The batches, back to back.
    pub bytes: Bytes,
    /// One each.
    pub batches: Vec<BatchMeta>,
    /// Answered when the records are durable and committed, or surely not.
    pub ticket: oneshot::Sender<Ack>,
    /// The memory it occupies, given back with the ticket.
    pub permit: OwnedSemaphorePermit,
    /// When it was taken.
    pub since: Instant,
    /// The span of the request it came with, if that is traced.
    pub trace: Option<SpanContext>,
}

/// An object that takes appends no more.
#[derive(Debug, Default)]
pub struct OpenObject {
    /// In the order of the partitions' ids: the order in which the commit locks their rows.
    pub partitions: BTreeMap<PartitionUid, Vec<Append>>,
    /// Bytes of all batches.
    pub bytes: usize,
}

impl OpenObject {
    /// The object's bytes, each partition's contiguous, and what the commit needs to know of them. The appends' own bytes
    /// are let go: from here on the object stands for them.
    pub fn assemble(&mut self) -> (Bytes, Vec<PartitionCommit>) {
        let mut body = BytesMut::with_capacity(self.bytes);
        let mut commits = Vec::with_capacity(self.partitions.len());
        for (&partition, appends) in &mut self.partitions {
            let position = body.len() as u64;
            let mut batches = Vec::with_capacity(appends.len());
            for append in appends.iter_mut() {
                body.extend_from_slice(&std::mem::take(&mut append.bytes));
                batches.extend_from_slice(&append.batches);
            }
            let epoch = appends.first().map_or(0, |append| append.partition.lease.epoch);
            commits.push(PartitionCommit {
                partition,
                epoch,
                position,
                batches,
            });
        }
        (body.freeze(), commits)
    }

    /// The spans of its requests, the oldest first, each once; no more than a span may have links.
    pub fn traced(&self) -> Vec<SpanContext> {
        let appends = self.partitions.values().flatten();
        let mut traced: Vec<_> = appends
            .filter_map(|append| Some((append.since, append.trace.as_ref()?)))
            .collect();
        traced.sort_by_key(|(since, _)| *since);
        // The parts of one request stand together: they were taken one right after the other.
        traced.dedup_by_key(|(_, trace)| trace.span_id());
        let some = traced.into_iter().take(1 + MAX_LINKS);
        some.map(|(_, trace)| trace.clone()).collect()
    }

    /// Answers every ticket with this error; says how many.
    pub fn fail(self, error: &Error) -> u64 {
        let mut answered = 0;
        for append in self.partitions.into_values().flatten() {
            let _ = append.ticket.send(Err(error.clone()));
            answered += 1;
        }
        answered
    }
}

/// Open and full objects that wait for the flusher.
#[derive(Debug)]
pub struct Buffer {
    state: Mutex<State>,
    full_at: usize,
    /// Wakes the flusher.
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: OpenObject,
    full: VecDeque<OpenObject>,
    /// Appends taken in so far; those refused do not count.
    accepted: u64,
    closed: Option<Error>,
}

impl Buffer {
    /// Objects are full at this many bytes.
    pub fn new(full_at: usize) -> Self {
        Self {
            state: Mutex::default(),
            full_at,
            changed: Notify::new(),
        }
    }

    /// Takes an append in; its ticket is answered at once when that cannot be.
    pub fn append(&self, append: Append) {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            let _ = append.ticket.send(Err(error.clone()));
            return;
        }
        if !append.partition.accepting() {
            let _ = append.ticket.send(Err(handed_over()));
            return;
        }
        state.accepted += 1;
        let was_empty = state.open.bytes == 0;
        let epoch = append.partition.lease.epoch;
        state.open.bytes += append.bytes.len();
        let appends = state.open.partitions.entry(append.partition.uid()).or_default();
        if appends
            .first()
            .is_some_and(|first| first.partition.lease.epoch != epoch)
        {
            // The lease went and came back since the object was opened: an object of its own keeps the epochs apart.
            let object = std::mem::take(&mut state.open);
            state.full.push_back(OpenObject {
                bytes: object.bytes - append.bytes.len(),
                ..object
            });
            state.open.bytes = append.bytes.len();
            state.open.partitions.insert(append.partition.uid(), vec![append]);
        } else {
            appends.push(append);
        }
        let full = state.open.bytes >= self.full_at;
        if full {
            let object = std::mem::take(&mut state.open);
            state.full.push_back(object);
        }
        drop(state);
        if was_empty || full {
            self.changed.notify_one();
        }
    }

    /// Appends taken in so far.
    pub fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Whether something waits, and whether a full object does.
    pub fn waiting(&self) -> (bool, bool) {
        let state = self.state.lock();
        (
            state.open.bytes > 0 || !state.full.is_empty(),
            !state.full.is_empty(),
        )
    }

    /// The next object to flush, the oldest first.
    pub fn take(&self) -> Option<OpenObject> {
        let mut state = self.state.lock();
        if let Some(object) = state.full.pop_front() {
            return Some(object);
        }
        (state.open.bytes > 0).then(|| std::mem::take(&mut state.open))
    }

    /// Refuses everything from now on, and what waits; says how many appends waited.
    pub fn close(&self, error: &Error) -> u64 {
        let mut state = self.state.lock();
        state.closed = Some(error.clone());
        let open = std::mem::take(&mut state.open);
        let full = std::mem::take(&mut state.full);
        drop(state);
        self.changed.notify_one();
        full.into_iter()
            .chain([open])
            .map(|object| object.fail(error))
            .sum()
    }
}

/// What a producer is told while its partition moves to another agent.
pub fn handed_over() -> Error {
    Error::new(
        ErrorCode::NotLeader,
        "this agent no longer leads the partition; refresh the metadata and try again",
    )
}
