//! [`Partition`]: the batches of one partition that are not yet the dispatcher's: the open one, which `send` appends to,
//! and full ones behind it. A short lock guards both; the dispatcher takes batches out in order.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;
use streamhouse_core::{Error as CoreError, trace::MAX_LINKS};
use tokio::time::Instant;

use super::{
    delivery::{Delivery, Ticket},
    encode::Encoder,
    record::RecordRef,
};
use crate::error::Error;

/// A batch that still takes records, or is full and waits to be sealed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) encoder: Encoder,
    pub(super) ticket: Arc<Ticket>,
    pub(super) opened: Instant,
    /// What its records hold of the buffer.
    pub(super) reserved: usize,
    /// The spans of its records, as many as a span may have links.
    pub(super) traced: Vec<SpanContext>,
}

/// The appenders' side of a partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) index: i32,
    /// Its lane in the dispatcher.
    pub(super) lane: usize,
    led: AtomicBool,
    batches: Mutex<Batches>,
}

#[derive(Debug, Default)]
struct Batches {
    open: Option<OpenBatch>,
    full: VecDeque<OpenBatch>,
    stopped: bool,
}

/// What an append did.
pub(super) enum Appended {
    /// The record is in; a new batch was opened for it, the batch before it was closed by it.
    Done {
        delivery: Delivery,
        opened: bool,
        filled: bool,
    },
    /// Nothing: it would have needed a new batch, and the caller prefers another partition then.
    WouldOpen { filled: bool },
    /// Nothing: why.
    Refused(Error),
}

/// What a partition has to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pullable {
    /// A batch of this many bytes, not compressed.
    Batch(usize),
    /// One that waits for more records until then.
    Later(Instant),
    /// No record at all.
    Nothing,
}

/// How an append opens batches.
pub(super) struct Opening<'a> {
    pub(super) batch_size: usize,
    /// Whether to refuse rather than open a batch.
    pub(super) only_if_open: bool,
    pub(super) new: &'a dyn Fn(Instant) -> (Encoder, Arc<Ticket>),
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, index: i32, lane: usize) -> Self {
        Self {
            topic,
            index,
            lane,
            led: AtomicBool::new(true),
            batches: Mutex::default(),
        }
    }

    pub(super) fn has_leader(&self) -> bool {
        self.led.load(Ordering::Relaxed)
    }

    pub(super) fn set_led(&self, led: bool) {
        self.led.store(led, Ordering::Relaxed);
    }

    /// Appends a record, for which `reserved` bytes of the buffer are held already.
    pub(super) fn append(
        &self,
        record: &RecordRef<'_>,
        timestamp: i64,
        reserved: usize,
        trace: Option<&SpanContext>,
        opening: &Opening<'_>,
    ) -> Appended {
        let mut batches = self.batches.lock();
        if batches.stopped {
            return Appended::Refused(Error::Closed);
        }
        let fits = batches
            .open
            .as_ref()
            .is_some_and(|open| open.encoder.size() + reserved <= opening.batch_size);
        let mut filled = false;
        if !fits && let Some(full) = batches.open.take() {
            batches.full.push_back(full);
            filled = true;
        }
        if !fits && opening.only_if_open {
            return Appended::WouldOpen { filled };
        }
        let opened = batches.open.is_none();
        let open = batches.open.get_or_insert_with(|| {
            let now = Instant::now();
            let (encoder, ticket) = (opening.new)(now);
            OpenBatch {
                encoder,
                ticket,
                opened: now,
                reserved: 0,
                traced: Vec::new(),
            }
        });
        match open.encoder.append(timestamp, record) {
            Ok(index) => {
                open.reserved += reserved;
                if open.traced.len() <= MAX_LINKS {
                    open.traced.extend(trace.cloned());
                }
                Appended::Done {
                    delivery: Delivery::new(open.ticket.clone(), index, timestamp),
                    opened,
                    filled,
                }
            }
            Err(error) => {
                let error = Error::from(CoreError::new(error.code(), error.to_string()));
                if let Some(empty) = batches.open.take_if(|open| open.encoder.records() == 0) {
                    empty.ticket.failed(error.clone());
                }
                Appended::Refused(error)
            }
        }
    }

    /// The next batch to send: a full one, or the open one when it has waited for `linger` (or waits no longer).
    pub(super) fn pull(&self, now: Instant, linger: Duration) -> Option<OpenBatch> {
        let mut batches = self.batches.lock();
        if let Some(full) = batches.full.pop_front() {
            return Some(full);
        }
        batches.open.take_if(|open| now >= open.opened + linger)
    }

    /// What [`Partition::pull`] would give.
    pub(super) fn pullable(&self, now: Instant, linger: Duration) -> Pullable {
        let batches = self.batches.lock();
        if let Some(full) = batches.full.front() {
            return Pullable::Batch(full.encoder.size());
        }
        match &batches.open {
            Some(open) if now >= open.opened + linger => Pullable::Batch(open.encoder.size()),
            Some(open) => Pullable::Later(open.opened + linger),
            None => Pullable::Nothing,
        }
    }

    /// Takes out the batches that were opened before `cutoff`.
    pub(super) fn take_older(&self, cutoff: Instant) -> Vec<OpenBatch> {
        let mut batches = self.batches.lock();
        let mut old = Vec::new();
        while batches.full.front().is_some_and(|batch| batch.opened <= cutoff) {
            old.extend(batches.full.pop_front());
        }
        if batches.full.is_empty() {
            old.extend(batches.open.take_if(|open| open.opened <= cutoff));
        }
        old
    }

    /// Takes no more records and fails those it has.
    pub(super) fn stop(&self) {
        let (open, full) = {
            let mut batches = self.batches.lock();
            batches.stopped = true;
            (batches.open.take(), std::mem::take(&mut batches.full))
        };
        for batch in full.into_iter().chain(open) {
            batch.ticket.failed(Error::Closed);
        }
    }
}
