//! Reads of the log.

use super::fixture::{SharedStore, TestLog, check_log, create_topic, sequenced_batch};
use crate::{Error, LogPosition, LogView, PartitionUid, SpanLocation};

async fn read(log: &TestLog, from: LogPosition, limit: usize) -> LogView {
    log.store
        .read_log(log.lease.partition, from, limit)
        .await
        .unwrap()
}

fn end_offsets(view: &LogView) -> Vec<i64> {
    view.spans.iter().map(|span| span.end_offset).collect()
}

/// Creates two segments (0..10, 10..20) and three ranges (20..25, 25..30, 30..35), with rising
/// times.
async fn log_with_segments_and_ranges(store: &SharedStore) -> TestLog {
    let mut log = TestLog::new(store).await;
    for n in 0..7 {
        log.append_at(5, n * 100).await;
        if n == 1 || n == 3 {
            let end = (n + 1) * 5;
            let intent = store.begin_segment(log.lease, end - 10).await.unwrap();
            let segment = crate::NewSegment {
                key: intent.key,
                base_offset: end - 10,
                end_offset: end,
                max_timestamp: n * 100,
                size_bytes: 60,
            };
            store.finish_segment(log.lease, &segment).await.unwrap();
        }
    }
    check_log(store, log.lease.partition).await;
    log
}

pub async fn a_read_begins_with_the_span_that_holds_the_offset(store: &SharedStore) {
    let log = log_with_segments_and_ranges(store).await;
    for (from, expected) in [
        (0, vec![10, 20, 25, 30, 35]),
        (9, vec![10, 20, 25, 30, 35]),
        (10, vec![20, 25, 30, 35]),
        (20, vec![25, 30, 35]),
        (24, vec![25, 30, 35]),
        (34, vec![35]),
    ] {
        let view = read(&log, LogPosition::Offset(from), 100).await;
        assert_eq!(end_offsets(&view), expected, "from {from}");
        assert_eq!((view.bounds.rolled, view.bounds.high_watermark), (20, 35));
    }
    assert_eq!(
        end_offsets(&read(&log, LogPosition::Offset(12), 2).await),
        [20, 25]
    );
    assert_eq!(
        end_offsets(&read(&log, LogPosition::Offset(12), 0).await),
        Vec::<i64>::new()
    );
    let view = read(&log, LogPosition::Offset(12), 1).await;
    let key = "orders/0/segment_0000000010.dat".to_owned();
    assert_eq!(view.spans[0].place, SpanLocation::Segment { key, size_bytes: 60 });
}

pub async fn a_read_by_time_begins_with_the_first_span_that_reaches_it(store: &SharedStore) {
    let log = log_with_segments_and_ranges(store).await;
    for (time, first) in [
        (-5, 0),
        (0, 0),
        (100, 0),
        (101, 10),
        (300, 10),
        (301, 20),
        (400, 20),
        (401, 25),
        (600, 30),
    ] {
        let view = read(&log, LogPosition::Timestamp(time), 100).await;
        assert_eq!(view.spans[0].base_offset, first, "at {time}");
        assert_eq!(view.spans.last().unwrap().end_offset, 35);
    }
    assert!(
        read(&log, LogPosition::Timestamp(601), 100)
            .await
            .spans
            .is_empty()
    );
    // Deleted records are not found, although their time matches.
    store.advance_log_start(log.lease, 27).await.unwrap();
    assert_eq!(
        read(&log, LogPosition::Timestamp(0), 100).await.spans[0].base_offset,
        25
    );
}

pub async fn a_read_by_the_greatest_time_begins_with_the_first_span_that_has_it(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    for time in [100, 300, 200, 300, 50] {
        log.append_at(10, time).await;
    }
    for (after, first) in [(-1, 10), (0, 10), (19, 10), (20, 30), (40, 40)] {
        let view = read(&log, LogPosition::GreatestTimestamp(after), 1).await;
        assert_eq!(view.spans[0].base_offset, first, "after {after}");
    }
    let past = read(&log, LogPosition::GreatestTimestamp(50), 1).await;
    assert_eq!(past.spans, []);
    log.roll(20).await; // its greatest time is 1000
    let first = async |log: &TestLog| {
        let view = read(log, LogPosition::GreatestTimestamp(0), 100).await;
        (view.spans[0].base_offset, view.spans.len())
    };
    assert_eq!(first(&log).await, (0, 4));
    store.advance_log_start(log.lease, 20).await.unwrap();
    assert_eq!(first(&log).await, (30, 2));
}

pub async fn producers_are_listed_with_their_last_sequence(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let uid = log.lease.partition;
    assert_eq!(store.active_producers(uid, 10).await.unwrap(), []);
    log.commit(&[
        sequenced_batch(3, 0, 2),
        sequenced_batch(7, 0, 1),
        sequenced_batch(3, 2, 4),
    ])
    .await
    .unwrap();
    let listed = store.active_producers(uid, 10).await.unwrap();
    let known: Vec<_> = listed
        .iter()
        .map(|producer| (producer.producer_id, producer.epoch, producer.last_sequence))
        .collect();
    assert_eq!(known, [(7, 0, 0), (3, 0, 5)]);
    assert!(
        listed
            .iter()
            .all(|producer| producer.last_used_ms > 1_600_000_000_000)
    );
    assert_eq!(store.active_producers(uid, 1).await.unwrap(), listed[..1]);
    store.delete_topic("orders").await.unwrap();
    assert_eq!(store.active_producers(uid, 10).await.unwrap(), []);
}

pub async fn a_read_outside_the_log_is_empty_or_begins_at_its_start(store: &SharedStore) {
    let log = log_with_segments_and_ranges(store).await;
    for from in [35, 36, i64::MAX] {
        let view = read(&log, LogPosition::Offset(from), 100).await;
        assert!(view.spans.is_empty() && view.bounds.high_watermark == 35);
    }
    store.advance_log_start(log.lease, 15).await.unwrap();
    for from in [i64::MIN, -1, 0, 14] {
        let view = read(&log, LogPosition::Offset(from), 100).await;
        assert_eq!(
            (view.bounds.log_start, end_offsets(&view)),
            (15, vec![20, 25, 30, 35]),
            "from {from}"
        );
    }
    let empty = TestLog {
        lease: crate::Lease {
            partition: create_topic(store, "empty", 1).await.partitions[0].uid,
            ..log.lease
        },
        ..log
    };
    assert_eq!(read(&empty, LogPosition::Offset(0), 100).await.spans, []);
    assert_eq!(read(&empty, LogPosition::Timestamp(0), 100).await.spans, []);
    let unknown = PartitionUid(1_000_000);
    let read = store.read_log(unknown, LogPosition::Offset(0), 1).await;
    assert!(matches!(read, Err(Error::UnknownPartition(uid)) if uid == unknown));
}

pub async fn bounds_leave_out_what_is_gone(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(4).await;
    let gone = create_topic(store, "payments", 1).await.partitions[0].uid;
    let other = create_topic(store, "shipments", 1).await.partitions[0].uid;
    store.delete_topic("payments").await.unwrap();
    let bounds = store
        .bounds(&[other, gone, PartitionUid(1_000_000), log.lease.partition])
        .await
        .unwrap();
    assert_eq!(
        bounds.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(),
        [other, log.lease.partition]
    );
    assert_eq!(bounds[0].1, crate::LogBounds::default());
    assert_eq!((bounds[1].1.high_watermark, bounds[1].1.size_bytes), (4, 40));
    assert_eq!(store.bounds(&[]).await.unwrap(), []);
}

pub async fn producer_ids_are_never_given_twice(store: &SharedStore) {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(store.allocate_producer_id().await.unwrap());
    }
    assert!(
        ids.iter().all(|&id| id >= 0) && ids.is_sorted_by(|a, b| a < b),
        "{ids:?}"
    );
}

/// Retention uses the time of storage, whatever the timestamps of the records.
pub async fn a_span_tells_when_it_was_stored(store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    let before = log.read(0).await.now_ms;
    for timestamp in [-1, 0, i64::MAX] {
        log.append_at(5, timestamp).await;
    }
    log.roll(5).await;
    let view = log.read(0).await;
    let times: Vec<i64> = view.spans.iter().map(|span| span.stored_at_ms).collect();
    assert_eq!(times.len(), 3);
    // Transactions begin slightly before the clock is read, and milliseconds are rounded.
    assert!(
        times
            .iter()
            .all(|time| (before - 1..=view.now_ms + 1).contains(time)),
        "{before} {times:?} {}",
        view.now_ms
    );
}

pub async fn the_time_is_told(store: &SharedStore) {
    let log = TestLog::new(store).await;
    let first = log.read(0).await.now_ms;
    assert!(first > 1_600_000_000_000, "{first}");
    let record = super::fixture::snapshot(store).await.topics;
    assert!(record.iter().all(|topic| topic.created_at_ms <= first));
    assert!(log.read(0).await.now_ms >= first);
}
