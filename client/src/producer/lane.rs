//! [`Lane`]: the sealed batches of one partition, their sequence numbers, and what happens when one
//! fails. Pure: it does no I/O and reads no clock; the dispatcher drives it.
//!
//! Rules of an idempotent producer:
//! - A sealed batch keeps its identity (producer id and epoch), sequence and bytes through all
//!   attempts.
//! - Once a batch must be sent again, no other batch is sent before all batches in flight are
//!   answered; then those that failed are sent again, in order.
//! - A batch that fails finally leaves a gap, behind which the cluster does not accept the next
//!   batch. The lane then takes a new identity, starts at sequence 0, and renumbers batches that
//!   are certainly not stored. A batch of unknown outcome is never renumbered: it is sent again
//!   under its old number, and fails if that is rejected.
//! - A number is reused only if its batch is certainly not stored; otherwise the cluster could take
//!   the new batch for a retry, acknowledge it and drop it.
//! - The parts of a split batch take its place and its numbers.
//!
//! Without idempotence, one batch is in flight at a time, so that retries cannot change the order.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use streamhouse_core::{Error as CoreError, ErrorCode};
use tokio::time::Instant;

use super::{
    delivery::Ticket,
    encode::{Identity, restamp},
    partition::Pinned,
};
use crate::error::Error;

/// Number of batches per partition that the cluster remembers for an idempotent producer, and so
/// the maximum in flight.
const MOST_IN_FLIGHT: usize = 5;

/// A sealed batch, to be sent until it is settled.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
    pub(super) ticket: Arc<Ticket>,
    pub(super) opened: Instant,
    /// Bytes of the buffer that its records have reserved.
    pub(super) reserved: usize,
    /// Spans of its records.
    pub(super) traced: Box<[SpanContext]>,
    /// The records whose partition was set explicitly.
    pub(super) pinned: Pinned,
    pub(super) tries: u32,
    first_sequence: i32,
    /// Whether an attempt may have been stored without an answer.
    unsure: bool,
    last_error: Option<CoreError>,
}

/// Final outcome of a batch.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) batch: Sealed,
    pub(super) outcome: Result<i64, Error>,
}

/// Place of a batch in the order of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNo {
    no: u64,
    /// For a part of a split batch: the number of records before it.
    from: u32,
}

/// One attempt to send a batch. Answers to earlier attempts do not count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    no: BatchNo,
    tries: u32,
}

impl Flight {
    /// Returns whether the batch was sent before.
    pub(super) fn is_retry(self) -> bool {
        self.tries > 1
    }
}

/// What an answer means for a batch.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // passed on at once, never kept
pub(super) enum Verdict {
    /// The batch is settled.
    Settled(Box<Settled>),
    /// The batch will be sent again.
    Retry,
    /// The lane does not (or no longer) wait for this attempt.
    Stale,
}

/// What a lane can send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A sealed batch of this many bytes.
    Again(usize),
    /// A new batch, to be sealed.
    New,
    /// Nothing before the next answer.
    Blocked,
    /// Nothing before a producer id other than this one.
    NeedsIdentity(Option<Identity>),
}

/// The sending side of a partition.
#[derive(Debug)]
pub(super) struct Lane {
    idempotent: bool,
    identity: Option<Identity>,
    next_sequence: i32,
    next_no: u64,
    in_flight: BTreeMap<BatchNo, Sealed>,
    /// To be sent again or, for parts of a split batch, for the first time.
    again: BTreeMap<BatchNo, Sealed>,
    /// Whether a batch must be sent again while others are still in flight.
    recovering: bool,
    /// Whether the sequence has a gap, so that a new identity is needed.
    spent: bool,
}

impl Lane {
    pub(super) fn new(idempotent: bool) -> Self {
        Self {
            idempotent,
            identity: (!idempotent).then_some(Identity::NONE),
            next_sequence: 0,
            next_no: 0,
            in_flight: BTreeMap::new(),
            again: BTreeMap::new(),
            recovering: false,
            spent: false,
        }
    }

    /// Returns whether no sealed batch is left.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.again.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the number of attempts of the first batch to be sent again.
    pub(super) fn tries(&self) -> u32 {
        self.again.values().next().map_or(0, |batch| batch.tries)
    }

    /// Returns what can be sent now.
    pub(super) fn next(&self) -> Next {
        let most = if self.idempotent { MOST_IN_FLIGHT } else { 1 };
        if self.in_flight.len() >= most || (self.recovering && !self.in_flight.is_empty()) {
            return Next::Blocked;
        }
        if self.spent {
            // Only batches of unknown outcome are sent under the old identity, and all answers are
            // awaited before it changes.
            return match self.again.values().find(|batch| batch.unsure) {
                Some(batch) => Next::Again(batch.bytes.len()),
                None if self.in_flight.is_empty() => Next::NeedsIdentity(self.identity),
                None => Next::Blocked,
            };
        }
        if let Some(batch) = self.again.values().next() {
            return Next::Again(batch.bytes.len());
        }
        if self.identity.is_none() {
            Next::NeedsIdentity(None)
        } else {
            Next::New
        }
    }

    /// Adopts a producer id if one is needed, and renumbers the remaining batches from sequence 0.
    /// Returns whether it did.
    pub(super) fn adopt(&mut self, identity: Identity) -> bool {
        if !matches!(self.next(), Next::NeedsIdentity(old) if old != Some(identity)) {
            return false;
        }
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.spent = false;
        for batch in self.again.values_mut() {
            batch.first_sequence = self.next_sequence;
            batch.bytes = restamp(&batch.bytes, identity, batch.first_sequence);
            self.next_sequence = after(self.next_sequence, batch.records);
        }
        true
    }

    /// Returns the identity and first sequence of the next new batch.
    pub(super) fn stamp(&self) -> (Identity, i32) {
        let identity = self.identity.unwrap_or(Identity::NONE);
        (identity, if self.idempotent { self.next_sequence } else { -1 })
    }

    /// Adds a new batch, sealed with [`Lane::stamp`], as sent.
    pub(super) fn send_new(&mut self, new: NewBatch) -> Flight {
        self.recovering = false;
        let (no, mut batch) = self.take_in(new);
        batch.tries = 1;
        batch.ticket.set_unsure(true);
        self.in_flight.insert(no, batch);
        Flight { no, tries: 1 }
    }

    /// Adds a new batch, sealed with [`Lane::stamp`], to be sent after the existing ones.
    pub(super) fn put_new(&mut self, new: NewBatch) {
        let (no, batch) = self.take_in(new);
        self.again.insert(no, batch);
    }

    fn take_in(&mut self, new: NewBatch) -> (BatchNo, Sealed) {
        let (_, first_sequence) = self.stamp();
        self.next_sequence = after(self.next_sequence, new.records);
        let no = BatchNo {
            no: self.next_no,
            from: 0,
        };
        self.next_no += 1;
        (no, Sealed::new(new, first_sequence))
    }

    /// Returns a batch that the cluster rejected as too large, if it can be split.
    pub(super) fn divisible(&self, flight: Flight) -> Option<Sealed> {
        let batch = self.in_flight.get(&flight.no)?;
        (batch.tries == flight.tries && batch.records > 1).then(|| batch.clone())
    }

    /// Replaces a batch by its parts, under its numbers: if it is stored after all, the cluster
    /// rejects them.
    pub(super) fn put_parts(
        &mut self,
        flight: Flight,
        whole: &Sealed,
        parts: impl IntoIterator<Item = NewBatch>,
    ) {
        self.in_flight.remove(&flight.no);
        let (identity, _) = self.stamp();
        let mut no = flight.no;
        let mut sequence = whole.first_sequence;
        for mut part in parts {
            part.bytes = restamp(&part.bytes, identity, sequence);
            let records = part.records;
            let mut part = Sealed::new(part, sequence);
            part.tries = whole.tries;
            part.unsure = whole.unsure;
            self.put_back(no, part);
            no.from = no.from.saturating_add(records);
            sequence = if self.idempotent {
                after(sequence, records)
            } else {
                sequence
            };
        }
    }

    /// Takes all remaining batches, in order. Later answers to them are stale.
    pub(super) fn take_all(&mut self) -> Vec<Sealed> {
        let mut all = std::mem::take(&mut self.in_flight);
        all.append(&mut self.again);
        self.recovering = false;
        all.into_values().collect()
    }

    /// Marks the next batch to be sent again as sent.
    pub(super) fn send_again(&mut self) -> Option<(Flight, Bytes)> {
        self.recovering = false;
        let spent = self.spent;
        let no = self
            .again
            .iter()
            .find(|(_, batch)| !spent || batch.unsure)
            .map(|(no, _)| *no)?;
        let mut batch = self.again.remove(&no)?;
        batch.tries = batch.tries.saturating_add(1);
        batch.ticket.set_unsure(true);
        let (tries, bytes) = (batch.tries, batch.bytes.clone());
        self.in_flight.insert(no, batch);
        Some((Flight { no, tries }, bytes))
    }

    /// Returns the spans of the records of a batch in flight.
    pub(super) fn traced(&self, flight: Flight) -> &[SpanContext] {
        self.in_flight.get(&flight.no).map_or(&[], |batch| &batch.traced)
    }

    fn take(&mut self, flight: Flight) -> Option<Sealed> {
        if self.in_flight.get(&flight.no)?.tries != flight.tries {
            return None;
        }
        self.in_flight.remove(&flight.no)
    }

    /// Handles a batch that the agent stored.
    pub(super) fn stored(&mut self, flight: Flight, base_offset: i64) -> Verdict {
        match self.take(flight) {
            Some(batch) => settled(batch, Ok(base_offset)),
            None => Verdict::Stale,
        }
    }

    /// Handles a batch that was not acknowledged.
    pub(super) fn failed(&mut self, flight: Flight, error: CoreError) -> Verdict {
        let Some(mut batch) = self.take(flight) else {
            return Verdict::Stale;
        };
        let no = flight.no;
        let code = error.code();
        if code == ErrorCode::DuplicateSequenceNumber && self.idempotent {
            // Stored by an earlier attempt, so long ago that the cluster no longer knows the
            // offset.
            return settled(batch, Ok(-1));
        }
        let sequence_refused = self.idempotent
            && matches!(
                code,
                ErrorCode::OutOfOrderSequenceNumber
                    | ErrorCode::UnknownProducerId
                    | ErrorCode::InvalidProducerEpoch
            );
        if sequence_refused {
            return self.refused(no, batch, error);
        }
        batch.unsure |= !code.has_no_side_effects();
        if !error.is_retryable() {
            return Verdict::Settled(Box::new(self.refuse(batch, error)));
        }
        batch.last_error = Some(error);
        self.put_back(no, batch);
        Verdict::Retry
    }

    /// Handles a batch whose sequence the cluster rejected.
    fn refused(&mut self, no: BatchNo, mut batch: Sealed, error: CoreError) -> Verdict {
        // Once the identity is used up, only batches of unknown outcome are sent again, so only
        // those can close the gap.
        let may_come = |(other, earlier): (&BatchNo, &Sealed)| *other < no && (!self.spent || earlier.unsure);
        let waits_for_earlier =
            self.in_flight.keys().any(|other| *other < no) || self.again.iter().any(may_come);
        if !waits_for_earlier && batch.unsure {
            return Verdict::Settled(Box::new(self.refuse(batch, error)));
        }
        if !waits_for_earlier {
            self.spent = true;
        }
        batch.last_error = Some(error);
        self.put_back(no, batch);
        Verdict::Retry
    }

    fn put_back(&mut self, no: BatchNo, batch: Sealed) {
        batch.ticket.set_unsure(batch.unsure);
        self.again.insert(no, batch);
        self.recovering = true;
    }

    /// Fails a batch (already removed) that was rejected finally. Earlier attempts may still have
    /// been stored.
    fn refuse(&mut self, batch: Sealed, error: CoreError) -> Settled {
        let error = if batch.unsure {
            let reason = format!(
                "an earlier attempt to send it had no conclusive answer, and the last one failed with {error}"
            );
            Error::OutcomeUnknown {
                reason: reason.into(),
            }
        } else {
            error.into()
        };
        self.give_up(batch, error)
    }

    /// Fails a batch (already removed) finally.
    fn give_up(&mut self, batch: Sealed, error: Error) -> Settled {
        let last = after(batch.first_sequence, batch.records) == self.next_sequence;
        if last && !batch.unsure && !self.spent {
            // No later batch was numbered: the next one takes its sequence, without a gap.
            self.next_sequence = batch.first_sequence;
        } else {
            self.spent = self.idempotent;
        }
        Settled {
            batch,
            outcome: Err(error),
        }
    }

    /// Queues all batches in flight to be sent again, because their answers will not arrive or are
    /// no longer awaited.
    pub(super) fn abandon(&mut self, error: &CoreError) {
        for (no, mut batch) in std::mem::take(&mut self.in_flight) {
            batch.unsure = true;
            batch.last_error = Some(error.clone());
            self.put_back(no, batch);
        }
    }

    /// Fails the batches that were opened before `cutoff`, because they have timed out.
    pub(super) fn expire(&mut self, cutoff: Instant, waited: std::time::Duration) -> Vec<Settled> {
        let old = |batches: &BTreeMap<BatchNo, Sealed>| -> Vec<BatchNo> {
            batches
                .iter()
                .filter(|(_, batch)| batch.opened <= cutoff)
                .map(|(no, _)| *no)
                .collect()
        };
        let mut gone = Vec::new();
        // Newest first, so that numbers can be taken back one after the other.
        let mut nos: Vec<_> = old(&self.in_flight).into_iter().chain(old(&self.again)).collect();
        nos.sort_unstable_by(|a, b| b.cmp(a));
        for no in nos {
            let sent = self.in_flight.remove(&no).map(|batch| Sealed {
                unsure: true,
                ..batch
            });
            let Some(batch) = sent.or_else(|| self.again.remove(&no)) else {
                continue;
            };
            let error = Error::timeout("delivering the record", waited, batch.last_error.clone());
            gone.push(self.give_up(batch, error));
        }
        gone.reverse();
        self.recovering &= !self.again.is_empty();
        gone
    }
}

/// A batch that was just sealed.
#[derive(Debug)]
pub(super) struct NewBatch {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
    pub(super) ticket: Arc<Ticket>,
    pub(super) opened: Instant,
    pub(super) reserved: usize,
    pub(super) traced: Box<[SpanContext]>,
    pub(super) pinned: Pinned,
}

impl Sealed {
    fn new(new: NewBatch, first_sequence: i32) -> Self {
        let NewBatch {
            bytes,
            records,
            ticket,
            opened,
            reserved,
            traced,
            pinned,
        } = new;
        ticket.set_records(records);
        Self {
            bytes,
            records,
            ticket,
            opened,
            reserved,
            traced,
            pinned,
            tries: 0,
            first_sequence,
            unsure: false,
            last_error: None,
        }
    }
}

fn settled(batch: Sealed, outcome: Result<i64, Error>) -> Verdict {
    Verdict::Settled(Box::new(Settled { batch, outcome }))
}

/// Returns the sequence after a batch. It wraps to 0, as in Kafka.
fn after(sequence: i32, records: u32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests;
