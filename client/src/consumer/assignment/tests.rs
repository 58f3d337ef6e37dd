//! The assignment's positions and buffers, for all orders of events.

mod errors;
mod order;
mod recreated_topics;

use streamhouse_core::{
    ErrorCode,
    batch::{BatchBuilder, Compression, stamp},
};

use super::*;
use crate::{consumer::PartitionLag, metrics::MetricsRegistry};

fn held(partitions: i32) -> (AssignmentState, Vec<TopicPartition>) {
    let keys: Vec<_> = (0..partitions)
        .map(|partition| TopicPartition::new("t", partition))
        .collect();
    let mut assignment = AssignmentState::default();
    assignment.add(&keys, &ConsumerMetrics::new(&MetricsRegistry::new(), "g"));
    for wanted in assignment.take_lookups(Instant::now()) {
        assignment.complete_lookup(&wanted, FetchPosition::At(0), None);
    }
    (assignment, keys)
}

fn batch(base: i64, records: i64) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for at in 0..records {
        builder
            .append::<&[u8], &[u8]>(1000 + base + at, None, Some(b"value"), &[])
            .unwrap();
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    stamp(&mut bytes, base, 0);
    let bytes = Bytes::from(bytes);
    (BatchHeader::parse(&bytes).unwrap(), bytes)
}

/// Fetches these batches into partition 0.
fn fetch(assignment: &mut AssignmentState, batches: Vec<(BatchHeader, Bytes)>, end: i64) {
    fetch_at(assignment, Instant::now(), batches, end);
}

fn fetch_at(assignment: &mut AssignmentState, now: Instant, batches: Vec<(BatchHeader, Bytes)>, end: i64) {
    let wanted = assignment.take_fetches(now, usize::MAX).remove(0);
    assignment.add_fetched(&wanted, batches, end, 2000);
}

/// Returns the error of the first partition that has one.
fn error(assignment: &AssignmentState) -> Option<Error> {
    let mut troubles = assignment
        .assigned
        .values()
        .filter_map(|held| held.error_state.as_ref());
    troubles.next().map(|trouble| trouble.error().clone())
}

/// Returns the offsets of one poll of at most `most` records.
fn poll(assignment: &mut AssignmentState, most: usize) -> Vec<i64> {
    let mut records = crate::ConsumerRecords::default();
    while records.len() < most {
        let Some(mut fetched) = assignment.next_ready() else {
            break;
        };
        let decoded = fetched.decode().unwrap();
        let left = most - records.len();
        if let Some(piece) = assignment.consume(fetched, decoded, left, 3000) {
            records.push(piece);
        }
    }
    let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets.len(), records.len());
    offsets
}

#[test]
fn a_batch_is_returned_in_parts_and_positions_follow() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 5), batch(5, 5)], 12);
    assert_eq!(assignment.position(&keys[0]).unwrap(), Some(0));
    assert_eq!(poll(&mut assignment, 3), [0, 1, 2]);
    assert_eq!(poll(&mut assignment, 4), [3, 4, 5, 6]);
    assert_eq!(assignment.position(&keys[0]).unwrap(), Some(7));
    assert_eq!(assignment.uncommitted()[&keys[0]], 7);
    assert_eq!(poll(&mut assignment, 99), [7, 8, 9]);
    assert_eq!(assignment.buffered(), 0);
    assert_eq!(
        assignment.lags(3000)[&keys[0]],
        PartitionLag {
            records: 2,
            seconds: 1.991
        }
    );
    assert_eq!(assignment.stats().records_consumed, 10);
}

#[test]
fn fetching_goes_on_where_the_last_batch_ended_and_in_the_middle_of_one() {
    let (mut assignment, keys) = held(1);
    assignment.seek(&keys[0], FetchPosition::At(3)).unwrap();
    fetch(&mut assignment, vec![batch(0, 5)], 5);
    let next = assignment.take_fetches(Instant::now(), usize::MAX);
    assert_eq!(next[0].position, FetchPosition::At(5));
    assert!(
        assignment.take_fetches(Instant::now(), usize::MAX).is_empty(),
        "it is being fetched already"
    );
    assert_eq!(poll(&mut assignment, 99), [3, 4]);
}

#[test]
fn a_seek_forgets_what_was_fetched_and_what_is_on_its_way() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 5)], 20);
    let under_way = assignment.take_fetches(Instant::now(), usize::MAX).remove(0);
    assignment.seek(&keys[0], FetchPosition::At(10)).unwrap();
    assert_eq!(assignment.buffered(), 0);
    assignment.add_fetched(&under_way, vec![batch(5, 5)], 20, 0);
    assert_eq!(poll(&mut assignment, 99), [0_i64; 0]);
    fetch(&mut assignment, vec![batch(10, 2)], 20);
    assert_eq!(poll(&mut assignment, 99), [10, 11]);
}

#[test]
fn a_partition_given_up_returns_nothing_even_when_it_comes_back() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 5)], 5);
    let mut fetched = assignment.next_ready().unwrap();
    assignment.remove(&keys);
    assignment.add(&keys, &ConsumerMetrics::new(&MetricsRegistry::new(), "g"));
    let decoded = fetched.decode().unwrap();
    assert!(assignment.consume(fetched, decoded, 99, 0).is_none());
    assert_eq!(assignment.buffered(), 0);
    assert_eq!(assignment.position(&keys[0]).unwrap(), None);
}

#[test]
fn paused_partitions_keep_their_records_for_later() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 2)], 2);
    assignment.pause(&keys[0], true).unwrap();
    assert_eq!(poll(&mut assignment, 99), [0_i64; 0]);
    assert!(assignment.take_fetches(Instant::now(), usize::MAX).is_empty());
    assignment.pause(&keys[0], false).unwrap();
    assert_eq!(poll(&mut assignment, 99), [0, 1]);
}

#[test]
fn damage_is_told_until_a_seek() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 2), batch(2, 2)], 4);
    let fetched = assignment.next_ready().unwrap();
    assert_eq!(assignment.handle_damaged(&fetched, "bad".into(), false), None);
    assert!(matches!(
        assignment.take_due_error(Instant::now()),
        Some(Error::Corrupt {
            offset: 0,
            next_offset: 2,
            ..
        })
    ));
    assert_eq!((poll(&mut assignment, 99).len(), assignment.buffered()), (0, 0));
    assignment.seek(&keys[0], FetchPosition::At(2)).unwrap();
    assert_eq!(error(&assignment), None);
}

#[test]
fn what_is_committed_is_not_committed_again() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 2)], 2);
    poll(&mut assignment, 99);
    assignment.mark_committed(&keys[0], 2);
    assert!(assignment.uncommitted().is_empty());
}

#[test]
fn an_unknown_partition_is_refused() {
    let (mut assignment, _) = held(1);
    let other = TopicPartition::new("u", 0);
    assert!(matches!(
        assignment.seek(&other, FetchPosition::At(0)),
        Err(Error::NotAssigned { .. })
    ));
    assert!(matches!(
        assignment.position(&other),
        Err(Error::NotAssigned { .. })
    ));
}

/// After a restart or rebalance, the committed offset is reported even if nothing is read.
#[cfg(feature = "metrics")]
#[test]
fn what_the_group_has_committed_before_is_shown_at_once() {
    let registry = MetricsRegistry::new();
    let mut assignment = AssignmentState::default();
    assignment.add(
        &[TopicPartition::new("t", 0)],
        &ConsumerMetrics::new(&registry, "g"),
    );
    let wanted = assignment.take_lookups(Instant::now()).remove(0);
    assignment.complete_lookup(&wanted, FetchPosition::At(41), Some(41));
    let families = registry.prometheus().gather();
    for name in [
        "streamhouse_consumer_last_committed_offset",
        "streamhouse_consumer_current_offset",
    ] {
        let family = families.iter().find(|family| family.name() == name).unwrap();
        assert_eq!(family.get_metric()[0].get_gauge().get_value(), 41.0, "{name}");
    }
    assert!(assignment.uncommitted().is_empty());
}

/// A consumer that cannot read must not appear to have read everything.
#[cfg(feature = "metrics")]
#[test]
fn a_partition_that_cannot_be_read_shows_a_lag_that_grows() {
    let registry = MetricsRegistry::new();
    let mut assignment = AssignmentState::default();
    let key = TopicPartition::new("t", 0);
    assignment.add(std::slice::from_ref(&key), &ConsumerMetrics::new(&registry, "g"));
    let wanted = assignment.take_lookups(Instant::now()).remove(0);
    assignment.complete_lookup(&wanted, FetchPosition::At(41), Some(41));
    let lag = || {
        let families = registry.prometheus().gather();
        let lag = families
            .iter()
            .find(|family| family.name() == "streamhouse_consumer_lag_records");
        lag.unwrap().get_metric()[0].get_gauge().get_value()
    };
    for end in [50, 60] {
        let wanted = assignment.take_fetches(Instant::now(), usize::MAX).remove(0);
        assignment.update_end(&wanted, end, 2000);
        assignment.retry_after(&wanted, None);
        assert_eq!(lag(), (end - 41) as f64);
    }
    assert_eq!(assignment.position(&key).unwrap(), Some(41));
}

#[test]
fn held_back_partitions_are_looked_up_but_not_fetched_before_their_release() {
    let mut assignment = AssignmentState::default();
    let metrics = ConsumerMetrics::new(&MetricsRegistry::new(), "g");
    let keys = [TopicPartition::new("t", 0)];
    assignment.add_pending_on_assigned(&keys, &metrics);
    for wanted in assignment.take_lookups(Instant::now()) {
        assignment.complete_lookup(&wanted, FetchPosition::At(3), None);
    }
    assert_eq!(assignment.position(&keys[0]), Ok(Some(3)));
    assert!(assignment.take_fetches(Instant::now(), usize::MAX).is_empty());
    assignment.seek(&keys[0], FetchPosition::At(7)).unwrap();
    // The callback was interrupted and is called again: the position it set stays.
    assignment.add_pending_on_assigned(&keys, &metrics);
    assignment.enable_fetching(&keys);
    let fetches = assignment.take_fetches(Instant::now(), usize::MAX);
    assert_eq!(fetches[0].position, FetchPosition::At(7));
}
