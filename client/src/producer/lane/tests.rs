//! The lane against a model of the cluster: whatever is lost, refused or late, an acknowledged batch is stored once and in
//! order, and the lane always gets on.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use proptest::prelude::*;
use streamhouse_core::batch::{BatchHeader, Compression, Records};

use super::super::{encode::Encoder, record::RecordRef};
use super::*;

/// What the cluster knows of the partition.
#[derive(Default)]
struct Model {
    /// Next sequence and the last batches (first sequence, offset), by producer id.
    producers: HashMap<i64, (i32, VecDeque<(i32, i64)>)>,
    /// The numbers of the batches, in the order stored.
    stored: Vec<u32>,
}

impl Model {
    fn append(&mut self, bytes: &Bytes) -> Result<i64, CoreError> {
        let header = BatchHeader::parse(bytes).unwrap();
        streamhouse_core::batch::verify_crc(bytes).unwrap();
        let (next, last) = self.producers.entry(header.producer_id).or_default();
        if let Some((_, offset)) = last
            .iter()
            .find(|(sequence, _)| *sequence == header.base_sequence)
        {
            return Ok(*offset);
        }
        if header.producer_id >= 0 && header.base_sequence != *next {
            return Err(CoreError::new(ErrorCode::OutOfOrderSequenceNumber, "gap"));
        }
        *next += header.record_count;
        let offset = self.stored.len() as i64;
        last.push_back((header.base_sequence, offset));
        if last.len() > MOST_IN_FLIGHT {
            last.pop_front();
        }
        self.stored.push(number_of(bytes));
        Ok(offset)
    }
}

fn number_of(bytes: &Bytes) -> u32 {
    let record = Records::decode(bytes.clone(), 1 << 20)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    u32::from_be_bytes(record.value.unwrap()[..4].try_into().unwrap())
}

fn new_batch(number: u32, lane: &Lane) -> NewBatch {
    let mut encoder = Encoder::new(Compression::None);
    encoder.append(0, &RecordRef::new(&number.to_be_bytes())).unwrap();
    let (identity, sequence) = lane.stamp();
    NewBatch {
        bytes: encoder.seal(identity, sequence).unwrap(),
        records: 1,
        ticket: Ticket::new(number.into(), "t".into(), 0),
        opened: Instant::now(),
        traced: Box::default(),
        reserved: 0,
    }
}

/// What happens next in a run.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send,
    /// The first request on its way arrives and is answered.
    Answer,
    /// It is refused, nothing changed.
    Refuse(ErrorCode),
    /// The connection breaks after so many requests arrived; the rest may still arrive later.
    Break(usize),
    /// A request of a broken connection arrives.
    Late,
    /// The time of the oldest batch is over.
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Send),
        6 => Just(Step::Answer),
        1 => Just(Step::Refuse(ErrorCode::NotLeader)),
        1 => Just(Step::Refuse(ErrorCode::StorageUnavailable)),
        1 => Just(Step::Refuse(ErrorCode::InvalidRecord)),
        1 => (0..5_usize).prop_map(Step::Break),
        1 => Just(Step::Late),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec(step, 0..200)
}

struct Run {
    lane: Lane,
    model: Model,
    on_its_way: VecDeque<(Flight, Bytes)>,
    late: VecDeque<Bytes>,
    sent: u32,
    identities: i64,
    /// Numbers acknowledged, with their offsets, in the order of their numbers.
    acked: Vec<(u32, i64)>,
    failed: Vec<u32>,
}

impl Run {
    fn new(idempotent: bool) -> Self {
        Self {
            lane: Lane::new(idempotent),
            model: Model::default(),
            on_its_way: VecDeque::new(),
            late: VecDeque::new(),
            sent: 0,
            identities: 0,
            acked: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => self.send(true),
            Step::Answer => self.answer(),
            Step::Refuse(code) => {
                if let Some((flight, _)) = self.on_its_way.pop_front() {
                    let verdict = self.lane.failed(flight, CoreError::new(code, "refused"));
                    self.settle(verdict);
                }
            }
            Step::Break(arrived) => {
                for (at, (flight, bytes)) in std::mem::take(&mut self.on_its_way).into_iter().enumerate() {
                    if at < arrived {
                        let _ = self.model.append(&bytes);
                    } else {
                        self.late.push_back(bytes);
                    }
                    let verdict = self
                        .lane
                        .failed(flight, CoreError::new(ErrorCode::NetworkException, "broken"));
                    self.settle(verdict);
                }
            }
            Step::Late => {
                if let Some(bytes) = self.late.pop_front() {
                    let _ = self.model.append(&bytes);
                }
            }
            Step::Expire => {
                let oldest = self
                    .lane
                    .in_flight
                    .values()
                    .chain(self.lane.again.values())
                    .map(|b| b.opened)
                    .min();
                if let Some(oldest) = oldest {
                    for settled in self.lane.expire(oldest, Duration::ZERO) {
                        self.settle(Verdict::Settled(settled));
                    }
                }
            }
        }
    }

    fn send(&mut self, new_ones: bool) {
        if let Next::NeedsIdentity(old) = self.lane.next() {
            self.identities += 1;
            let identity = Identity {
                id: self.identities,
                epoch: 0,
            };
            assert!(
                self.lane.adopt(identity),
                "an identity other than {old:?} is not taken"
            );
        }
        match self.lane.next() {
            Next::Again(size) => {
                let (flight, bytes) = self.lane.send_again().unwrap();
                assert_eq!(bytes.len(), size);
                self.on_its_way.push_back((flight, bytes));
            }
            Next::New if new_ones => {
                let batch = new_batch(self.sent, &self.lane);
                self.sent += 1;
                let bytes = batch.bytes.clone();
                let flight = self.lane.send_new(batch);
                self.on_its_way.push_back((flight, bytes));
            }
            _ => {}
        }
    }

    fn answer(&mut self) {
        if let Some((flight, bytes)) = self.on_its_way.pop_front() {
            let verdict = match self.model.append(&bytes) {
                Ok(offset) => self.lane.stored(flight, offset),
                Err(error) => self.lane.failed(flight, error),
            };
            self.settle(verdict);
        }
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Verdict::Settled(Settled { batch, outcome }) = verdict {
            let number = u32::try_from(batch.ticket.id()).unwrap();
            match outcome {
                Ok(offset) => self.acked.push((number, offset)),
                Err(_) => self.failed.push(number),
            }
        }
    }

    /// Lets everything be answered.
    fn finish(&mut self) {
        for _ in 0..1000 {
            if self.lane.is_empty() {
                return;
            }
            self.send(false);
            self.answer();
        }
        panic!("the lane does not get on: {:?}", self.lane);
    }
}

proptest! {
    #[test]
    fn an_acknowledged_batch_is_stored_once_and_in_order(steps in steps()) {
        let mut run = Run::new(true);
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
        let mut run = Run::new(false);
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Late)) {
            run.step(step);
            prop_assert!(run.lane.in_flight() <= 1);
        }
        run.finish();
        let mut once = run.model.stored.clone();
        once.dedup();
        prop_assert!(once.is_sorted(), "out of order: {once:?}");
        prop_assert_eq!(run.acked.len() + run.failed.len(), run.sent as usize);
    }
}

#[test]
fn sequences_wrap_as_kafkas_do() {
    assert_eq!(after(i32::MAX - 1, 1), i32::MAX);
    assert_eq!(after(i32::MAX, 1), 0);
    assert_eq!(after(i32::MAX - 1, 5), 3);
}

#[test]
fn the_last_batch_that_fails_cleanly_leaves_its_sequence_to_the_next() {
    let mut run = Run::new(true);
    run.send(true);
    run.answer();
    run.send(true);
    run.step(Step::Refuse(ErrorCode::InvalidRecord));
    run.send(true);
    run.answer();
    assert_eq!((run.model.stored, run.identities), (vec![0, 2], 1));
}

#[test]
fn an_answer_to_an_earlier_try_is_stale() {
    let mut run = Run::new(true);
    run.send(true);
    let (first, bytes) = run.on_its_way.pop_front().unwrap();
    run.lane.abandon(&CoreError::new(ErrorCode::NotLeader, "moved"));
    run.send(true);
    assert!(matches!(
        run.lane
            .failed(first, CoreError::new(ErrorCode::NotLeader, "late")),
        Verdict::Stale
    ));
    let (second, again) = run.on_its_way.pop_front().unwrap();
    assert_eq!(bytes, again, "a retry is the same bytes");
    assert!(matches!(run.lane.stored(second, 7), Verdict::Settled(_)));
}
