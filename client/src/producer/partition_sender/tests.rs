//! The lane against a model of the cluster: whatever is lost, rejected or delayed, an acknowledged
//! batch is stored once and in order, and the lane always makes progress.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use proptest::prelude::*;
use streamhouse_core::batch::{BatchHeader, Compression, DecodedRecords};

use super::super::{
    delivery::BatchTicket, encode::BatchEncoder, partition_buffer::PinnedRecords, record::RecordRef,
};
use super::*;

/// What the cluster remembers of a producer.
#[derive(Default)]
struct ProducerHistory {
    next: i32,
    /// First sequence, number of records and offset of the last batches.
    last: VecDeque<(i32, i32, i64)>,
}

/// The cluster's state of the partition.
#[derive(Default)]
struct PartitionModel {
    producers: HashMap<i64, ProducerHistory>,
    /// The numbers of the records, in the order stored.
    stored: Vec<u32>,
    /// The first number of each batch.
    batches: Vec<u32>,
}

impl PartitionModel {
    fn append(&mut self, bytes: &Bytes) -> Result<i64, ClusterError> {
        let header = BatchHeader::parse(bytes).unwrap();
        streamhouse_core::batch::verify_crc(bytes).unwrap();
        let known = self.producers.entry(header.producer_id).or_default();
        let same = |(first, count, _): &&(i32, i32, i64)| {
            (*first, *count) == (header.base_sequence, header.record_count)
        };
        if header.producer_id >= 0
            && let Some((_, _, offset)) = known.last.iter().find(same)
        {
            return Ok(*offset);
        }
        if header.producer_id >= 0 && header.base_sequence != known.next {
            let oldest = known.last.front().map_or(0, |(first, _, _)| *first);
            let code = if header.base_sequence < oldest {
                ErrorCode::DuplicateSequenceNumber
            } else {
                ErrorCode::OutOfOrderSequenceNumber
            };
            return Err(ClusterError::new(code, "not the next"));
        }
        known.next += header.record_count;
        let offset = self.stored.len() as i64;
        known
            .last
            .push_back((header.base_sequence, header.record_count, offset));
        if known.last.len() > MAX_IN_FLIGHT_BATCHES {
            known.last.pop_front();
        }
        let numbers = numbers_of(bytes);
        self.batches.push(numbers[0]);
        self.stored.extend(numbers);
        Ok(offset)
    }
}

fn numbers_of(bytes: &Bytes) -> Vec<u32> {
    let records = DecodedRecords::decode(bytes.clone(), 1 << 20).unwrap();
    let number = |value: Bytes| u32::from_be_bytes(value[..4].try_into().unwrap());
    records
        .map(|record| number(record.unwrap().value.unwrap()))
        .collect()
}

fn new_batch(numbers: std::ops::Range<u32>, ticket: u64, lane: &PartitionSender) -> BatchContent {
    let mut encoder = BatchEncoder::new(Compression::None);
    let records = numbers.end - numbers.start;
    for number in numbers {
        encoder.append(0, &RecordRef::new(&number.to_be_bytes())).unwrap();
    }
    let (identity, sequence) = lane.next_stamp();
    BatchContent {
        bytes: encoder.seal(identity, sequence).unwrap(),
        records,
        ticket: BatchTicket::new(ticket, "t".into(), 0),
        opened: Instant::now(),
        traced: Box::default(),
        pinned: PinnedRecords::default(),
        reserved: 0,
    }
}

/// A step of a run.
#[derive(Debug, Clone, Copy)]
enum SenderStep {
    /// Sends a batch of this many records.
    Send(u32),
    /// Sends a batch that is split in two when it is sealed.
    SendInParts(u32),
    /// The first request in flight arrives and is answered.
    Answer,
    /// It is rejected without effect.
    Refuse(ErrorCode),
    /// It is rejected as too large, and split if possible.
    TooLarge,
    /// It is stored, and answered with an error that does not reveal it.
    StoreAndFail,
    /// The connection breaks after this many requests arrived; the others may still arrive later.
    Break(usize),
    /// A request of a broken connection arrives.
    Late,
    /// The oldest batch times out.
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<SenderStep>> {
    let step = prop_oneof![
        8 => (1..4_u32).prop_map(SenderStep::Send),
        1 => (2..4_u32).prop_map(SenderStep::SendInParts),
        6 => Just(SenderStep::Answer),
        1 => Just(SenderStep::TooLarge),
        1 => Just(SenderStep::StoreAndFail),
        1 => Just(SenderStep::Refuse(ErrorCode::NotLeader)),
        1 => Just(SenderStep::Refuse(ErrorCode::StorageUnavailable)),
        1 => Just(SenderStep::Refuse(ErrorCode::InvalidRecord)),
        1 => (0..5_usize).prop_map(SenderStep::Break),
        1 => Just(SenderStep::Late),
        1 => Just(SenderStep::Expire),
    ];
    prop::collection::vec(step, 0..200)
}

struct SenderRun {
    lane: PartitionSender,
    model: PartitionModel,
    on_its_way: VecDeque<(SendAttempt, Bytes)>,
    late: VecDeque<Bytes>,
    sent: u32,
    tickets: u64,
    identities: i64,
    /// Acknowledged numbers with their offsets, in the order of the acknowledgements.
    acked: Vec<(u32, i64)>,
    failed: Vec<u32>,
}

impl SenderRun {
    fn new(idempotent: bool) -> Self {
        Self {
            lane: PartitionSender::new(idempotent),
            model: PartitionModel::default(),
            on_its_way: VecDeque::new(),
            late: VecDeque::new(),
            sent: 0,
            tickets: 0,
            identities: 0,
            acked: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn step(&mut self, step: SenderStep) {
        match step {
            SenderStep::Send(records) => self.send(records, false),
            SenderStep::SendInParts(records) => self.send(records, true),
            SenderStep::Answer => self.answer(),
            SenderStep::Refuse(code) => {
                if let Some((flight, _)) = self.on_its_way.pop_front() {
                    let verdict = self
                        .lane
                        .handle_failure(flight, ClusterError::new(code, "refused"));
                    self.settle(verdict);
                }
            }
            SenderStep::TooLarge => {
                if let Some((flight, _)) = self.on_its_way.pop_front() {
                    self.too_large(flight);
                }
            }
            SenderStep::StoreAndFail => {
                if let Some((flight, bytes)) = self.on_its_way.pop_front() {
                    let _ = self.model.append(&bytes);
                    let verdict = self
                        .lane
                        .handle_failure(flight, ClusterError::new(ErrorCode::Unknown, "see the log"));
                    self.settle(verdict);
                }
            }
            SenderStep::Break(arrived) => {
                for (at, (flight, bytes)) in std::mem::take(&mut self.on_its_way).into_iter().enumerate() {
                    if at < arrived {
                        let _ = self.model.append(&bytes);
                    } else {
                        self.late.push_back(bytes);
                    }
                    let verdict = self
                        .lane
                        .handle_failure(flight, ClusterError::new(ErrorCode::NetworkException, "broken"));
                    self.settle(verdict);
                }
            }
            SenderStep::Late => {
                if let Some(bytes) = self.late.pop_front() {
                    let _ = self.model.append(&bytes);
                }
            }
            SenderStep::Expire => {
                let oldest = self
                    .lane
                    .in_flight
                    .values()
                    .chain(self.lane.resend_queue.values())
                    .map(|b| b.content.opened)
                    .min();
                if let Some(oldest) = oldest {
                    for settled in self.lane.expire(oldest, Duration::ZERO) {
                        self.settle(BatchVerdict::Settled(Box::new(settled)));
                    }
                }
            }
        }
    }

    /// Sends the next batch to be sent again, or a new batch of this many records.
    fn send(&mut self, records: u32, in_parts: bool) {
        if let NextSend::NeedsIdentity(old) = self.lane.next_send() {
            self.identities += 1;
            let identity = ProducerIdentity {
                id: self.identities,
                epoch: 0,
            };
            assert!(
                self.lane.adopt_identity(identity),
                "an identity other than {old:?} is not taken"
            );
        }
        match self.lane.next_send() {
            NextSend::Resend(size) => {
                let (flight, bytes) = self.lane.resend_next().unwrap();
                assert_eq!(bytes.len(), size);
                self.on_its_way.push_back((flight, bytes));
            }
            NextSend::New if records > 0 => {
                let batch = self.new_batch(if in_parts { records - 1 } else { records });
                let bytes = batch.bytes.clone();
                let flight = self.lane.send_new(batch);
                self.on_its_way.push_back((flight, bytes));
                if in_parts {
                    let rest = self.new_batch(1);
                    self.lane.queue_new(rest);
                }
            }
            _ => {}
        }
    }

    fn new_batch(&mut self, records: u32) -> BatchContent {
        let numbers = self.sent..self.sent + records;
        self.sent = numbers.end;
        self.tickets += 1;
        new_batch(numbers, self.tickets, &self.lane)
    }

    /// Handles a batch that is too large, as the dispatcher does.
    fn too_large(&mut self, flight: SendAttempt) {
        let Some(whole) = self.lane.divisible_batch(flight) else {
            let error = ClusterError::new(ErrorCode::MessageTooLarge, "too large");
            let verdict = self.lane.handle_failure(flight, error);
            return self.settle(verdict);
        };
        let halves = super::super::encode::split_in_half(&whole.content.bytes, Compression::None).unwrap();
        let parts: Vec<_> = halves
            .into_iter()
            .map(|(bytes, records)| BatchContent {
                bytes,
                records,
                ..whole.content.clone()
            })
            .collect();
        self.lane.replace_with_parts(flight, &whole, parts);
    }

    fn answer(&mut self) {
        if let Some((flight, bytes)) = self.on_its_way.pop_front() {
            let verdict = match self.model.append(&bytes) {
                Ok(offset) => self.lane.handle_stored(flight, offset),
                Err(error) => self.lane.handle_failure(flight, error),
            };
            self.settle(verdict);
        }
    }

    fn settle(&mut self, verdict: BatchVerdict) {
        if let BatchVerdict::Settled(settled) = verdict {
            let SettledBatch { content, outcome } = *settled;
            for (number, at) in numbers_of(&content.bytes).into_iter().zip(0..) {
                match &outcome {
                    Ok(offset) => self
                        .acked
                        .push((number, if *offset < 0 { -1 } else { offset + at })),
                    Err(_) => self.failed.push(number),
                }
            }
        }
    }

    /// Runs until everything is answered.
    fn finish(&mut self) {
        for _ in 0..1000 {
            if self.lane.is_empty() {
                return;
            }
            self.send(0, false);
            self.answer();
        }
        panic!("the lane does not get on: {:?}", self.lane);
    }
}

proptest! {
    #[test]
    fn an_acknowledged_batch_is_stored_once_and_in_order(steps in steps()) {
        let mut run = SenderRun::new(true);
        for step in steps {
            run.step(step);
        }
        run.finish();
        let (acked, stored) = (&run.acked, &run.model.stored);
        prop_assert_eq!(acked.len() + run.failed.len(), run.sent as usize, "settled once each");
        for (number, offset) in acked {
            if *offset >= 0 {
                prop_assert_eq!(stored[usize::try_from(*offset).unwrap()], *number, "acknowledged at a wrong offset");
            }
        }
        let acked: std::collections::BTreeSet<u32> = acked.iter().map(|(number, _)| *number).collect();
        let kept: Vec<u32> = stored.iter().filter(|number| acked.contains(number)).copied().collect();
        prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "doubled or out of order: {kept:?}");
        prop_assert_eq!(kept.len(), acked.len(), "an acknowledged batch is missing");
        let mut once = stored.clone();
        once.sort_unstable();
        once.dedup();
        prop_assert_eq!(once.len(), stored.len(), "a batch is stored twice");
    }

    #[test]
    fn without_idempotence_answered_batches_keep_their_order(steps in steps()) {
        let mut run = SenderRun::new(false);
        for step in steps.into_iter().filter(|step| !matches!(step, SenderStep::Late)) {
            run.step(step);
            prop_assert!(run.lane.in_flight() <= 1);
        }
        run.finish();
        let mut once = run.model.batches.clone();
        once.dedup();
        prop_assert!(once.is_sorted(), "out of order: {once:?}");
        prop_assert_eq!(run.acked.len() + run.failed.len(), run.sent as usize);
    }
}

#[test]
fn sequences_wrap_as_kafkas_do() {
    assert_eq!(next_sequence_after(i32::MAX - 1, 1), i32::MAX);
    assert_eq!(next_sequence_after(i32::MAX, 1), 0);
    assert_eq!(next_sequence_after(i32::MAX - 1, 5), 3);
}

#[test]
fn the_last_batch_that_fails_cleanly_leaves_its_sequence_to_the_next() {
    let mut run = SenderRun::new(true);
    run.send(1, false);
    run.answer();
    run.send(1, false);
    run.step(SenderStep::Refuse(ErrorCode::InvalidRecord));
    run.send(1, false);
    run.answer();
    assert_eq!((run.model.stored, run.identities), (vec![0, 2], 1));
}

#[test]
fn a_sequence_that_may_be_stored_is_not_given_to_another_batch() {
    let mut run = SenderRun::new(true);
    run.send(2, false);
    run.step(SenderStep::StoreAndFail);
    run.send(2, false);
    run.answer();
    // Under the first batch's sequence, the cluster would have taken the second for a retry and
    // dropped it.
    assert_eq!(run.model.stored, [0, 1, 2, 3]);
    assert_eq!((run.acked, run.failed), (vec![(2, 2), (3, 3)], vec![0, 1]));
    assert_eq!(run.identities, 2);
}

#[test]
fn parts_of_a_batch_take_its_place_and_its_numbers() {
    let mut run = SenderRun::new(true);
    run.send(3, false);
    run.send(1, false);
    run.step(SenderStep::TooLarge);
    run.answer();
    run.finish();
    assert_eq!(run.model.stored, [0, 1, 2, 3]);
    assert_eq!(run.acked, [(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(run.identities, 1, "no gap, so no new identity");
    // If the batch is stored already, the cluster rejects its parts.
    run.send(2, false);
    run.step(SenderStep::Break(1));
    run.send(0, false);
    run.step(SenderStep::TooLarge);
    run.finish();
    assert_eq!(
        (&*run.model.stored, run.failed),
        (&[0, 1, 2, 3, 4, 5][..], vec![4, 5])
    );
}

#[test]
fn a_ticket_knows_whether_its_batch_may_be_stored() {
    let mut run = SenderRun::new(true);
    let batch = run.new_batch(1);
    let ticket = batch.ticket.clone();
    assert!(!ticket.is_maybe_stored(), "not sent");
    if let NextSend::NeedsIdentity(_) = run.lane.next_send() {
        run.lane.adopt_identity(ProducerIdentity { id: 1, epoch: 0 });
    }
    let flight = run.lane.send_new(batch);
    assert!(ticket.is_maybe_stored(), "on its way");
    let _ = run
        .lane
        .handle_failure(flight, ClusterError::new(ErrorCode::NotLeader, "refused"));
    assert!(!ticket.is_maybe_stored(), "refused");
    let (flight, _) = run.lane.resend_next().unwrap();
    let _ = run
        .lane
        .handle_failure(flight, ClusterError::new(ErrorCode::NetworkException, "broken"));
    let (flight, _) = run.lane.resend_next().unwrap();
    let _ = run
        .lane
        .handle_failure(flight, ClusterError::new(ErrorCode::NotLeader, "refused"));
    assert!(ticket.is_maybe_stored(), "the try before may be stored");
    assert_eq!(ticket.records(), 1);
}

#[test]
fn an_answer_to_an_earlier_try_is_stale() {
    let mut run = SenderRun::new(true);
    run.send(1, false);
    let (first, bytes) = run.on_its_way.pop_front().unwrap();
    run.lane
        .requeue_in_flight(&ClusterError::new(ErrorCode::NotLeader, "moved"));
    run.send(1, false);
    assert!(matches!(
        run.lane
            .handle_failure(first, ClusterError::new(ErrorCode::NotLeader, "late")),
        BatchVerdict::Stale
    ));
    let (second, again) = run.on_its_way.pop_front().unwrap();
    assert_eq!(bytes, again, "a retry is the same bytes");
    assert!(matches!(
        run.lane.handle_stored(second, 7),
        BatchVerdict::Settled(_)
    ));
}
