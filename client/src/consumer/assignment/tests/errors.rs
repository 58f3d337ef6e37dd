//! Errors of partitions, and when `poll` returns them.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn code(assignment: &mut AssignmentState, now: Instant) -> Option<ErrorCode> {
    assignment.take_due_error(now).map(|error| error.code())
}

fn gone() -> Error {
    streamhouse_core::Error::new(ErrorCode::UnknownTopicOrPartition, "gone").into()
}

#[test]
fn an_error_is_told_at_once_and_again_after_a_pause() {
    let (mut assignment, _) = held(2);
    let now = Instant::now();
    assert_eq!(
        (assignment.take_due_error(now), assignment.next_error_at(now)),
        (None, None)
    );
    let wanted = assignment.take_fetches(now, usize::MAX);
    assignment.fail_until_seek(
        &wanted[0],
        Error::NoOffset {
            partition: wanted[0].key.clone(),
        },
    );
    assert_eq!(assignment.next_error_at(now), Some(now));
    assert_eq!(code(&mut assignment, now), Some(ErrorCode::OffsetOutOfRange));
    assert_eq!(code(&mut assignment, now), None, "it is told once");
    assert_eq!(assignment.next_error_at(now), Some(now + SECOND));

    // Another error does not wait for the first one's pause.
    assignment.fail_until_retry(&wanted[1], gone(), now);
    assert_eq!(
        code(&mut assignment, now),
        Some(ErrorCode::UnknownTopicOrPartition)
    );
    let later = now + SECOND;
    assert_eq!(code(&mut assignment, later), Some(ErrorCode::OffsetOutOfRange));
    assert_eq!(code(&mut assignment, later), None, "one after each pause");
    assert_eq!(
        code(&mut assignment, later + SECOND),
        Some(ErrorCode::UnknownTopicOrPartition)
    );
}

#[test]
fn what_fails_is_asked_for_again_and_told_no_more_when_it_works() {
    let (mut assignment, _) = held(1);
    let now = Instant::now();
    for failures in 1..4 {
        let wanted = assignment
            .take_fetches(now + SECOND * failures, usize::MAX)
            .remove(0);
        assert_eq!(assignment.count_failure(&wanted), failures);
        assignment.fail_until_retry(&wanted, gone(), now + SECOND * (failures + 1));
        assert!(
            assignment
                .take_fetches(now + SECOND * failures, usize::MAX)
                .is_empty()
        );
    }
    assert!(assignment.take_due_error(now).is_some());
    fetch_at(&mut assignment, now + SECOND * 9, vec![batch(0, 2)], 2);
    assert_eq!(assignment.next_error_at(now), None);
    let wanted = assignment.take_fetches(now, usize::MAX).remove(0);
    assert_eq!(
        assignment.count_failure(&wanted),
        1,
        "they are counted from the last success on"
    );
}

#[test]
fn a_topic_that_is_gone_is_one_error_of_all_its_partitions() {
    let (mut assignment, _) = held(3);
    let now = Instant::now();
    let wanted = assignment.take_fetches(now, usize::MAX);
    for wanted in &wanted {
        assert_eq!(assignment.missing_for(wanted, now), Duration::ZERO);
        assert_eq!(assignment.missing_for(wanted, now + SECOND), SECOND);
        assignment.fail_until_retry(wanted, gone(), now);
    }
    assert!(assignment.take_due_error(now).is_some());
    assert_eq!(assignment.take_due_error(now), None);
}

#[test]
fn a_damaged_batch_is_passed_over_where_that_is_wanted() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 2), batch(2, 2)], 9);
    let fetched = assignment.next_ready().unwrap();
    let skipped = assignment.handle_damaged(&fetched, "bad".into(), true);
    assert_eq!(skipped, Some(SkippedRange { from: 0, to: 2 }));
    assert_eq!(poll(&mut assignment, 9), [2, 3]);
    assert_eq!(assignment.position(&keys[0]).unwrap(), Some(4));
    assert_eq!((assignment.buffered(), error(&assignment)), (0, None));
    let stats = assignment.stats();
    assert_eq!((stats.batches_skipped, stats.records_skipped), (1, 2));
}

#[test]
fn a_damaged_head_leads_neither_beyond_the_next_batch_nor_beyond_the_end() {
    let lying = |base, claimed: i32| {
        let (mut header, bytes) = batch(base, 2);
        header.last_offset_delta = claimed;
        (header, bytes)
    };
    let (mut assignment, _) = held(1);
    fetch(&mut assignment, vec![lying(0, 5), batch(6, 2)], 8);
    let fetched = assignment.next_ready().unwrap();
    let skipped = assignment.handle_damaged(&fetched, "bad".into(), true);
    assert_eq!(skipped, Some(SkippedRange { from: 0, to: 6 }));
    assert_eq!(poll(&mut assignment, 9), [6, 7]);

    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![lying(0, 1_000_000)], 4);
    let fetched = assignment.next_ready().unwrap();
    let skipped = assignment.handle_damaged(&fetched, "bad".into(), true);
    assert_eq!(skipped, Some(SkippedRange { from: 0, to: 4 }));
    let wanted = assignment.take_fetches(Instant::now(), usize::MAX).remove(0);
    assert_eq!(wanted.position, FetchPosition::At(4));
    assert_eq!(assignment.position(&keys[0]).unwrap(), Some(4));
}

#[test]
fn records_deleted_before_they_were_read_are_left_out_and_those_fetched_before_are_not() {
    let (mut assignment, keys) = held(1);
    fetch(&mut assignment, vec![batch(0, 4)], 20);
    assert_eq!(poll(&mut assignment, 1), [0]);
    let wanted = assignment.take_fetches(Instant::now(), usize::MAX).remove(0);
    assignment.advance_to_log_start(&wanted, 10);
    assert_eq!(assignment.position(&keys[0]).unwrap(), Some(1));
    assert_eq!(poll(&mut assignment, 9), [1, 2, 3]);
    assert_eq!(
        assignment.position(&keys[0]).unwrap(),
        Some(10),
        "whoever waits for the end gets there"
    );
    fetch(&mut assignment, vec![batch(8, 4)], 20);
    assert_eq!(
        poll(&mut assignment, 9),
        [10, 11],
        "nothing before the log's start"
    );
}

#[test]
fn a_reset_in_the_middle_of_a_batch_returns_nothing_twice() {
    let (mut assignment, _) = held(1);
    fetch(&mut assignment, vec![batch(0, 4)], 4);
    assert_eq!(poll(&mut assignment, 2), [0, 1]);
    let wanted = assignment.take_fetches(Instant::now(), usize::MAX).remove(0);
    assignment.reset_position(&wanted, FetchPosition::At(0));
    assert_eq!(assignment.buffered(), 0);
    fetch(&mut assignment, vec![batch(0, 2)], 2);
    assert_eq!(poll(&mut assignment, 9), [0, 1]);
}

#[test]
fn what_waits_for_paused_partitions_makes_room_and_is_fetched_again() {
    let (mut assignment, keys) = held(2);
    let now = Instant::now();
    let wanted = assignment.take_fetches(now, usize::MAX);
    assignment.add_fetched(&wanted[0], vec![batch(0, 4)], 8, 0);
    assignment.add_fetched(&wanted[1], vec![batch(0, 2)], 2, 0);
    assert_eq!(poll(&mut assignment, 1), [0]);
    assignment.pause(&keys[0], true).unwrap();
    let on_its_way = PartitionRequest {
        position: FetchPosition::At(4),
        ..wanted[0].clone()
    };
    let before = assignment.buffered();
    assignment.evict_paused();
    assert!(assignment.buffered() < before);
    assignment.add_fetched(&on_its_way, vec![batch(4, 4)], 8, 0);
    assert_eq!(poll(&mut assignment, 9), [0, 1], "those of the other one");
    assert_eq!(assignment.buffered(), 0);
    assignment.pause(&keys[0], false).unwrap();
    let wanted = assignment.take_fetches(now, usize::MAX).remove(0);
    assert_eq!((&wanted.key, wanted.position), (&keys[0], FetchPosition::At(1)));
    assignment.add_fetched(&wanted, vec![batch(0, 4)], 8, 0);
    assert_eq!(poll(&mut assignment, 9), [1, 2, 3]);
}

#[test]
fn the_ends_of_partitions_that_are_not_fetched_are_asked_for_now_and_then() {
    let (mut assignment, keys) = held(3);
    let now = Instant::now();
    assert!(assignment.take_stale_ends(now, SECOND).is_empty());
    assignment.pause(&keys[0], true).unwrap();
    let wanted = assignment.take_fetches(now, usize::MAX);
    assignment.fail_until_retry(&wanted[0], gone(), now + SECOND);
    let stale = assignment.take_stale_ends(now, SECOND);
    let of: Vec<_> = stale.iter().map(|wanted| wanted.key.clone()).collect();
    assert_eq!(of, keys[..2]);
    assert!(assignment.take_stale_ends(now, SECOND).is_empty());
    assignment.update_end(&stale[0], 12, 0);
    assert_eq!(assignment.lags(0)[&keys[0]].records, 12);
    assert_eq!(assignment.take_stale_ends(now + SECOND, SECOND).len(), 2);
}

#[test]
fn what_was_fetched_before_an_error_is_returned_before_it_is_told() {
    let (mut assignment, _) = held(1);
    let now = Instant::now();
    fetch(&mut assignment, vec![batch(0, 2)], 9);
    let wanted = assignment.take_fetches(now, usize::MAX).remove(0);
    assignment.fail_until_retry(&wanted, gone(), now);
    assert_eq!(
        (assignment.take_due_error(now), assignment.next_error_at(now)),
        (None, None)
    );
    assert_eq!(poll(&mut assignment, 9), [0, 1]);
    assert_eq!(assignment.next_error_at(now), Some(now));
    assert_eq!(assignment.take_due_error(now), Some(gone()));
}
