//! The timeline of a store, divergence, and recovery.

use std::time::Duration;

use super::fixture::{
    KEEP_EVERYTHING, SharedStore, TestLog, batch, collect_garbage, create_topic, leases, object_commit,
    register_agent, registration, snapshot,
};
use crate::{
    Error, GarbagePolicy, Incarnation, Lease, LeaseMove, LeaseMoveOutcome, NewSegment, RecoveryRequest,
    Timeline, keys::wal_key, producers::producer_number,
};

/// Deletes unreferenced objects and sealed incarnations at once.
const NO_RETENTION: GarbagePolicy = GarbagePolicy {
    object_grace: Duration::ZERO,
    incarnation_retention: Duration::ZERO,
    ..KEEP_EVERYTHING
};

fn assert_diverged<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Diverged)), "{result:?}");
}

pub async fn the_timeline_rises_with_each_life_and_when_asked(store: &SharedStore) {
    let fresh = store.cluster_state().await.unwrap();
    assert_eq!(fresh.cluster_id, snapshot(store).await.cluster_id);
    assert_eq!(
        (fresh.timeline, fresh.diverged, fresh.in_use),
        (Timeline::default(), false, false)
    );
    let first = register_agent(store, "agent-0").await;
    assert_eq!(first.timeline.number, 1);
    assert_eq!(first.timeline.incarnation, first.incarnation);
    let again = register_agent(store, "agent-0").await;
    assert_eq!(again.timeline.number, 2);
    let producer_id = producer_number(store.allocate_producer_id().await.unwrap());
    let risen = store.advance_timeline().await.unwrap();
    let expected = Timeline {
        number: 3,
        incarnation: again.incarnation,
        producer_id,
    };
    assert_eq!(risen, expected);
    let state = store.cluster_state().await.unwrap();
    assert_eq!(
        (state.timeline, state.diverged, state.in_use),
        (expected, false, true)
    );
}

pub async fn a_cluster_is_in_use_with_its_first_topic(store: &SharedStore) {
    assert!(!store.cluster_state().await.unwrap().in_use);
    create_topic(store, "orders", 1).await;
    assert!(store.cluster_state().await.unwrap().in_use);
}

pub async fn a_divergence_refuses_new_lives_until_a_recovery(store: &SharedStore) {
    let registered = register_agent(store, "agent-0").await;
    store.report_divergence().await.unwrap();
    store.report_divergence().await.unwrap();
    assert!(store.cluster_state().await.unwrap().diverged);
    assert_diverged(store.advance_timeline().await);
    assert_diverged(
        store
            .register_agent(&registration("agent-1", Duration::from_secs(60)))
            .await,
    );
    store.renew(registered.incarnation).await.unwrap();
    store.seal(registered.incarnation).await.unwrap();
    let recovered = store.recover(&RecoveryRequest::default()).await.unwrap();
    assert_eq!(recovered.timeline.number, 2);
    assert!(!store.cluster_state().await.unwrap().diverged);
    assert_eq!(register_agent(store, "agent-1").await.timeline.number, 3);
}

pub async fn a_recovery_waits_for_no_agent(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let refused = store.recover(&RecoveryRequest::default()).await;
    assert!(
        matches!(&refused, Err(Error::AgentHoldsLease(agent)) if agent == "agent-0"),
        "{refused:?}"
    );
    assert_eq!(
        store.cluster_state().await.unwrap().timeline.number,
        1,
        "nothing happened"
    );
    store.seal(incarnation).await.unwrap();
    store.recover(&RecoveryRequest::default()).await.unwrap();
}

/// INV-B1, INV-K1: no object that another history of the cluster may have written is overwritten,
/// adopted or deleted.
pub async fn a_recovery_goes_on_beyond_what_the_bucket_has(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let begun = store.begin_segment(log.lease, 0).await.unwrap();
    assert_eq!(begun.key, "orders/0/segment_0000000000.dat");
    let incarnation = log.lease.incarnation;
    store.seal(incarnation).await.unwrap();
    let recovery = RecoveryRequest {
        observed: Timeline {
            number: 40,
            incarnation: Incarnation(incarnation.0 + 10),
            producer_id: 5000,
        },
        topic_name_uses: [("orders".to_owned(), 3), ("unheard-of".to_owned(), 1)].into(),
    };
    let before = snapshot(store).await;
    let recovered = store.recover(&recovery).await.unwrap();
    let after = snapshot(store).await;
    assert!(
        after.version > before.version + (1 << 30),
        "agents of the other history"
    );
    let has_users = store.load_security().await.unwrap().version > 0;
    assert_eq!(
        after.security_version > before.security_version + (1 << 30),
        has_users
    );
    assert_eq!(recovered.timeline.number, 41);
    assert_eq!((recovered.intents, recovered.incarnations), (1, 1));
    assert_eq!(
        snapshot(store).await.unswept,
        [],
        "the objects of that incarnation are not swept"
    );
    assert_eq!(collect_garbage(store, NO_RETENTION).await, Vec::<String>::new());
    assert_eq!(snapshot(store).await.unswept, [], "nor later");

    let next = register_agent(store, "agent-1").await;
    assert_eq!(next.incarnation, Incarnation(incarnation.0 + 11));
    assert_eq!(next.timeline.number, 42);
    assert_eq!(producer_number(store.allocate_producer_id().await.unwrap()), 5001);
    let new_leader = take_free_lease(store, &log, next.incarnation).await;
    let intent = store.begin_segment(new_leader, 0).await.unwrap();
    assert_eq!(
        (intent.key.as_str(), intent.inherited),
        ("orders@4/0/segment_0000000000.dat", false)
    );
    let new = create_topic(store, "unheard-of", 1).await;
    let mut fresh = TestLog::with_lease(store, leases(&new)[0]);
    fresh.append(1).await;
    assert_eq!(fresh.roll(1).await, "unheard-of@2/0/segment_0000000000.dat");

    // Repeated without newer numbers in the bucket: numbers never go back.
    store.seal(next.incarnation).await.unwrap();
    let again = store.recover(&RecoveryRequest::default()).await.unwrap();
    assert_eq!(again.timeline.number, 43);
    assert_eq!(
        register_agent(store, "agent-2").await.incarnation,
        Incarnation(incarnation.0 + 12)
    );
    assert_eq!(producer_number(store.allocate_producer_id().await.unwrap()), 5002);
}

/// Gives the free lease of the log's partition to `holder`.
async fn take_free_lease(store: &SharedStore, log: &TestLog, holder: Incarnation) -> Lease {
    let lease_move = LeaseMove {
        partition: log.lease.partition,
        from: None,
        epoch: log.lease.epoch,
        to: Some(holder),
    };
    match store.move_leases(&[lease_move]).await.unwrap()[0] {
        LeaseMoveOutcome::Moved { epoch, .. } => Lease {
            partition: log.lease.partition,
            incarnation: holder,
            epoch,
        },
        LeaseMoveOutcome::Lost => panic!("the move was lost"),
    }
}

pub async fn objects_that_no_row_names_are_told(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    log.append(5).await;
    let rolled = log.roll(5).await;
    let begun = store.begin_segment(log.lease, 5).await.unwrap().key;
    let incarnation = log.lease.incarnation;
    let unknown = [
        wal_key(incarnation, 2),
        wal_key(incarnation, u64::MAX),
        wal_key(Incarnation(incarnation.0 + 1), 0),
        "orders/0/segment_0000000099.dat".to_owned(),
    ];
    let mut asked = vec![
        wal_key(incarnation, 0),
        wal_key(incarnation, 1),
        rolled.clone(),
        begun,
    ];
    asked.extend(unknown.iter().cloned());
    let mut found = store.unknown_objects(&asked).await.unwrap();
    found.sort();
    let mut expected = unknown.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.unknown_objects(&[]).await.unwrap(), Vec::<String>::new());
    store.advance_log_start(log.lease, 5).await.unwrap();
    let waiting = store.unknown_objects(&[rolled]).await.unwrap();
    assert_eq!(waiting, Vec::<String>::new(), "its deletion is queued");
}

/// INV-K1, INV-B1: an object under a key that is already used is left untouched.
pub async fn a_key_that_is_taken_is_left_alone(store: &SharedStore) {
    register_agent(store, "agent-0").await;
    let orders = leases(&create_topic(store, "orders", 2).await);
    let commits = [(orders[0], &[batch(5)][..]), (orders[1], &[batch(5)])];
    store
        .commit_object(&object_commit(orders[0].incarnation, 0, &commits))
        .await
        .unwrap();
    let taken = [
        store.begin_segment(orders[0], 0).await.unwrap().key,
        store.begin_segment(orders[1], 0).await.unwrap().key,
    ];
    let other = store.reassign_segment_key(orders[0], 0, &taken[0]).await.unwrap();
    assert_eq!(
        (other.key.as_str(), other.inherited),
        ("orders@2/0/segment_0000000000.dat", false)
    );
    let again = store.begin_segment(orders[0], 0).await.unwrap();
    assert_eq!((again.key.as_str(), again.inherited), (other.key.as_str(), true));
    // The next partition uses the folder that exists by now.
    let second = store.reassign_segment_key(orders[1], 0, &taken[1]).await.unwrap();
    assert_eq!(second.key, "orders@2/1/segment_0000000000.dat");
    let third = store
        .reassign_segment_key(orders[1], 0, &second.key)
        .await
        .unwrap();
    assert_eq!(third.key, "orders@3/1/segment_0000000000.dat");
    for (lease, key) in [(orders[0], &other.key), (orders[1], &third.key)] {
        let segment = NewSegment {
            key: key.clone(),
            base_offset: 0,
            end_offset: 5,
            max_timestamp: 1000,
            size_bytes: 77,
        };
        store.finish_segment(lease, &segment).await.unwrap();
        store.advance_log_start(lease, 5).await.unwrap();
    }
    store.seal(orders[0].incarnation).await.unwrap();
    store.delete_topic("orders").await.unwrap();
    let garbage = collect_garbage(store, NO_RETENTION).await;
    assert!(
        garbage.contains(&other.key) && garbage.contains(&third.key),
        "{garbage:?}"
    );
    assert!(
        !taken.iter().chain([&second.key]).any(|key| garbage.contains(key)),
        "{garbage:?}"
    );
}

pub async fn only_the_holder_leaves_a_key(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let taken = store.begin_segment(log.lease, 0).await.unwrap().key;
    let stale = Lease {
        epoch: log.lease.epoch - 1,
        ..log.lease
    };
    let refused = store.reassign_segment_key(stale, 0, &taken).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    let refused = store.reassign_segment_key(log.lease, 5, &taken).await;
    assert!(matches!(refused, Err(Error::SegmentConflict(_))), "{refused:?}");
    assert_eq!(store.begin_segment(log.lease, 0).await.unwrap().key, taken);
}
