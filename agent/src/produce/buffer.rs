//! Collects admitted batches in the open WAL object until the next flush. Appending holds a lock
//! briefly; the flusher takes whole objects.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode, PartitionUid, trace::MAX_LINKS};
use streamhouse_metadata::{BatchMetadata, PartitionCommit};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::partition::LedPartition;

/// The result of one partition's part of a produce request.
pub type AppendResult = Result<AppendedPosition, Error>;

/// Position of appended records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedPosition {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Log start offset after the append.
    pub log_start: i64,
}

/// Validated batches of one request for one partition, with the channel that answers it once.
#[derive(Debug)]
pub struct AppendRequest {
    /// The partition to append to.
    pub partition: Arc<LedPartition>,
    /// The batches, back to back.
    pub bytes: Bytes,
    /// One entry per batch.
    pub batches: Vec<BatchMetadata>,
    /// Answered once the records are durable and committed, or certain not to be.
    pub ticket: oneshot::Sender<AppendResult>,
    /// Memory of the batches, released with the ticket.
    pub permit: OwnedSemaphorePermit,
    /// When the request was accepted.
    pub received_at: Instant,
    /// Span of the request, if it is traced.
    pub trace: Option<SpanContext>,
}

/// A WAL object that accepts no further appends.
#[derive(Debug, Default)]
pub struct OpenWalObject {
    /// Appends by partition id: the order in which the commit locks their rows.
    pub partitions: BTreeMap<PartitionUid, Vec<AppendRequest>>,
    /// Bytes of all batches.
    pub bytes: usize,
}

impl OpenWalObject {
    /// Returns the object's body, in which each partition's batches are contiguous, and the commit
    /// of each partition. Drops the appends' own bytes, which the body replaces.
    pub fn assemble_body(&mut self) -> (Bytes, Vec<PartitionCommit>) {
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

    /// Returns the spans of the object's requests, oldest first, each once, up to the number of
    /// links a span may have.
    pub fn span_contexts(&self) -> Vec<SpanContext> {
        let appends = self.partitions.values().flatten();
        let mut traced: Vec<_> = appends
            .filter_map(|append| Some((append.received_at, append.trace.as_ref()?)))
            .collect();
        traced.sort_by_key(|(since, _)| *since);
        // The parts of one request are adjacent: they were accepted one after the other.
        traced.dedup_by_key(|(_, trace)| trace.span_id());
        let some = traced.into_iter().take(1 + MAX_LINKS);
        some.map(|(_, trace)| trace.clone()).collect()
    }

    /// Answers every ticket with this error, and returns how many there were.
    pub fn fail_all(self, error: &Error) -> u64 {
        let mut answered = 0;
        for append in self.partitions.into_values().flatten() {
            let _ = append.ticket.send(Err(error.clone()));
            answered += 1;
        }
        answered
    }
}

/// The open and the full WAL objects that wait for the flusher.
#[derive(Debug)]
pub struct WalBuffer {
    state: Mutex<WalBufferState>,
    full_at: usize,
    /// Wakes the flusher.
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct WalBufferState {
    open: OpenWalObject,
    full: VecDeque<OpenWalObject>,
    /// Number of accepted appends; refused ones do not count.
    accepted: u64,
    closed: Option<Error>,
}

impl WalBuffer {
    /// Creates a buffer whose objects are full at this many bytes.
    pub fn new(full_at: usize) -> Self {
        Self {
            state: Mutex::default(),
            full_at,
            changed: Notify::new(),
        }
    }

    /// Accepts an append, or answers its ticket at once if that is not possible.
    pub fn append(&self, append: AppendRequest) {
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            let _ = append.ticket.send(Err(error.clone()));
            return;
        }
        if !append.partition.is_accepting() {
            let _ = append.ticket.send(Err(not_leader_error()));
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
            // The lease was lost and regained since the object was opened: a new object keeps the
            // epochs apart.
            let object = std::mem::take(&mut state.open);
            state.full.push_back(OpenWalObject {
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

    /// Returns the number of appends accepted so far.
    pub fn accepted_count(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Returns whether anything is buffered, and whether a full object is.
    pub fn pending_state(&self) -> (bool, bool) {
        let state = self.state.lock();
        (
            state.open.bytes > 0 || !state.full.is_empty(),
            !state.full.is_empty(),
        )
    }

    /// Takes the next object to flush, oldest first.
    pub fn take_next(&self) -> Option<OpenWalObject> {
        let mut state = self.state.lock();
        if let Some(object) = state.full.pop_front() {
            return Some(object);
        }
        (state.open.bytes > 0).then(|| std::mem::take(&mut state.open))
    }

    /// Refuses all buffered and all future appends, and returns how many were buffered.
    pub fn close(&self, error: &Error) -> u64 {
        let mut state = self.state.lock();
        state.closed = Some(error.clone());
        let open = std::mem::take(&mut state.open);
        let full = std::mem::take(&mut state.full);
        drop(state);
        self.changed.notify_one();
        full.into_iter()
            .chain([open])
            .map(|object| object.fail_all(error))
            .sum()
    }
}

/// Returns the error for a producer whose partition is moving to another agent.
pub fn not_leader_error() -> Error {
    Error::new(
        ErrorCode::NotLeader,
        "this agent no longer leads the partition; refresh the metadata and try again",
    )
}
