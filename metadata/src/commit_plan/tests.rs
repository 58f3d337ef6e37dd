//! The invariants of a commit, over random objects: offsets are assigned once and without gaps, the
//! order is kept, and repeated batches are recognized.

use proptest::prelude::*;

use super::*;
use crate::ProducerBatch;

const ME: Incarnation = Incarnation(1);
const P: PartitionUid = PartitionUid(10);
const Q: PartitionUid = PartitionUid(11);

fn row(holder: i64, epoch: i32, high_watermark: i64) -> PartitionRow {
    PartitionRow {
        holder: Some(holder),
        epoch,
        log_start: 0,
        high_watermark,
        deleted: false,
    }
}

fn plain(records: i32) -> BatchMetadata {
    BatchMetadata {
        size_bytes: 100,
        records,
        max_timestamp: i64::from(records),
        producer: None,
    }
}

fn from_producer(id: i64, first_sequence: i32, records: i32) -> BatchMetadata {
    BatchMetadata {
        producer: Some(ProducerBatch {
            id,
            epoch: 0,
            first_sequence,
        }),
        ..plain(records)
    }
}

fn object_commit(partitions: Vec<(PartitionUid, i32, Vec<BatchMetadata>)>) -> ObjectCommit {
    let mut position = 0;
    let mut parts = Vec::new();
    for (partition, epoch, batches) in partitions {
        let length: u64 = batches.iter().map(|batch| u64::from(batch.size_bytes)).sum();
        parts.push(PartitionCommit {
            partition,
            epoch,
            position,
            batches,
        });
        position += length;
    }
    ObjectCommit {
        incarnation: ME,
        sequence: 1,
        size_bytes: position,
        partitions: parts,
    }
}

fn batch_outcomes(outcome: &PartitionOutcome) -> Vec<BatchOutcome> {
    match outcome {
        PartitionOutcome::Committed { batches, .. } => batches.clone(),
        PartitionOutcome::Fenced => panic!("fenced"),
    }
}

#[test]
fn a_fenced_partition_leaves_the_others_alone() {
    let commit = object_commit(vec![(P, 1, vec![plain(3)]), (Q, 2, vec![plain(4)])]);
    for other in [
        row(2, 1, 5),
        row(1, 2, 5),
        PartitionRow {
            holder: None,
            ..row(1, 1, 5)
        },
        PartitionRow {
            deleted: true,
            ..row(1, 1, 5)
        },
    ] {
        let decision = plan_commit(
            &commit,
            HashMap::from([(P, other), (Q, row(1, 2, 7))]),
            ProducerStates::new(),
        );
        assert_eq!(decision.partition_outcomes[0], PartitionOutcome::Fenced);
        assert_eq!(
            batch_outcomes(&decision.partition_outcomes[1]),
            [BatchOutcome::Appended { base_offset: 7 }]
        );
        assert_eq!(
            decision.high_watermarks,
            [HighWatermarkAdvance {
                partition: Q,
                high_watermark: 11,
                added_bytes: 100
            }]
        );
        assert_eq!(decision.ranges.len(), 1);
        assert_eq!(decision.ranges[0].position, 100);
    }
    assert_eq!(
        plan_commit(&commit, HashMap::new(), ProducerStates::new()).partition_outcomes,
        vec![PartitionOutcome::Fenced; 2]
    );
}

#[test]
fn a_refused_batch_splits_the_range_and_takes_no_offset() {
    let commit = object_commit(vec![(
        P,
        1,
        vec![
            plain(2),
            plain(3),
            from_producer(1, 9, 4),
            plain(1),
            plain(0),
            plain(6),
        ],
    )]);
    let decision = plan_commit(
        &commit,
        HashMap::from([(P, row(1, 1, 10))]),
        ProducerStates::new(),
    );
    let spans: Vec<_> = decision
        .ranges
        .iter()
        .map(|r| (r.base_offset, r.end_offset, r.position, r.length, r.max_timestamp))
        .collect();
    assert_eq!(
        spans,
        [(10, 15, 0, 200, 3), (15, 16, 300, 100, 1), (16, 22, 500, 100, 6)]
    );
    assert!(decision.producers.is_empty());
}

#[test]
fn a_duplicate_within_one_object_is_stored_once() {
    let commit = object_commit(vec![(
        P,
        1,
        vec![
            from_producer(1, 0, 4),
            from_producer(1, 0, 4),
            from_producer(1, 4, 1),
        ],
    )]);
    let decision = plan_commit(&commit, HashMap::from([(P, row(1, 1, 0))]), ProducerStates::new());
    assert_eq!(
        batch_outcomes(&decision.partition_outcomes[0]),
        [
            BatchOutcome::Appended { base_offset: 0 },
            BatchOutcome::Duplicate { base_offset: 0 },
            BatchOutcome::Appended { base_offset: 4 }
        ]
    );
}

#[test]
fn offsets_never_run_over_the_end() {
    let commit = object_commit(vec![(P, 1, vec![plain(2), plain(1)])]);
    let decision = plan_commit(
        &commit,
        HashMap::from([(P, row(1, 1, i64::MAX - 1))]),
        ProducerStates::new(),
    );
    assert_eq!(
        batch_outcomes(&decision.partition_outcomes[0]),
        [
            BatchOutcome::refused(ErrorCode::InvalidRecord),
            BatchOutcome::Appended {
                base_offset: i64::MAX - 1
            }
        ]
    );
}

#[test]
fn the_pairs_to_read_are_named_once_and_in_order() {
    let commit = object_commit(vec![
        (
            Q,
            1,
            vec![
                from_producer(2, 0, 1),
                from_producer(1, 0, 1),
                from_producer(2, 1, 1),
            ],
        ),
        (P, 1, vec![plain(1), from_producer(9, 0, 1)]),
    ]);
    assert_eq!(producer_keys(&commit), [(P, 9), (Q, 1), (Q, 2)]);
}

/// A generated batch: its producer, its number of records, and its sequence.
#[derive(Debug, Clone)]
enum GeneratedBatch {
    Plain(i32),
    Next { producer: i64, records: i32 },
    Again { producer: i64, back: usize },
    Gap { producer: i64 },
}

fn generated_batch() -> impl Strategy<Value = GeneratedBatch> {
    prop_oneof![
        (1..5_i32).prop_map(GeneratedBatch::Plain),
        (0..3_i64, 1..5_i32).prop_map(|(producer, records)| GeneratedBatch::Next { producer, records }),
        (0..3_i64, 0..4_usize).prop_map(|(producer, back)| GeneratedBatch::Again { producer, back }),
        (0..3_i64).prop_map(|producer| GeneratedBatch::Gap { producer }),
    ]
}

/// The state of a producer: its next sequence and each batch that it sent with the assigned offset.
#[derive(Debug, Default, Clone)]
struct ProducerModel {
    next: i32,
    stored: Vec<(i32, i32, i64)>,
}

proptest! {
    #[test]
    fn offsets_are_gap_free_and_repeats_give_the_first_offset(objects in prop::collection::vec(prop::collection::vec(generated_batch(), 0..12), 1..8)) {
        let mut high_watermark = 0;
        let mut producers = ProducerStates::new();
        let mut senders: HashMap<i64, ProducerModel> = HashMap::new();
        for sends in objects {
            let mut expected = Vec::new();
            let mut metas = Vec::new();
            let mut offset = high_watermark;
            for send in sends {
                let (meta, outcome) = expected_batch(&mut senders, &send, offset);
                if let BatchOutcome::Appended { .. } = outcome {
                    offset += i64::from(meta.records);
                }
                metas.push(meta);
                expected.push(outcome);
            }
            let commit = object_commit(vec![(P, 1, metas)]);
            let decision = plan_commit(&commit, HashMap::from([(P, row(1, 1, high_watermark))]), producers.clone());
            prop_assert_eq!(batch_outcomes(&decision.partition_outcomes[0]), expected);
            check_ranges(&decision, &commit, high_watermark, offset)?;
            high_watermark = offset;
            for (partition, id, state) in decision.producers {
                prop_assert!(state.batches.len() <= producers::MAX_REMEMBERED_BATCHES);
                producers.insert((partition, id), state);
            }
        }
    }
}

/// Returns the batch that `send` describes and its expected outcome, by a model that shares no code
/// with the decision.
fn expected_batch(
    senders: &mut HashMap<i64, ProducerModel>,
    send: &GeneratedBatch,
    offset: i64,
) -> (BatchMetadata, BatchOutcome) {
    match *send {
        GeneratedBatch::Plain(records) => (plain(records), BatchOutcome::Appended { base_offset: offset }),
        GeneratedBatch::Next { producer, records } => {
            let sender = senders.entry(producer).or_default();
            let meta = from_producer(producer, sender.next, records);
            sender.stored.push((sender.next, records, offset));
            sender.next += records;
            (meta, BatchOutcome::Appended { base_offset: offset })
        }
        GeneratedBatch::Again { producer, back } => {
            match senders.entry(producer).or_default().stored.iter().rev().nth(back) {
                Some(&(first, records, base_offset)) => (
                    from_producer(producer, first, records),
                    BatchOutcome::Duplicate { base_offset },
                ),
                None => (
                    from_producer(producer, 100_000, 1),
                    refused_gap(senders, producer),
                ),
            }
        }
        GeneratedBatch::Gap { producer } => (
            from_producer(producer, 100_000, 1),
            refused_gap(senders, producer),
        ),
    }
}

fn refused_gap(senders: &HashMap<i64, ProducerModel>, producer: i64) -> BatchOutcome {
    let known = senders.get(&producer).is_some_and(|sender| sender.next > 0);
    BatchOutcome::refused(if known {
        ErrorCode::OutOfOrderSequenceNumber
    } else {
        ErrorCode::UnknownProducerId
    })
}

/// Checks that the ranges cover exactly the new offsets, in order, and do not overlap in the
/// object.
fn check_ranges(
    decision: &CommitPlan,
    commit: &ObjectCommit,
    from: i64,
    to: i64,
) -> Result<(), TestCaseError> {
    let mut offset = from;
    let mut position = 0;
    for range in &decision.ranges {
        prop_assert_eq!(range.base_offset, offset);
        prop_assert!(range.end_offset > range.base_offset && range.length > 0);
        prop_assert!(range.position >= position);
        offset = range.end_offset;
        position = range.position + range.length;
    }
    prop_assert_eq!(offset, to);
    prop_assert!(position <= i64::try_from(commit.size_bytes).unwrap());
    let added: i64 = decision.ranges.iter().map(|range| range.length).sum();
    let expected: Vec<_> = (to > from)
        .then_some(HighWatermarkAdvance {
            partition: P,
            high_watermark: to,
            added_bytes: added,
        })
        .into_iter()
        .collect();
    prop_assert_eq!(&decision.high_watermarks, &expected);
    Ok(())
}
