//! Commits of WAL objects: offsets, idempotence, producers.

use streamhouse_core::ErrorCode;

use super::fixture::{
    Log, NO_GRACE, Store, agent, batch, batches, check_log, garbage, leases, object, sequenced, take, topic,
};
use crate::{
    BatchMeta, BatchOutcome, Error, Incarnation, Lease, PartitionOutcome, PartitionUid, Place, ProducerBatch,
    keys::wal_key,
};

/// INV-P2.
pub async fn offsets_follow_each_other_over_objects_and_holders(store: &Store) {
    let mut log = Log::new(store).await;
    let outcome = log.commit(&[batch(3), batch(4)]).await.unwrap();
    let appended = |base_offset| BatchOutcome::Appended { base_offset };
    let expected = PartitionOutcome::Committed {
        batches: vec![appended(0), appended(3)],
        high_watermark: 7,
        log_start: 0,
    };
    assert_eq!(outcome.partitions, [expected]);
    let new = agent(store, "agent-1").await.incarnation;
    let mut heir = Log::of(store, take(store, log.lease, new).await.unwrap());
    assert_eq!(heir.append(5).await, 7);
    assert_eq!(heir.append(1).await, 12);
    let view = heir.read(0).await;
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
        Place::Wal {
            incarnation: log.lease.incarnation,
            sequence: 0,
            position: 0,
            length: 70
        }
    );
    check_log(store, log.lease.partition).await;
}

pub async fn a_fenced_partition_leaves_the_others_alone(store: &Store) {
    let life = agent(store, "agent-0").await.incarnation;
    let leases = leases(&topic(store, "orders", 3).await);
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
    let outcome = store.commit_object(&object(life, 0, &parts)).await.unwrap();
    assert_eq!(batches(&outcome, 0), [BatchOutcome::Appended { base_offset: 0 }]);
    assert_eq!(
        outcome.partitions[1..3],
        [PartitionOutcome::Fenced, PartitionOutcome::Fenced]
    );
    assert_eq!(batches(&outcome, 3), [BatchOutcome::Appended { base_offset: 0 }]);
    let spans = Log::of(store, leases[0]).read(0).await.spans;
    assert_eq!(
        spans[0].place,
        Place::Wal {
            incarnation: life,
            sequence: 0,
            position: 90,
            length: 50
        }
    );
    assert!(Log::of(store, leases[1]).read(0).await.spans.is_empty());
}

pub async fn the_same_object_commits_once(store: &Store) {
    let log = Log::new(store).await;
    let commit = object(
        log.lease.incarnation,
        7,
        &[(log.lease, &[batch(3), sequenced(1, 9, 1)])],
    );
    let first = store.commit_object(&commit).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.commit_object(&commit).await.unwrap(), first);
    }
    assert_eq!(log.read(0).await.bounds.high_watermark, 3);
    // Another sequence is another object, even a lower one.
    let other = object(log.lease.incarnation, 3, &[(log.lease, &[batch(3)])]);
    assert_eq!(
        batches(&store.commit_object(&other).await.unwrap(), 0),
        [BatchOutcome::Appended { base_offset: 3 }]
    );
}

/// Committed objects may be acknowledged after the seal; others may never be committed.
pub async fn an_outcome_can_be_asked_for_after_the_seal(store: &Store) {
    let log = Log::new(store).await;
    let commit = object(log.lease.incarnation, 0, &[(log.lease, &[batch(3)])]);
    let first = store.commit_object(&commit).await.unwrap();
    store.seal(log.lease.incarnation).await.unwrap();
    assert_eq!(store.commit_object(&commit).await.unwrap(), first);
    let late = object(log.lease.incarnation, 1, &[(log.lease, &[batch(3)])]);
    assert!(matches!(store.commit_object(&late).await, Err(Error::Sealed(_))));
}

/// INV-P3.
pub async fn a_producers_retry_is_stored_once_also_after_a_failover(store: &Store) {
    let mut log = Log::new(store).await;
    log.append(10).await;
    log.commit(&[sequenced(1, 0, 3), sequenced(1, 3, 2)])
        .await
        .unwrap();
    let again = log.commit(&[sequenced(1, 0, 3)]).await.unwrap();
    assert_eq!(batches(&again, 0), [BatchOutcome::Duplicate { base_offset: 10 }]);
    let new = agent(store, "agent-1").await.incarnation;
    let mut heir = Log::of(store, take(store, log.lease, new).await.unwrap());
    let outcome = heir
        .commit(&[sequenced(1, 3, 2), sequenced(1, 5, 1), sequenced(1, 0, 3)])
        .await
        .unwrap();
    let expected = [
        BatchOutcome::Duplicate { base_offset: 13 },
        BatchOutcome::Appended { base_offset: 15 },
        BatchOutcome::Duplicate { base_offset: 10 },
    ];
    assert_eq!(batches(&outcome, 0), expected);
    assert_eq!(heir.read(0).await.bounds.high_watermark, 16);
    check_log(store, heir.lease.partition).await;
}

pub async fn a_refused_batch_takes_no_offset_and_splits_the_range(store: &Store) {
    let mut log = Log::new(store).await;
    let outcome = log
        .commit(&[batch(2), batch(0), batch(3), sequenced(1, 5, 4), batch(1)])
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
    assert_eq!(batches(&outcome, 0), expected);
    let places: Vec<_> = log
        .read(0)
        .await
        .spans
        .into_iter()
        .map(|span| (span.base_offset, span.end_offset, span.place))
        .collect();
    let life = log.lease.incarnation;
    let wal = |position, length| Place::Wal {
        incarnation: life,
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

pub async fn a_producers_gap_and_old_epoch_are_refused(store: &Store) {
    let mut log = Log::new(store).await;
    let of_epoch = |epoch, first_sequence| BatchMeta {
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
    assert_eq!(batches(&outcome, 0), expected);
    for first in 1..=6 {
        log.commit(&[of_epoch(2, first)]).await.unwrap();
    }
    let old = log.commit(&[of_epoch(2, 0)]).await.unwrap();
    assert_eq!(batches(&old, 0), [refused(ErrorCode::DuplicateSequenceNumber)]);
    // The producer is unknown to another partition.
    let other = leases(&topic(store, "payments", 1).await)[0];
    let outcome = store
        .commit_object(&object(log.lease.incarnation, 99, &[(other, &[of_epoch(0, 0)])]))
        .await
        .unwrap();
    assert_eq!(batches(&outcome, 0), [BatchOutcome::Appended { base_offset: 0 }]);
}

pub async fn an_object_without_an_accepted_batch_is_garbage(store: &Store) {
    let mut log = Log::new(store).await;
    log.commit(&[sequenced(1, 5, 1)]).await.unwrap();
    let stranger = Lease {
        incarnation: Incarnation(99),
        epoch: 9,
        ..log.lease
    };
    store
        .commit_object(&object(log.lease.incarnation, 1, &[(stranger, &[batch(1)])]))
        .await
        .unwrap();
    store
        .commit_object(&object(log.lease.incarnation, 2, &[]))
        .await
        .unwrap();
    log.sequence = 3;
    log.append(1).await;
    let life = log.lease.incarnation;
    assert_eq!(
        garbage(store, NO_GRACE).await,
        [wal_key(life, 0), wal_key(life, 1), wal_key(life, 2)]
    );
}

pub async fn many_partitions_commit_in_one_object(store: &Store) {
    let life = agent(store, "agent-0").await.incarnation;
    let leases = leases(&topic(store, "orders", 300).await);
    let batches = [sequenced(1, 0, 2), batch(3)];
    let parts: Vec<_> = leases.iter().rev().map(|lease| (*lease, &batches[..])).collect();
    for sequence in 0..2_u64 {
        let outcome = store
            .commit_object(&object(life, sequence, &parts))
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
    let view = Log::of(store, leases[0]).read(0).await;
    // 50 bytes of each of the 299 others precede it.
    assert!(
        matches!(
            view.spans[0].place,
            Place::Wal {
                position: 14_950,
                length: 50,
                ..
            }
        ),
        "{:?}",
        view.spans
    );
}
