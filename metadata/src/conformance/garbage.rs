//! Garbage collection: no referenced object is deleted, and no object leaks.

use std::time::Duration;

use streamhouse_core::ErrorCode;

use super::fixture::{
    KEEP_EVERYTHING, NO_GRACE, SharedStore, TestLog, batch, batch_outcomes, collect_garbage,
    collect_garbage_step, create_topic, leases, object_commit, register_agent, sequenced_batch, snapshot,
    take_lease, take_slot_lease,
};
use crate::{
    BatchOutcome, Error, GarbagePolicy, GroupQuery, GroupWrite, Incarnation, Lease, LeaseMove,
    LeaseMoveOutcome, OffsetCommit, OffsetToCommit, keys::wal_key,
};

pub async fn objects_wait_for_their_grace(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(10).await;
    log.append(10).await;
    log.roll(10).await;
    let waiting = store.collect_garbage(&KEEP_EVERYTHING, 10).await.unwrap();
    assert_eq!((waiting.keys.len(), waiting.waiting, waiting.more), (0, 1, false));
    let key = wal_key(log.lease.incarnation, 0);
    for _ in 0..2 {
        let due = store.collect_garbage(&NO_GRACE, 10).await.unwrap();
        assert_eq!(
            (due.keys.as_slice(), due.waiting),
            ([key.clone()].as_slice(), 0),
            "named until confirmed"
        );
    }
    for _ in 0..2 {
        store
            .confirm_deleted(&[key.clone(), "never/heard/of".to_owned()])
            .await
            .unwrap();
    }
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    store.advance_log_start(log.lease, 20).await.unwrap();
    let first = store.collect_garbage(&NO_GRACE, 1).await.unwrap();
    assert_eq!((first.keys.len(), first.more), (1, true));
    assert_eq!(
        collect_garbage(store, NO_GRACE).await.len(),
        2,
        "the segment and the second object"
    );
}

/// INV-G1.
pub async fn an_object_that_a_row_references_is_never_garbage(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(10).await;
    let key = wal_key(log.lease.incarnation, 0);
    store.seal(log.lease.incarnation).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    // Confirming a referenced object is a mistake of the caller; its row must stay.
    store.confirm_deleted(&[key]).await.unwrap();
    assert_eq!(
        store.orphans(log.lease.incarnation, &[0]).await.unwrap(),
        Vec::<u64>::new()
    );
    assert_eq!(log.read(0).await.spans.len(), 1);
}

/// INV-G2.
pub async fn a_deleted_topic_leaves_nothing(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    for _ in 0..3 {
        log.append(10).await;
    }
    let incarnation = log.lease.incarnation;
    let segment = log.roll(10).await;
    let intent = store.begin_segment(log.lease, 10).await.unwrap().key;
    let other = leases(&create_topic(store, "payments", 1).await)[0];
    let shared = object_commit(incarnation, 50, &[(log.lease, &[batch(1)]), (other, &[batch(1)])]);
    store.commit_object(&shared).await.unwrap();
    store.delete_topic("orders").await.unwrap();
    let expected = [
        wal_key(incarnation, 0),
        wal_key(incarnation, 1),
        wal_key(incarnation, 2),
        segment,
        intent,
    ];
    assert_eq!(collect_garbage(store, NO_GRACE).await, expected);
    let again = create_topic(store, "orders", 1).await;
    store.confirm_deleted(&expected[..4]).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, expected[4..]);
    store.confirm_deleted(&expected[4..]).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    assert_ne!(again.partitions[0].uid, log.lease.partition);
    let view = TestLog::with_lease(store, leases(&again)[0]).read(0).await;
    assert_eq!((view.bounds.high_watermark, view.spans.len()), (0, 0));
    // The shared object stays until the other topic releases it too.
    store.delete_topic("payments").await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, [wal_key(incarnation, 50)]);
}

pub async fn a_large_topic_is_purged_in_steps(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let leases = leases(&create_topic(store, "orders", 200).await);
    let batches = [batch(1)];
    let parts: Vec<_> = leases.iter().map(|lease| (*lease, &batches[..])).collect();
    for sequence in 0..6 {
        store
            .commit_object(&object_commit(incarnation, sequence, &parts))
            .await
            .unwrap();
    }
    store.delete_topic("orders").await.unwrap();
    let first = store.collect_garbage(&NO_GRACE, 1000).await.unwrap();
    assert!(first.more, "1200 ranges are more than a step takes");
    assert!(first.keys.len() < 6);
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        (0..6)
            .map(|sequence| wal_key(incarnation, sequence))
            .collect::<Vec<_>>()
    );
    create_topic(store, "orders", 1).await;
}

/// INV-G2: an agent may crash between PUT and commit.
pub async fn orphans_are_sought_below_sealed_lives_only(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let incarnation = log.lease.incarnation;
    log.append(1).await;
    log.append(1).await;
    log.roll(1).await;
    assert!(
        matches!(store.orphans(incarnation, &[0, 1, 2]).await, Err(Error::NotSealed(live)) if live == incarnation)
    );
    assert!(matches!(
        store.mark_swept(incarnation).await,
        Err(Error::NotSealed(_))
    ));
    let stranger = Incarnation(incarnation.0 + 1000);
    assert!(
        matches!(store.orphans(stranger, &[0]).await, Err(Error::NotSealed(_))),
        "it may belong to another cluster"
    );
    store.seal(incarnation).await.unwrap();
    assert_eq!(
        store.orphans(incarnation, &[7, 1, 0, 2, u64::MAX]).await.unwrap(),
        [7, 2, u64::MAX]
    );
    assert_eq!(store.orphans(incarnation, &[]).await.unwrap(), Vec::<u64>::new());
    assert_eq!(snapshot(store).await.unswept[0].0, incarnation);
    for _ in 0..2 {
        store.mark_swept(incarnation).await.unwrap();
    }
    assert!(snapshot(store).await.unswept.is_empty());
}

/// INV-P2: a repeated commit finds its outcome or is refused, never stored twice.
pub async fn a_deleted_object_is_never_committed_again(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let commit = object_commit(log.lease.incarnation, 0, &[(log.lease, &[batch(10)])]);
    store.commit_object(&commit).await.unwrap();
    log.roll(10).await;
    let keys = collect_garbage(store, NO_GRACE).await;
    store.commit_object(&commit).await.unwrap();
    store.confirm_deleted(&keys).await.unwrap();
    let again = async || store.commit_object(&commit).await.unwrap_err();
    assert!(matches!(again().await, Error::OutcomeExpired(_)));
    assert_eq!(log.read(0).await.bounds.high_watermark, 10);
    let next = object_commit(log.lease.incarnation, 1, &[(log.lease, &[batch(10)])]);
    assert_eq!(
        batch_outcomes(&store.commit_object(&next).await.unwrap(), 0),
        [BatchOutcome::Appended { base_offset: 10 }]
    );
    // Also when the incarnation is sealed: an error that claims no side effects would be wrong.
    store.seal(log.lease.incarnation).await.unwrap();
    let forgotten = again().await;
    assert!(matches!(forgotten, Error::OutcomeExpired(_)), "{forgotten}");
    assert!(forgotten.code().is_retryable() && !forgotten.code().has_no_side_effects());
    let never = object_commit(log.lease.incarnation, 2, &[(log.lease, &[batch(10)])]);
    assert!(matches!(store.commit_object(&never).await, Err(Error::Sealed(_))));
}

pub async fn idle_producers_are_forgotten(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.commit(&[sequenced_batch(1, 0, 1)]).await.unwrap();
    collect_garbage(store, KEEP_EVERYTHING).await;
    let known = log.commit(&[sequenced_batch(1, 0, 1)]).await.unwrap();
    assert_eq!(
        batch_outcomes(&known, 0),
        [BatchOutcome::Duplicate { base_offset: 0 }]
    );
    collect_garbage(
        store,
        GarbagePolicy {
            producer_expiry: Duration::ZERO,
            ..KEEP_EVERYTHING
        },
    )
    .await;
    let unknown = log
        .commit(&[sequenced_batch(1, 1, 1), sequenced_batch(1, 0, 1)])
        .await
        .unwrap();
    let expected = [
        BatchOutcome::refused(ErrorCode::UnknownProducerId),
        BatchOutcome::Appended { base_offset: 1 },
    ];
    assert_eq!(batch_outcomes(&unknown, 0), expected);
}

/// INV-C1: the offsets of a group with members stay, whatever their age.
pub async fn offsets_expire_in_groups_without_members_only(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let lease = take_slot_lease(store, 0, log.lease.incarnation).await;
    let group = |group_id: &str, has_members| GroupWrite {
        group_id: group_id.to_owned(),
        slot: 0,
        generation: 1,
        // A group without members may still have to keep something.
        state: Some(vec![1]),
        has_members,
    };
    store.put_group(lease, &group("busy", true)).await.unwrap();
    store.put_group(lease, &group("idle", false)).await.unwrap();
    for (group_id, generation) in [("busy", Some(1)), ("idle", Some(1)), ("alone", None)] {
        let offset = OffsetToCommit {
            partition: log.lease.partition,
            offset: 5,
            leader_epoch: 1,
            metadata: String::new(),
        };
        let commit = OffsetCommit {
            group_id: group_id.to_owned(),
            slot: 0,
            generation,
            offsets: vec![offset],
        };
        store.commit_offsets(lease, &commit).await.unwrap();
    }
    let left = async || {
        let mut left = Vec::new();
        for group_id in ["busy", "idle", "alone"] {
            left.push(store.fetch_offsets(group_id).await.unwrap().len());
        }
        left
    };
    collect_garbage(store, KEEP_EVERYTHING).await;
    assert_eq!(left().await, [1, 1, 1]);
    collect_garbage(
        store,
        GarbagePolicy {
            offsets_retention: Duration::ZERO,
            ..KEEP_EVERYTHING
        },
    )
    .await;
    assert_eq!(left().await, [1, 0, 0]);
    let groups = store.groups(&GroupQuery::All).await.unwrap();
    assert_eq!(
        groups
            .iter()
            .map(|group| group.group_id.as_str())
            .collect::<Vec<_>>(),
        ["busy"]
    );
    let step = collect_garbage_step(store, KEEP_EVERYTHING).await;
    assert!(!step.more);
}

/// Deletes sealed incarnations at once, and keeps everything else.
const DELETE_INCARNATIONS: GarbagePolicy = GarbagePolicy {
    incarnation_retention: Duration::ZERO,
    ..KEEP_EVERYTHING
};
/// Deletes sealed incarnations and unreferenced objects at once.
const DELETE_INCARNATIONS_AND_OBJECTS: GarbagePolicy = GarbagePolicy {
    object_grace: Duration::ZERO,
    ..DELETE_INCARNATIONS
};

/// INV-L1: an incarnation stays sealed even without its row.
pub async fn an_ended_life_is_forgotten_when_nothing_is_left_of_it(store: &SharedStore) {
    let first = register_agent(store, "agent-0").await;
    let incarnation = first.incarnation;
    let held = leases(&create_topic(store, "orders", 2).await);
    let commit = object_commit(incarnation, 0, &[(held[0], &[batch(1)])]);
    store.commit_object(&commit).await.unwrap();
    // Its row exists if its orphans can be queried.
    let known = async || match store.orphans(incarnation, &[0]).await {
        Ok(_) => true,
        Err(Error::NotSealed(_)) => false,
        Err(error) => panic!("{error}"),
    };
    store.seal(incarnation).await.unwrap();
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(known().await, "its orphans are not swept yet");
    store.mark_swept(incarnation).await.unwrap();
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(known().await, "its object exists");
    let successor = register_agent(store, "agent-1").await;
    let second = successor.incarnation;
    let lease = take_free_lease(store, held[0], second).await;
    TestLog::with_lease(store, lease).roll(1).await;
    store.confirm_deleted(&[wal_key(incarnation, 0)]).await.unwrap();
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(known().await, "a partition names it");
    take_free_lease(store, held[1], second).await;
    collect_garbage(store, KEEP_EVERYTHING).await;
    assert!(known().await, "its retention has not passed");
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(known().await, "it is swept a second time");
    assert_eq!(snapshot(store).await.unswept[0].0, incarnation);
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(known().await, "the second sweep is not done");
    store.mark_swept(incarnation).await.unwrap();
    collect_garbage(store, DELETE_INCARNATIONS).await;
    assert!(!known().await);

    assert!(matches!(store.renew(incarnation).await, Err(Error::Sealed(_))));
    for sequence in [0, 1] {
        let late = object_commit(incarnation, sequence, &[(held[0], &[batch(1)])]);
        assert!(matches!(store.commit_object(&late).await, Err(Error::Sealed(_))));
    }
    assert!(matches!(
        store.begin_segment(held[1], 0).await,
        Err(Error::Sealed(_))
    ));
    assert!(take_lease(store, lease, incarnation).await.is_none());
    let again = register_agent(store, "agent-0").await;
    assert_eq!(successor.node_id, first.node_id, "its node id was free");
    assert_ne!(again.node_id, successor.node_id);
    assert!(again.incarnation > second);
    assert_eq!(snapshot(store).await.agents.len(), 2);
    assert_eq!(
        TestLog::with_lease(store, lease)
            .read(0)
            .await
            .bounds
            .high_watermark,
        1
    );
}

/// INV-G2: an upload may arrive long after its intent was dropped.
pub async fn a_segment_whose_intent_was_dropped_is_deleted_again_when_its_writers_life_is_over(
    store: &SharedStore,
) {
    let mut log = TestLog::new(store).await;
    let incarnation = log.lease.incarnation;
    log.append(10).await;
    log.append(10).await;
    let truncated = store.begin_segment(log.lease, 0).await.unwrap().key;
    store.advance_log_start(log.lease, 10).await.unwrap();
    let purged = store.begin_segment(log.lease, 10).await.unwrap().key;
    store.delete_topic("orders").await.unwrap();
    let late = [truncated, purged];
    let (first, second) = (wal_key(incarnation, 0), wal_key(incarnation, 1));
    let expected = [first, second, late[0].clone(), late[1].clone()];
    assert_eq!(collect_garbage(store, NO_GRACE).await, expected);
    store.confirm_deleted(&expected).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    store.seal(incarnation).await.unwrap();
    assert_eq!(
        collect_garbage(store, KEEP_EVERYTHING).await,
        Vec::<String>::new(),
        "it was not sealed long enough ago"
    );
    let again = |why: &'static str| {
        let (store, late) = (store.clone(), late.clone());
        async move {
            assert_eq!(collect_garbage(&store, NO_GRACE).await, late, "{why}");
            store.confirm_deleted(&late).await.unwrap();
            assert_eq!(
                collect_garbage(&store, NO_GRACE).await,
                Vec::<String>::new(),
                "{why}"
            );
        }
    };
    again("it is sealed").await;
    store.mark_swept(incarnation).await.unwrap();
    collect_garbage(store, DELETE_INCARNATIONS).await;
    again("the second sweep").await;
    store.mark_swept(incarnation).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            collect_garbage(store, DELETE_INCARNATIONS_AND_OBJECTS).await,
            Vec::<String>::new()
        );
    }
    assert!(
        matches!(store.orphans(incarnation, &[]).await, Err(Error::NotSealed(_))),
        "its row is deleted"
    );
}

/// INV-G1, INV-G2: the segment of the new holder has the same key.
pub async fn a_segment_that_an_heir_finished_is_deleted_again_only_when_the_log_let_go_of_it(
    store: &SharedStore,
) {
    let mut log = TestLog::new(store).await;
    let incarnation = log.lease.incarnation;
    log.append(10).await;
    log.append(10).await;
    let key = store.begin_segment(log.lease, 0).await.unwrap().key;
    store.seal(incarnation).await.unwrap();
    let new_leader = register_agent(store, "agent-1").await.incarnation;
    let new_leader = TestLog::with_lease(store, take_free_lease(store, log.lease, new_leader).await);
    assert_eq!(store.begin_segment(new_leader.lease, 0).await.unwrap().key, key);
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        Vec::<String>::new(),
        "the new holder is about to upload it"
    );
    assert_eq!(new_leader.roll(10).await, key);
    let wal = wal_key(incarnation, 0);
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        std::slice::from_ref(&wal),
        "the log contains it"
    );
    store.confirm_deleted(&[wal]).await.unwrap();
    // Also when the incarnation's row is deleted long before the log drops the segment.
    new_leader.roll(20).await;
    store.confirm_deleted(&[wal_key(incarnation, 1)]).await.unwrap();
    for _ in 0..2 {
        store.mark_swept(incarnation).await.unwrap();
        assert_eq!(
            collect_garbage(store, DELETE_INCARNATIONS_AND_OBJECTS).await,
            Vec::<String>::new()
        );
    }
    assert!(
        matches!(store.orphans(incarnation, &[]).await, Err(Error::NotSealed(_))),
        "its row is deleted"
    );
    store.advance_log_start(new_leader.lease, 10).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, std::slice::from_ref(&key));
    store.confirm_deleted(&[key]).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
}

/// Moves the lease of a sealed incarnation.
async fn take_free_lease(store: &SharedStore, lease: Lease, to: Incarnation) -> Lease {
    let lease_move = LeaseMove {
        partition: lease.partition,
        from: None,
        epoch: lease.epoch,
        to: Some(to),
    };
    match store.move_leases(&[lease_move]).await.unwrap()[0] {
        LeaseMoveOutcome::Moved { epoch, .. } => Lease {
            incarnation: to,
            epoch,
            ..lease
        },
        LeaseMoveOutcome::Lost => panic!("the lease was lost"),
    }
}
