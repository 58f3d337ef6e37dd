//! Tests of the state machine, rule by rule. The simulation tests their combination.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn new_state() -> ElectionState {
    ElectionState::new("a".to_owned(), ElectionTiming::default())
}

fn lease_held_by(name: &str, version: u32) -> VersionedLease {
    VersionedLease {
        record: LeaseRecord {
            holder: Some(name.to_owned()),
            duration: Some(15 * SECOND),
            acquired_us: 10,
            renewed_us: 20,
            transitions: 3,
        },
        version: version.to_string(),
    }
}

fn written_record(step: ElectionStep) -> LeaseRecord {
    match step {
        ElectionStep::Create(record) | ElectionStep::Update(record, _) => record,
        other => panic!("nothing was written: {other:?}"),
    }
}

/// Returns the state of a leader since `now`, and what it wrote.
fn leading_state(now: Instant) -> (ElectionState, VersionedLease) {
    let mut machine = new_state();
    machine.observe(None, now);
    let record = written_record(machine.next_step(now, 100));
    let stored = VersionedLease {
        record,
        version: "1".to_owned(),
    };
    machine.begin_write();
    machine.finish_write(stored.clone(), now, now);
    (machine, stored)
}

#[test]
fn the_first_step_is_a_look() {
    assert_eq!(new_state().next_step(Instant::now(), 0), ElectionStep::Read);
}

#[test]
fn without_a_lease_one_is_made() {
    let (now, mut machine) = (Instant::now(), new_state());
    machine.observe(None, now);
    let record = written_record(machine.next_step(now, 100));
    assert_eq!((record.holder.as_deref(), record.transitions), (Some("a"), 0));
    assert_eq!((record.acquired_us, record.renewed_us), (100, 100));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    for nobody in [None, Some(String::new())] {
        let (now, mut machine) = (Instant::now(), new_state());
        let mut released = lease_held_by("b", 1);
        released.record.holder = nobody;
        machine.observe(Some(released), now);
        assert_eq!(written_record(machine.next_step(now, 100)).transitions, 4);
    }
}

#[test]
fn a_held_lease_is_taken_only_after_it_was_watched_unchanged_for_its_whole_duration() {
    let (now, mut machine) = (Instant::now(), new_state());
    machine.observe(Some(lease_held_by("b", 1)), now);
    assert_eq!(machine.next_step(now, 0), ElectionStep::Wait);
    // Observed again with the same version: no renewal.
    machine.observe(Some(lease_held_by("b", 1)), now + 14 * SECOND);
    assert_eq!(machine.next_step(now + 14 * SECOND, 0), ElectionStep::Wait);
    assert!(
        matches!(machine.next_step(now + 15 * SECOND, 0), ElectionStep::Update(_, version) if version == "1")
    );
    // A new version restarts the wait.
    machine.observe(Some(lease_held_by("b", 2)), now + 15 * SECOND);
    assert_eq!(machine.next_step(now + 29 * SECOND, 0), ElectionStep::Wait);
    assert!(matches!(
        machine.next_step(now + 30 * SECOND, 0),
        ElectionStep::Update(..)
    ));
}

#[test]
fn the_duration_that_counts_is_the_holders() {
    let (now, mut machine) = (Instant::now(), new_state());
    let mut longer = lease_held_by("b", 1);
    longer.record.duration = Some(60 * SECOND);
    machine.observe(Some(longer), now);
    assert_eq!(machine.next_step(now + 59 * SECOND, 0), ElectionStep::Wait);
    let mut none = lease_held_by("b", 2);
    none.record.duration = None;
    machine.observe(Some(none), now);
    assert_eq!(
        machine.next_step(now + 14 * SECOND, 0),
        ElectionStep::Wait,
        "the replica's own duration if the Lease has none"
    );
}

#[test]
fn a_term_counts_from_before_the_write_was_sent() {
    let (now, mut machine) = (Instant::now(), new_state());
    machine.observe(None, now);
    let record = written_record(machine.next_step(now, 100));
    machine.begin_write();
    let stored = VersionedLease {
        record,
        version: "1".to_owned(),
    };
    machine.finish_write(stored, now, now + 4 * SECOND);
    assert_eq!(machine.term_end(), Some(now + 10 * SECOND));
    assert!(machine.is_leading(now + 9 * SECOND) && !machine.is_leading(now + 10 * SECOND));
}

#[test]
fn a_write_of_unknown_outcome_is_followed_by_a_look_and_keeps_the_term() {
    let now = Instant::now();
    let (mut machine, stored) = leading_state(now);
    machine.begin_write();
    machine.begin_round(now + 4 * SECOND);
    assert_eq!(machine.next_step(now + 4 * SECOND, 0), ElectionStep::Read);
    assert_eq!(machine.term_end(), Some(now + 10 * SECOND), "and is not extended");
    let arrived = VersionedLease {
        version: "2".to_owned(),
        ..stored
    };
    machine.observe(Some(arrived), now + 4 * SECOND);
    assert!(
        matches!(machine.next_step(now + 4 * SECOND, 0), ElectionStep::Update(_, version) if version == "2")
    );
    assert_eq!(
        machine.term_end(),
        Some(now + 10 * SECOND),
        "only an acknowledged write extends it"
    );
}

#[test]
fn another_ones_name_ends_the_term() {
    let now = Instant::now();
    let (mut machine, _) = leading_state(now);
    machine.observe(Some(lease_held_by("b", 2)), now + SECOND);
    assert_eq!(machine.term_end(), None);
    assert_eq!(machine.next_step(now + SECOND, 0), ElectionStep::Wait);
}

#[test]
fn a_deleted_lease_ends_the_term_and_is_made_again_after_the_duration() {
    let now = Instant::now();
    let (mut machine, _) = leading_state(now);
    machine.observe(None, now + SECOND);
    assert_eq!(machine.term_end(), None);
    assert_eq!(machine.next_step(now + 15 * SECOND, 0), ElectionStep::Wait);
    assert!(matches!(
        machine.next_step(now + 16 * SECOND, 0),
        ElectionStep::Create(_)
    ));
}

#[test]
fn each_renewal_is_a_change_even_if_the_clock_was_set_back() {
    let now = Instant::now();
    let (machine, stored) = leading_state(now);
    let record = written_record(machine.next_step(now, 1));
    assert!(record.renewed_us > stored.record.renewed_us);
    assert_eq!(
        (record.acquired_us, record.transitions),
        (100, 0),
        "it is still the same term"
    );
}

#[test]
fn only_the_holder_releases() {
    let now = Instant::now();
    let (mut machine, _) = leading_state(now);
    let (record, version) = machine.release_record(200).unwrap();
    assert_eq!((record.holder, version.as_str()), (None, "1"));
    machine.observe(Some(lease_held_by("b", 2)), now);
    assert_eq!(machine.release_record(200), None);
    let (mut machine, _) = leading_state(now);
    machine.begin_write();
    assert_eq!(
        machine.release_record(200),
        None,
        "it must read first: its last write may have arrived"
    );
}

#[test]
fn after_its_term_it_may_take_its_own_lease_again() {
    let now = Instant::now();
    let (mut machine, stored) = leading_state(now);
    let later = now + 60 * SECOND;
    machine.begin_round(later);
    assert_eq!(machine.term_end(), None);
    assert_eq!(machine.next_step(later, 0), ElectionStep::Read);
    machine.observe(Some(stored), later);
    assert!(
        matches!(machine.next_step(later, 0), ElectionStep::Update(..)),
        "no other replica held it meanwhile, or the version would differ"
    );
}

#[test]
fn what_the_work_may_still_take_ends_before_another_can_take_over() {
    let timing = ElectionTiming::default();
    assert!(timing.renew_deadline + timing.grace_period() < timing.lease_duration);
    assert!(2 * timing.call_timeout() <= timing.renew_deadline);
}
