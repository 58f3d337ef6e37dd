//! Commits of WAL objects: offsets, idempotence, producers.

use streamhouse_core::ErrorCode;

use super::fixture::{
    NO_GRACE, SharedStore, TestLog, batch, batch_outcomes, check_log, collect_garbage, create_topic, leases,
    object_commit, register_agent, sequenced_batch, take_lease,
};
use crate::{
    BatchMetadata, BatchOutcome, Error, Incarnation, Lease, PartitionOutcome, PartitionUid, ProducerBatch,
    SpanLocation, keys::wal_key,
};

/// INV-P2.
pub async fn offsets_follow_each_other_over_objects_and_holders(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let outcome = log.commit(&[batch(3), batch(4)]).await.unwrap();
    let appended = |base_offset| BatchOutcome::Appended { base_offset };
    let expected = PartitionOutcome::Committed {
        batches: vec![appended(0), appended(3)],
        high_watermark: 7,
        log_start: 0,
    };
    assert_eq!(outcome.partitions, [expected]);
    let new = register_agent(store, "agent-1").await.incarnation;
    let mut new_leader = TestLog::with_lease(store, take_lease(store, log.lease, new).await.unwrap());
    assert_eq!(new_leader.append(5).await, 7);
    assert_eq!(new_leader.append(1).await, 12);
    let view = new_leader.read(0).await;
    assert_eq!(
        (
            view.bounds.log_start,
            view.bounds.rolled,
            view.bounds.high_watermark
        ),
        (0, 0, 13)
    );
    let spans: Vec<_> = view
        .spans
        .iter()
        .map(|span| (span.base_offset, span.end_offset, span.epoch))
        .collect();
    assert_eq!(spans, [(0, 7, 1), (7, 12, 2), (12, 13, 2)]);
    assert_eq!(
        view.spans[0].place,
        SpanLocation::Wal {
            incarnation: log.lease.incarnation,
            sequence: 0,
            position: 0,
            length: 70
        }
    );
    check_log(store, log.lease.partition).await;
}

pub async fn a_fenced_partition_leaves_the_others_alone(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let leases = leases(&create_topic(store, "orders", 3).await);
    let old_epoch = Lease {
        epoch: leases[1].epoch + 1,
        ..leases[1]
    };
    let unknown = Lease {
        partition: PartitionUid(1_000_000),
        ..leases[0]
    };
    let parts = [
        (leases[2], &[batch(2)][..]),
        (old_epoch, &[batch(3)]),
        (unknown, &[batch(4)]),
        (leases[0], &[batch(5)]),
    ];
    let outcome = store
        .commit_object(&object_commit(incarnation, 0, &parts))
        .await
        .unwrap();
    assert_eq!(
        batch_outcomes(&outcome, 0),
        [BatchOutcome::Appended { base_offset: 0 }]
    );
    assert_eq!(
        outcome.partitions[1..3],
        [PartitionOutcome::Fenced, PartitionOutcome::Fenced]
    );
    assert_eq!(
        batch_outcomes(&outcome, 3),
        [BatchOutcome::Appended { base_offset: 0 }]
    );
    let spans = TestLog::with_lease(store, leases[0]).read(0).await.spans;
    assert_eq!(
        spans[0].place,
        SpanLocation::Wal {
            incarnation,
            sequence: 0,
            position: 90,
            length: 50
        }
    );
    assert!(
        TestLog::with_lease(store, leases[1])
            .read(0)
            .await
            .spans
            .is_empty()
    );
}

pub async fn the_same_object_commits_once(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let commit = object_commit(
        log.lease.incarnation,
        7,
        &[(log.lease, &[batch(3), sequenced_batch(1, 9, 1)])],
    );
    let first = store.commit_object(&commit).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.commit_object(&commit).await.unwrap(), first);
    }
    assert_eq!(log.read(0).await.bounds.high_watermark, 3);
    // Another sequence is another object, even a lower one.
    let other = object_commit(log.lease.incarnation, 3, &[(log.lease, &[batch(3)])]);
    assert_eq!(
        batch_outcomes(&store.commit_object(&other).await.unwrap(), 0),
        [BatchOutcome::Appended { base_offset: 3 }]
    );
}

/// Committed objects may be acknowledged after the seal; others may never be committed.
pub async fn an_outcome_can_be_asked_for_after_the_seal(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let commit = object_commit(log.lease.incarnation, 0, &[(log.lease, &[batch(3)])]);
    let first = store.commit_object(&commit).await.unwrap();
    store.seal(log.lease.incarnation).await.unwrap();
    assert_eq!(store.commit_object(&commit).await.unwrap(), first);
    let late = object_commit(log.lease.incarnation, 1, &[(log.lease, &[batch(3)])]);
    assert!(matches!(store.commit_object(&late).await, Err(Error::Sealed(_))));
}

/// INV-P3.
pub async fn a_producers_retry_is_stored_once_also_after_a_failover(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(10).await;
    log.commit(&[sequenced_batch(1, 0, 3), sequenced_batch(1, 3, 2)])
        .await
        .unwrap();
    let again = log.commit(&[sequenced_batch(1, 0, 3)]).await.unwrap();
    assert_eq!(
        batch_outcomes(&again, 0),
        [BatchOutcome::Duplicate { base_offset: 10 }]
    );
    let new = register_agent(store, "agent-1").await.incarnation;
    let mut new_leader = TestLog::with_lease(store, take_lease(store, log.lease, new).await.unwrap());
    let outcome = new_leader
        .commit(&[
            sequenced_batch(1, 3, 2),
            sequenced_batch(1, 5, 1),
            sequenced_batch(1, 0, 3),
        ])
        .await
        .unwrap();
    let expected = [
        BatchOutcome::Duplicate { base_offset: 13 },
        BatchOutcome::Appended { base_offset: 15 },
        BatchOutcome::Duplicate { base_offset: 10 },
    ];
    assert_eq!(batch_outcomes(&outcome, 0), expected);
    assert_eq!(new_leader.read(0).await.bounds.high_watermark, 16);
    check_log(store, new_leader.lease.partition).await;
}

pub async fn a_refused_batch_takes_no_offset_and_splits_the_range(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let outcome = log
        .commit(&[batch(2), batch(0), batch(3), sequenced_batch(1, 5, 4), batch(1)])
        .await
        .unwrap();
    let refused = BatchOutcome::refused;
    let expected = [
        BatchOutcome::Appended { base_offset: 0 },
        refused(ErrorCode::InvalidRecord),
        BatchOutcome::Appended { base_offset: 2 },
        refused(ErrorCode::UnknownProducerId),
        BatchOutcome::Appended { base_offset: 5 },
    ];
    assert_eq!(batch_outcomes(&outcome, 0), expected);
    let places: Vec<_> = log
        .read(0)
        .await
        .spans
        .into_iter()
        .map(|span| (span.base_offset, span.end_offset, span.place))
        .collect();
    let incarnation = log.lease.incarnation;
    let wal = |position, length| SpanLocation::Wal {
        incarnation,
        sequence: 0,
        position,
        length,
    };
    assert_eq!(
        places,
        [(0, 2, wal(0, 20)), (2, 5, wal(20, 30)), (5, 6, wal(90, 10))]
    );
    check_log(store, log.lease.partition).await;
}

pub async fn a_producers_gap_and_old_epoch_are_refused(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let of_epoch = |epoch, first_sequence| BatchMetadata {
        producer: Some(ProducerBatch {
            id: 9,
            epoch,
            first_sequence,
        }),
        ..batch(1)
    };
    log.commit(&[of_epoch(1, 0)]).await.unwrap();
    let outcome = log
        .commit(&[
            of_epoch(1, 5),
            of_epoch(0, 1),
            of_epoch(2, 1),
            of_epoch(2, 0),
            of_epoch(1, 1),
        ])
        .await
        .unwrap();
    let refused = BatchOutcome::refused;
    let expected = [
        refused(ErrorCode::OutOfOrderSequenceNumber),
        refused(ErrorCode::InvalidProducerEpoch),
        refused(ErrorCode::OutOfOrderSequenceNumber),
        BatchOutcome::Appended { base_offset: 1 },
        refused(ErrorCode::InvalidProducerEpoch),
    ];
    assert_eq!(batch_outcomes(&outcome, 0), expected);
    for first in 1..=6 {
        log.commit(&[of_epoch(2, first)]).await.unwrap();
    }
    let old = log.commit(&[of_epoch(2, 0)]).await.unwrap();
    assert_eq!(
        batch_outcomes(&old, 0),
        [refused(ErrorCode::DuplicateSequenceNumber)]
    );
    // The producer is unknown to another partition.
    let other = leases(&create_topic(store, "payments", 1).await)[0];
    let outcome = store
        .commit_object(&object_commit(
            log.lease.incarnation,
            99,
            &[(other, &[of_epoch(0, 0)])],
        ))
        .await
        .unwrap();
    assert_eq!(
        batch_outcomes(&outcome, 0),
        [BatchOutcome::Appended { base_offset: 0 }]
    );
}

pub async fn an_object_without_an_accepted_batch_is_garbage(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.commit(&[sequenced_batch(1, 5, 1)]).await.unwrap();
    let stranger = Lease {
        incarnation: Incarnation(99),
        epoch: 9,
        ..log.lease
    };
    store
        .commit_object(&object_commit(
            log.lease.incarnation,
            1,
            &[(stranger, &[batch(1)])],
        ))
        .await
        .unwrap();
    store
        .commit_object(&object_commit(log.lease.incarnation, 2, &[]))
        .await
        .unwrap();
    log.sequence = 3;
    log.append(1).await;
    let incarnation = log.lease.incarnation;
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        [
            wal_key(incarnation, 0),
            wal_key(incarnation, 1),
            wal_key(incarnation, 2)
        ]
    );
}

pub async fn many_partitions_commit_in_one_object(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let leases = leases(&create_topic(store, "orders", 300).await);
    let batches = [sequenced_batch(1, 0, 2), batch(3)];
    let parts: Vec<_> = leases.iter().rev().map(|lease| (*lease, &batches[..])).collect();
    for sequence in 0..2_u64 {
        let outcome = store
            .commit_object(&object_commit(incarnation, sequence, &parts))
            .await
            .unwrap();
        for (n, part) in outcome.partitions.iter().enumerate() {
            let PartitionOutcome::Committed { high_watermark, .. } = part else {
                panic!("partition {n}: {part:?}")
            };
            assert_eq!(
                *high_watermark,
                if sequence == 0 { 5 } else { 8 },
                "the producer's batch is stored once"
            );
        }
    }
    let view = TestLog::with_lease(store, leases[0]).read(0).await;
    // 50 bytes of each of the 299 others precede it.
    assert!(
        matches!(
            view.spans[0].place,
            SpanLocation::Wal {
                position: 14_950,
                length: 50,
                ..
            }
        ),
        "{:?}",
        view.spans
    );
}
