//! [`PartitionSender`]: the sealed batches of one partition, their sequence numbers, and what
//! happens when one fails. Pure: it does no I/O and reads no clock; the dispatcher drives it.
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

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use streamhouse_core::{Error as ClusterError, ErrorCode};
use tokio::time::Instant;

use super::{
    batch_content::BatchContent,
    encode::{ProducerIdentity, restamp},
};
use crate::error::Error;

/// Number of batches per partition that the cluster remembers for an idempotent producer, and so
/// the maximum in flight.
const MAX_IN_FLIGHT_BATCHES: usize = 5;

/// A sealed batch, to be sent until it is settled.
#[derive(Debug, Clone)]
pub(super) struct SealedBatch {
    pub(super) content: BatchContent,
    pub(super) tries: u32,
    first_sequence: i32,
    /// Whether an attempt may have been stored without an answer.
    maybe_stored: bool,
    last_error: Option<ClusterError>,
}

impl SealedBatch {
    fn new(content: BatchContent, first_sequence: i32) -> Self {
        content.ticket.set_records(content.records);
        Self {
            content,
            tries: 0,
            first_sequence,
            maybe_stored: false,
            last_error: None,
        }
    }
}

/// Final outcome of a batch.
#[derive(Debug)]
pub(super) struct SettledBatch {
    pub(super) content: BatchContent,
    pub(super) outcome: Result<i64, Error>,
}

/// Place of a batch in the order of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNumber {
    no: u64,
    /// For a part of a split batch: the number of records before it.
    from: u32,
}

/// One attempt to send a batch. Answers to earlier attempts do not count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendAttempt {
    no: BatchNumber,
    tries: u32,
}

impl SendAttempt {
    /// Returns whether the batch was sent before.
    pub(super) fn is_retry(self) -> bool {
        self.tries > 1
    }
}

/// What an answer means for a batch.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // passed on at once, never kept
pub(super) enum BatchVerdict {
    /// The batch is settled.
    Settled(Box<SettledBatch>),
    /// The batch will be sent again.
    Retry,
    /// The lane does not (or no longer) wait for this attempt.
    Stale,
}

/// What a lane can send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextSend {
    /// A sealed batch of this many bytes.
    Resend(usize),
    /// A new batch, to be sealed.
    New,
    /// Nothing before the next answer.
    Blocked,
    /// Nothing before a producer id other than this one.
    NeedsIdentity(Option<ProducerIdentity>),
}

/// The sending side of a partition.
#[derive(Debug)]
pub(super) struct PartitionSender {
    idempotent: bool,
    identity: Option<ProducerIdentity>,
    next_sequence: i32,
    next_no: u64,
    in_flight: BTreeMap<BatchNumber, SealedBatch>,
    /// To be sent again or, for parts of a split batch, for the first time.
    resend_queue: BTreeMap<BatchNumber, SealedBatch>,
    /// Whether a batch must be sent again while others are still in flight.
    recovering: bool,
    /// Whether the sequence has a gap, so that a new identity is needed.
    identity_spent: bool,
}

impl PartitionSender {
    pub(super) fn new(idempotent: bool) -> Self {
        Self {
            idempotent,
            identity: (!idempotent).then_some(ProducerIdentity::NONE),
            next_sequence: 0,
            next_no: 0,
            in_flight: BTreeMap::new(),
            resend_queue: BTreeMap::new(),
            recovering: false,
            identity_spent: false,
        }
    }

    /// Returns whether no sealed batch is left.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.resend_queue.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns the number of attempts of the first batch to be sent again.
    pub(super) fn tries(&self) -> u32 {
        self.resend_queue.values().next().map_or(0, |batch| batch.tries)
    }

    /// Returns what can be sent now.
    pub(super) fn next_send(&self) -> NextSend {
        let most = if self.idempotent { MAX_IN_FLIGHT_BATCHES } else { 1 };
        if self.in_flight.len() >= most || (self.recovering && !self.in_flight.is_empty()) {
            return NextSend::Blocked;
        }
        if self.identity_spent {
            // Only batches of unknown outcome are sent under the old identity, and all answers are
            // awaited before it changes.
            return match self.resend_queue.values().find(|batch| batch.maybe_stored) {
                Some(batch) => NextSend::Resend(batch.content.bytes.len()),
                None if self.in_flight.is_empty() => NextSend::NeedsIdentity(self.identity),
                None => NextSend::Blocked,
            };
        }
        if let Some(batch) = self.resend_queue.values().next() {
            return NextSend::Resend(batch.content.bytes.len());
        }
        if self.identity.is_none() {
            NextSend::NeedsIdentity(None)
        } else {
            NextSend::New
        }
    }

    /// Adopts a producer id if one is needed, and renumbers the remaining batches from sequence 0.
    /// Returns whether it did.
    pub(super) fn adopt_identity(&mut self, identity: ProducerIdentity) -> bool {
        if !matches!(self.next_send(), NextSend::NeedsIdentity(old) if old != Some(identity)) {
            return false;
        }
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.identity_spent = false;
        for batch in self.resend_queue.values_mut() {
            batch.first_sequence = self.next_sequence;
            batch.content.bytes = restamp(&batch.content.bytes, identity, batch.first_sequence);
            self.next_sequence = next_sequence_after(self.next_sequence, batch.content.records);
        }
        true
    }

    /// Returns the identity and first sequence of the next new batch.
    pub(super) fn next_stamp(&self) -> (ProducerIdentity, i32) {
        let identity = self.identity.unwrap_or(ProducerIdentity::NONE);
        (identity, if self.idempotent { self.next_sequence } else { -1 })
    }

    /// Adds a new batch, sealed with [`PartitionSender::next_stamp`], as sent.
    pub(super) fn send_new(&mut self, new: BatchContent) -> SendAttempt {
        self.recovering = false;
        let (no, mut batch) = self.number_batch(new);
        batch.tries = 1;
        batch.content.ticket.set_maybe_stored(true);
        self.in_flight.insert(no, batch);
        SendAttempt { no, tries: 1 }
    }

    /// Adds a new batch, sealed with [`PartitionSender::next_stamp`], to be sent after the existing
    /// ones.
    pub(super) fn queue_new(&mut self, new: BatchContent) {
        let (no, batch) = self.number_batch(new);
        self.resend_queue.insert(no, batch);
    }

    fn number_batch(&mut self, new: BatchContent) -> (BatchNumber, SealedBatch) {
        let (_, first_sequence) = self.next_stamp();
        self.next_sequence = next_sequence_after(self.next_sequence, new.records);
        let no = BatchNumber {
            no: self.next_no,
            from: 0,
        };
        self.next_no += 1;
        (no, SealedBatch::new(new, first_sequence))
    }

    /// Returns a batch that the cluster rejected as too large, if it can be split.
    pub(super) fn divisible_batch(&self, flight: SendAttempt) -> Option<SealedBatch> {
        let batch = self.in_flight.get(&flight.no)?;
        (batch.tries == flight.tries && batch.content.records > 1).then(|| batch.clone())
    }

    /// Replaces a batch by its parts, under its numbers: if it is stored after all, the cluster
    /// rejects them.
    pub(super) fn replace_with_parts(
        &mut self,
        flight: SendAttempt,
        whole: &SealedBatch,
        parts: impl IntoIterator<Item = BatchContent>,
    ) {
        self.in_flight.remove(&flight.no);
        let (identity, _) = self.next_stamp();
        let mut no = flight.no;
        let mut sequence = whole.first_sequence;
        for mut part in parts {
            part.bytes = restamp(&part.bytes, identity, sequence);
            let records = part.records;
            let mut part = SealedBatch::new(part, sequence);
            part.tries = whole.tries;
            part.maybe_stored = whole.maybe_stored;
            self.requeue(no, part);
            no.from = no.from.saturating_add(records);
            sequence = if self.idempotent {
                next_sequence_after(sequence, records)
            } else {
                sequence
            };
        }
    }

    /// Takes all remaining batches, in order. Later answers to them are stale.
    pub(super) fn take_all(&mut self) -> Vec<SealedBatch> {
        let mut all = std::mem::take(&mut self.in_flight);
        all.append(&mut self.resend_queue);
        self.recovering = false;
        all.into_values().collect()
    }

    /// Marks the next batch to be sent again as sent.
    pub(super) fn resend_next(&mut self) -> Option<(SendAttempt, Bytes)> {
        self.recovering = false;
        let spent = self.identity_spent;
        let no = self
            .resend_queue
            .iter()
            .find(|(_, batch)| !spent || batch.maybe_stored)
            .map(|(no, _)| *no)?;
        let mut batch = self.resend_queue.remove(&no)?;
        batch.tries = batch.tries.saturating_add(1);
        batch.content.ticket.set_maybe_stored(true);
        let (tries, bytes) = (batch.tries, batch.content.bytes.clone());
        self.in_flight.insert(no, batch);
        Some((SendAttempt { no, tries }, bytes))
    }

    /// Returns the spans of the records of a batch in flight.
    pub(super) fn traced(&self, flight: SendAttempt) -> &[SpanContext] {
        self.in_flight
            .get(&flight.no)
            .map_or(&[], |batch| &batch.content.traced)
    }

    fn take_attempt(&mut self, flight: SendAttempt) -> Option<SealedBatch> {
        if self.in_flight.get(&flight.no)?.tries != flight.tries {
            return None;
        }
        self.in_flight.remove(&flight.no)
    }

    /// Handles a batch that the agent stored.
    pub(super) fn handle_stored(&mut self, flight: SendAttempt, base_offset: i64) -> BatchVerdict {
        match self.take_attempt(flight) {
            Some(batch) => settled_verdict(batch, Ok(base_offset)),
            None => BatchVerdict::Stale,
        }
    }

    /// Handles a batch that was not acknowledged.
    pub(super) fn handle_failure(&mut self, flight: SendAttempt, error: ClusterError) -> BatchVerdict {
        let Some(mut batch) = self.take_attempt(flight) else {
            return BatchVerdict::Stale;
        };
        let no = flight.no;
        let code = error.code();
        if code == ErrorCode::DuplicateSequenceNumber && self.idempotent {
            // Stored by an earlier attempt, so long ago that the cluster no longer knows the
            // offset.
            return settled_verdict(batch, Ok(-1));
        }
        let sequence_refused = self.idempotent
            && matches!(
                code,
                ErrorCode::OutOfOrderSequenceNumber
                    | ErrorCode::UnknownProducerId
                    | ErrorCode::InvalidProducerEpoch
            );
        if sequence_refused {
            return self.handle_sequence_rejection(no, batch, error);
        }
        batch.maybe_stored |= !code.has_no_side_effects();
        if !error.is_retryable() {
            return BatchVerdict::Settled(Box::new(self.reject_batch(batch, error)));
        }
        batch.last_error = Some(error);
        self.requeue(no, batch);
        BatchVerdict::Retry
    }

    /// Handles a batch whose sequence the cluster rejected.
    fn handle_sequence_rejection(
        &mut self,
        no: BatchNumber,
        mut batch: SealedBatch,
        error: ClusterError,
    ) -> BatchVerdict {
        // Once the identity is used up, only batches of unknown outcome are sent again, so only
        // those can close the gap.
        let may_come = |(other, earlier): (&BatchNumber, &SealedBatch)| {
            *other < no && (!self.identity_spent || earlier.maybe_stored)
        };
        let waits_for_earlier =
            self.in_flight.keys().any(|other| *other < no) || self.resend_queue.iter().any(may_come);
        if !waits_for_earlier && batch.maybe_stored {
            return BatchVerdict::Settled(Box::new(self.reject_batch(batch, error)));
        }
        if !waits_for_earlier {
            self.identity_spent = true;
        }
        batch.last_error = Some(error);
        self.requeue(no, batch);
        BatchVerdict::Retry
    }

    fn requeue(&mut self, no: BatchNumber, batch: SealedBatch) {
        batch.content.ticket.set_maybe_stored(batch.maybe_stored);
        self.resend_queue.insert(no, batch);
        self.recovering = true;
    }

    /// Fails a batch (already removed) that was rejected finally. Earlier attempts may still have
    /// been stored.
    fn reject_batch(&mut self, batch: SealedBatch, error: ClusterError) -> SettledBatch {
        let error = if batch.maybe_stored {
            let reason = format!(
                "an earlier attempt to send it had no conclusive answer, and the last one failed with {error}"
            );
            Error::OutcomeUnknown {
                reason: reason.into(),
            }
        } else {
            error.into()
        };
        self.fail_batch(batch, error)
    }

    /// Fails a batch (already removed) finally.
    fn fail_batch(&mut self, batch: SealedBatch, error: Error) -> SettledBatch {
        let last = next_sequence_after(batch.first_sequence, batch.content.records) == self.next_sequence;
        if last && !batch.maybe_stored && !self.identity_spent {
            // No later batch was numbered: the next one takes its sequence, without a gap.
            self.next_sequence = batch.first_sequence;
        } else {
            self.identity_spent = self.idempotent;
        }
        SettledBatch {
            content: batch.content,
            outcome: Err(error),
        }
    }

    /// Queues all batches in flight to be sent again, because their answers will not arrive or are
    /// no longer awaited.
    pub(super) fn requeue_in_flight(&mut self, error: &ClusterError) {
        for (no, mut batch) in std::mem::take(&mut self.in_flight) {
            batch.maybe_stored = true;
            batch.last_error = Some(error.clone());
            self.requeue(no, batch);
        }
    }

    /// Fails the batches that were opened before `cutoff`, because they have timed out.
    pub(super) fn expire(&mut self, cutoff: Instant, waited: std::time::Duration) -> Vec<SettledBatch> {
        let old = |batches: &BTreeMap<BatchNumber, SealedBatch>| -> Vec<BatchNumber> {
            batches
                .iter()
                .filter(|(_, batch)| batch.content.opened <= cutoff)
                .map(|(no, _)| *no)
                .collect()
        };
        let mut gone = Vec::new();
        // Newest first, so that numbers can be taken back one after the other.
        let mut nos: Vec<_> = old(&self.in_flight)
            .into_iter()
            .chain(old(&self.resend_queue))
            .collect();
        nos.sort_unstable_by(|a, b| b.cmp(a));
        for no in nos {
            let sent = self.in_flight.remove(&no).map(|batch| SealedBatch {
                maybe_stored: true,
                ..batch
            });
            let Some(batch) = sent.or_else(|| self.resend_queue.remove(&no)) else {
                continue;
            };
            let error = Error::timeout("delivering the record", waited, batch.last_error.clone());
            gone.push(self.fail_batch(batch, error));
        }
        gone.reverse();
        self.recovering &= !self.resend_queue.is_empty();
        gone
    }
}

fn settled_verdict(batch: SealedBatch, outcome: Result<i64, Error>) -> BatchVerdict {
    BatchVerdict::Settled(Box::new(SettledBatch {
        content: batch.content,
        outcome,
    }))
}

/// Returns the sequence after a batch. It wraps to 0, as in Kafka.
fn next_sequence_after(sequence: i32, records: u32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests;
