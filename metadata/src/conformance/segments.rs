//! Rolling and truncating.

use super::fixture::{
    KEEP_EVERYTHING, NO_GRACE, SharedStore, TestLog, check_log, collect_garbage, collect_garbage_step,
    create_topic, leases, object_commit, register_agent, take_lease,
};
use crate::{Error, Lease, LogPosition, NewSegment, SpanLocation, keys::wal_key};

/// Creates a log of five ranges of ten records, each in an object of its own.
async fn log_of_five_ranges(store: &SharedStore) -> TestLog {
    let mut log = TestLog::new(store).await;
    for _ in 0..5 {
        log.append(10).await;
    }
    log
}

fn segment(key: &str, base_offset: i64, end_offset: i64) -> NewSegment {
    NewSegment {
        key: key.to_owned(),
        base_offset,
        end_offset,
        max_timestamp: 1000,
        size_bytes: 150,
    }
}

fn assert_conflict(result: crate::Result<()>) {
    assert!(matches!(result, Err(Error::SegmentConflict(_))), "{result:?}");
}

pub async fn a_segment_replaces_its_ranges(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let intent = store.begin_segment(log.lease, 0).await.unwrap();
    assert_eq!(
        (intent.key.as_str(), intent.inherited),
        ("orders/0/segment_0000000000.dat", false)
    );
    store
        .finish_segment(log.lease, &segment(&intent.key, 0, 20))
        .await
        .unwrap();
    let view = log.read(0).await;
    assert_eq!(
        (
            view.bounds.rolled,
            view.bounds.high_watermark,
            view.bounds.size_bytes
        ),
        (20, 50, 150 + 300)
    );
    assert_eq!(view.spans.len(), 4);
    assert_eq!(
        view.spans[0].place,
        SpanLocation::Segment {
            key: intent.key,
            size_bytes: 150
        }
    );
    assert_eq!(
        (
            view.spans[0].base_offset,
            view.spans[0].end_offset,
            view.spans[0].max_timestamp
        ),
        (0, 20, 1000)
    );
    let next = store.begin_segment(log.lease, 20).await.unwrap();
    assert_eq!(next.key, "orders/0/segment_0000000020.dat");
    store
        .finish_segment(log.lease, &segment(&next.key, 20, 50))
        .await
        .unwrap();
    assert_eq!(log.read(0).await.bounds.rolled, 50);
    check_log(store, log.lease.partition).await;
}

pub async fn a_segment_continues_the_last_and_ends_with_a_range(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    for base_offset in [-1, 5, 10, 50] {
        assert_conflict(store.begin_segment(log.lease, base_offset).await.map(|_| ()));
    }
    let key = store.begin_segment(log.lease, 0).await.unwrap().key;
    for (base_offset, end_offset) in [(0, 15), (0, 0), (0, -10), (0, 60), (10, 20), (-10, 10)] {
        assert_conflict(
            store
                .finish_segment(log.lease, &segment(&key, base_offset, end_offset))
                .await,
        );
    }
    let view = log.read(0).await;
    assert_eq!(
        (view.bounds.rolled, view.spans.len()),
        (0, 5),
        "nothing of it happened"
    );
    store
        .finish_segment(log.lease, &segment(&key, 0, 10))
        .await
        .unwrap();
    assert_conflict(store.begin_segment(log.lease, 0).await.map(|_| ()));
}

pub async fn an_intent_left_behind_is_inherited(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let old = store.begin_segment(log.lease, 0).await.unwrap();
    let new = register_agent(store, "agent-1").await.incarnation;
    let new_leader = take_lease(store, log.lease, new).await.unwrap();
    let inherited = store.begin_segment(new_leader, 0).await.unwrap();
    assert_eq!(
        (inherited.key.as_str(), inherited.inherited),
        (old.key.as_str(), true)
    );
    assert!(matches!(
        store.finish_segment(log.lease, &segment(&old.key, 0, 10)).await,
        Err(Error::Fenced(_))
    ));
    store
        .finish_segment(new_leader, &segment(&old.key, 0, 10))
        .await
        .unwrap();
    assert!(!store.begin_segment(new_leader, 10).await.unwrap().inherited);
    check_log(store, new_leader.partition).await;
}

pub async fn a_segment_needs_its_own_intent(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    assert_conflict(
        store
            .finish_segment(log.lease, &segment("orders/0/segment_0000000000.dat", 0, 10))
            .await,
    );
    store.begin_segment(log.lease, 0).await.unwrap();
    assert_conflict(
        store
            .finish_segment(log.lease, &segment("orders/0/other.dat", 0, 10))
            .await,
    );
    // A new holder without an intent does not finish the segment of another.
    let new = register_agent(store, "agent-1").await.incarnation;
    let new_leader = take_lease(store, log.lease, new).await.unwrap();
    assert_conflict(
        store
            .finish_segment(new_leader, &segment("orders/0/segment_0000000000.dat", 0, 10))
            .await,
    );
}

pub async fn finishing_again_is_harmless(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let key = store.begin_segment(log.lease, 0).await.unwrap().key;
    for _ in 0..3 {
        store
            .finish_segment(log.lease, &segment(&key, 0, 30))
            .await
            .unwrap();
    }
    assert_eq!(log.read(0).await.bounds.rolled, 30);
    assert_conflict(store.finish_segment(log.lease, &segment(&key, 0, 40)).await);
    check_log(store, log.lease.partition).await;
}

/// INV-G1: an object is referenced as long as one of its ranges exists.
pub async fn an_object_is_garbage_with_its_last_range(store: &SharedStore) {
    let incarnation = register_agent(store, "agent-0").await.incarnation;
    let leases = leases(&create_topic(store, "orders", 2).await);
    let batches = [super::fixture::batch(10)];
    let parts: Vec<_> = leases.iter().map(|lease| (*lease, &batches[..])).collect();
    store
        .commit_object(&object_commit(incarnation, 0, &parts))
        .await
        .unwrap();
    TestLog::with_lease(store, leases[0]).roll(10).await;
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    TestLog::with_lease(store, leases[1]).roll(10).await;
    assert_eq!(collect_garbage(store, NO_GRACE).await, [wal_key(incarnation, 0)]);
    let waiting = collect_garbage_step(store, KEEP_EVERYTHING).await;
    assert_eq!((waiting.keys.len(), waiting.waiting), (0, 1));
}

pub async fn the_log_start_moves_forward_and_stays_in_the_log(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    for (asked, in_force) in [
        (5, 5),
        (3, 5),
        (i64::MIN, 5),
        (12, 12),
        (12, 12),
        (50, 50),
        (51, 50),
        (i64::MAX, 50),
    ] {
        assert_eq!(
            store.advance_log_start(log.lease, asked).await.unwrap(),
            in_force,
            "asked for {asked}"
        );
        check_log(store, log.lease.partition).await;
    }
    let bounds = log.read(0).await.bounds;
    assert_eq!(
        (
            bounds.log_start,
            bounds.rolled,
            bounds.high_watermark,
            bounds.size_bytes
        ),
        (50, 50, 50, 0)
    );
    let mut log = log;
    assert_eq!(log.append(3).await, 50, "offsets go on");
    check_log(store, log.lease.partition).await;
    let wrong = Lease {
        epoch: log.lease.epoch + 1,
        ..log.lease
    };
    assert!(matches!(
        store.advance_log_start(wrong, 51).await,
        Err(Error::Fenced(_))
    ));
}

pub async fn what_lies_before_the_log_start_is_queued_for_deletion(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let incarnation = log.lease.incarnation;
    let first = log.roll(10).await;
    log.roll(30).await;
    let rolled: Vec<_> = (0..3).map(|sequence| wal_key(incarnation, sequence)).collect();
    assert_eq!(collect_garbage(store, NO_GRACE).await, rolled);
    store.confirm_deleted(&rolled).await.unwrap();
    // 25 lies within the second segment, so only the first one is deleted.
    store.advance_log_start(log.lease, 25).await.unwrap();
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        std::slice::from_ref(&first)
    );
    store.confirm_deleted(&[first]).await.unwrap();
    assert_eq!(collect_garbage(store, NO_GRACE).await, Vec::<String>::new());
    let view = store
        .read_log(log.lease.partition, LogPosition::Offset(0), 10)
        .await
        .unwrap();
    assert_eq!(
        (
            view.bounds.log_start,
            view.bounds.rolled,
            view.spans[0].base_offset
        ),
        (25, 30, 10)
    );
    store.advance_log_start(log.lease, 41).await.unwrap();
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        [
            wal_key(incarnation, 3),
            "orders/0/segment_0000000010.dat".to_owned()
        ]
    );
    let bounds = log.read(0).await.bounds;
    assert_eq!(
        (bounds.log_start, bounds.rolled, bounds.size_bytes),
        (41, 40, 100)
    );
    check_log(store, log.lease.partition).await;
}

/// INV-G2: an object that a former holder may have uploaded before the log start passed it is
/// deleted.
pub async fn an_intent_behind_the_log_start_is_dropped_and_its_object_deleted(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let key = store.begin_segment(log.lease, 0).await.unwrap().key;
    store.advance_log_start(log.lease, 5).await.unwrap();
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        Vec::<String>::new(),
        "it can still be finished"
    );
    store.advance_log_start(log.lease, 10).await.unwrap();
    assert_conflict(store.finish_segment(log.lease, &segment(&key, 0, 20)).await);
    assert_conflict(store.finish_segment(log.lease, &segment(&key, 10, 20)).await);
    assert_eq!(
        collect_garbage(store, NO_GRACE).await,
        [wal_key(log.lease.incarnation, 0), key]
    );
    assert!(!store.begin_segment(log.lease, 10).await.unwrap().inherited);
}

pub async fn a_range_that_holds_the_log_start_can_still_be_rolled(store: &SharedStore) {
    let log = log_of_five_ranges(store).await;
    let key = store.begin_segment(log.lease, 0).await.unwrap().key;
    store.advance_log_start(log.lease, 7).await.unwrap();
    assert_eq!(log.read(0).await.bounds.rolled, 0);
    store
        .finish_segment(log.lease, &segment(&key, 0, 20))
        .await
        .unwrap();
    let view = log.read(0).await;
    assert_eq!(
        (
            view.bounds.log_start,
            view.bounds.rolled,
            view.spans[0].base_offset
        ),
        (7, 20, 0)
    );
    check_log(store, log.lease.partition).await;
}
