//! The timeline of a store, divergence, and recovery.

use std::time::Duration;

use super::fixture::{
    KEEP, Log, Store, agent, batch, garbage, leases, object, registration, snapshot, topic,
};
use crate::{
    Error, GarbagePolicy, Incarnation, Lease, LeaseMove, MoveOutcome, NewSegment, Recovery, Timeline,
    keys::wal_key,
};

/// Deletes unreferenced objects and sealed incarnations at once.
const NOTHING_WAITS: GarbagePolicy = GarbagePolicy {
    object_grace: Duration::ZERO,
    lives_retention: Duration::ZERO,
    ..KEEP
};

fn diverged<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Diverged)), "{result:?}");
}

pub async fn the_timeline_rises_with_each_life_and_when_asked(store: &Store) {
    let fresh = store.cluster().await.unwrap();
    assert_eq!(fresh.cluster_id, snapshot(store).await.cluster_id);
    assert_eq!(
        (fresh.timeline, fresh.diverged, fresh.in_use),
        (Timeline::default(), false, false)
    );
    let first = agent(store, "agent-0").await;
    assert_eq!(first.timeline.number, 1);
    assert_eq!(first.timeline.incarnation, first.incarnation);
    let again = agent(store, "agent-0").await;
    assert_eq!(again.timeline.number, 2);
    let producer_id = store.allocate_producer_id().await.unwrap();
    let risen = store.advance_timeline().await.unwrap();
    let expected = Timeline {
        number: 3,
        incarnation: again.incarnation,
        producer_id,
    };
    assert_eq!(risen, expected);
    let state = store.cluster().await.unwrap();
    assert_eq!(
        (state.timeline, state.diverged, state.in_use),
        (expected, false, true)
    );
}

pub async fn a_cluster_is_in_use_with_its_first_topic(store: &Store) {
    assert!(!store.cluster().await.unwrap().in_use);
    topic(store, "orders", 1).await;
    assert!(store.cluster().await.unwrap().in_use);
}

pub async fn a_divergence_refuses_new_lives_until_a_recovery(store: &Store) {
    let life = agent(store, "agent-0").await;
    store.report_divergence().await.unwrap();
    store.report_divergence().await.unwrap();
    assert!(store.cluster().await.unwrap().diverged);
    diverged(store.advance_timeline().await);
    diverged(
        store
            .register_agent(&registration("agent-1", Duration::from_secs(60)))
            .await,
    );
    store.renew(life.incarnation).await.unwrap();
    store.seal(life.incarnation).await.unwrap();
    let recovered = store.recover(&Recovery::default()).await.unwrap();
    assert_eq!(recovered.timeline.number, 2);
    assert!(!store.cluster().await.unwrap().diverged);
    assert_eq!(agent(store, "agent-1").await.timeline.number, 3);
}

pub async fn a_recovery_waits_for_no_agent(store: &Store) {
    let life = agent(store, "agent-0").await.incarnation;
    let refused = store.recover(&Recovery::default()).await;
    assert!(
        matches!(&refused, Err(Error::AgentLives(agent)) if agent == "agent-0"),
        "{refused:?}"
    );
    assert_eq!(
        store.cluster().await.unwrap().timeline.number,
        1,
        "nothing happened"
    );
    store.seal(life).await.unwrap();
    store.recover(&Recovery::default()).await.unwrap();
}

/// INV-B1, INV-K1: no object that another history of the cluster may have written is overwritten,
/// adopted or deleted.
pub async fn a_recovery_goes_on_beyond_what_the_bucket_has(store: &Store) {
    let mut log = Log::new(store).await;
    log.append(5).await;
    let begun = store.begin_segment(log.lease, 0).await.unwrap();
    assert_eq!(begun.key, "orders/0/segment_0000000000.dat");
    let life = log.lease.incarnation;
    store.seal(life).await.unwrap();
    let recovery = Recovery {
        beyond: Timeline {
            number: 40,
            incarnation: Incarnation(life.0 + 10),
            producer_id: 5000,
        },
        names: [("orders".to_owned(), 3), ("unheard-of".to_owned(), 1)].into(),
    };
    let recovered = store.recover(&recovery).await.unwrap();
    assert_eq!(recovered.timeline.number, 41);
    assert_eq!((recovered.intents, recovered.lives), (1, 1));
    assert_eq!(
        snapshot(store).await.unswept,
        [],
        "the objects of that incarnation are not swept"
    );
    assert_eq!(garbage(store, NOTHING_WAITS).await, Vec::<String>::new());
    assert_eq!(snapshot(store).await.unswept, [], "nor later");

    let next = agent(store, "agent-1").await;
    assert_eq!(next.incarnation, Incarnation(life.0 + 11));
    assert_eq!(next.timeline.number, 42);
    assert_eq!(store.allocate_producer_id().await.unwrap(), 5001);
    let heir = taken_up(store, &log, next.incarnation).await;
    let intent = store.begin_segment(heir, 0).await.unwrap();
    assert_eq!(
        (intent.key.as_str(), intent.inherited),
        ("orders@4/0/segment_0000000000.dat", false)
    );
    let new = topic(store, "unheard-of", 1).await;
    let mut fresh = Log::of(store, leases(&new)[0]);
    fresh.append(1).await;
    assert_eq!(fresh.roll(1).await, "unheard-of@2/0/segment_0000000000.dat");

    // Repeated without newer numbers in the bucket: numbers never go back.
    store.seal(next.incarnation).await.unwrap();
    let again = store.recover(&Recovery::default()).await.unwrap();
    assert_eq!(again.timeline.number, 43);
    assert_eq!(
        agent(store, "agent-2").await.incarnation,
        Incarnation(life.0 + 12)
    );
    assert_eq!(store.allocate_producer_id().await.unwrap(), 5002);
}

/// Gives the free lease of the log's partition to `holder`.
async fn taken_up(store: &Store, log: &Log, holder: Incarnation) -> Lease {
    let wish = LeaseMove {
        partition: log.lease.partition,
        from: None,
        epoch: log.lease.epoch,
        to: Some(holder),
    };
    match store.move_leases(&[wish]).await.unwrap()[0] {
        MoveOutcome::Moved { epoch, .. } => Lease {
            partition: log.lease.partition,
            incarnation: holder,
            epoch,
        },
        MoveOutcome::Lost => panic!("the move was lost"),
    }
}

pub async fn objects_that_no_row_names_are_told(store: &Store) {
    let mut log = Log::new(store).await;
    log.append(5).await;
    log.append(5).await;
    let rolled = log.roll(5).await;
    let begun = store.begin_segment(log.lease, 5).await.unwrap().key;
    let life = log.lease.incarnation;
    let unknown = [
        wal_key(life, 2),
        wal_key(life, u64::MAX),
        wal_key(Incarnation(life.0 + 1), 0),
        "orders/0/segment_0000000099.dat".to_owned(),
    ];
    let mut asked = vec![wal_key(life, 0), wal_key(life, 1), rolled.clone(), begun];
    asked.extend(unknown.iter().cloned());
    let mut told = store.unknown_objects(&asked).await.unwrap();
    told.sort();
    let mut expected = unknown.to_vec();
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(store.unknown_objects(&[]).await.unwrap(), Vec::<String>::new());
    store.advance_log_start(log.lease, 5).await.unwrap();
    let waiting = store.unknown_objects(&[rolled]).await.unwrap();
    assert_eq!(waiting, Vec::<String>::new(), "its deletion is queued");
}

/// INV-K1, INV-B1: an object under a key that is already used is left untouched.
pub async fn a_key_that_is_taken_is_left_alone(store: &Store) {
    agent(store, "agent-0").await;
    let orders = leases(&topic(store, "orders", 2).await);
    let commits = [(orders[0], &[batch(5)][..]), (orders[1], &[batch(5)])];
    store
        .commit_object(&object(orders[0].incarnation, 0, &commits))
        .await
        .unwrap();
    let taken = [
        store.begin_segment(orders[0], 0).await.unwrap().key,
        store.begin_segment(orders[1], 0).await.unwrap().key,
    ];
    let other = store.avoid_segment(orders[0], 0, &taken[0]).await.unwrap();
    assert_eq!(
        (other.key.as_str(), other.inherited),
        ("orders@2/0/segment_0000000000.dat", false)
    );
    let again = store.begin_segment(orders[0], 0).await.unwrap();
    assert_eq!((again.key.as_str(), again.inherited), (other.key.as_str(), true));
    // The next partition uses the folder that exists by now.
    let second = store.avoid_segment(orders[1], 0, &taken[1]).await.unwrap();
    assert_eq!(second.key, "orders@2/1/segment_0000000000.dat");
    let third = store.avoid_segment(orders[1], 0, &second.key).await.unwrap();
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
    let garbage = garbage(store, NOTHING_WAITS).await;
    assert!(
        garbage.contains(&other.key) && garbage.contains(&third.key),
        "{garbage:?}"
    );
    assert!(
        !taken.iter().chain([&second.key]).any(|key| garbage.contains(key)),
        "{garbage:?}"
    );
}

pub async fn only_the_holder_leaves_a_key(store: &Store) {
    let mut log = Log::new(store).await;
    log.append(5).await;
    let taken = store.begin_segment(log.lease, 0).await.unwrap().key;
    let stale = Lease {
        epoch: log.lease.epoch - 1,
        ..log.lease
    };
    let refused = store.avoid_segment(stale, 0, &taken).await;
    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
    let refused = store.avoid_segment(log.lease, 5, &taken).await;
    assert!(matches!(refused, Err(Error::SegmentConflict(_))), "{refused:?}");
    assert_eq!(store.begin_segment(log.lease, 0).await.unwrap().key, taken);
}
