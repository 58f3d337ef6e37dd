//! Tests of the state machine, rule by rule. The simulation tests their combination.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn machine() -> Machine {
    Machine::new("a".to_owned(), Timing::default())
}

fn held_by(name: &str, version: u32) -> Stored {
    Stored {
        record: Record {
            holder: Some(name.to_owned()),
            duration: Some(15 * SECOND),
            acquired_us: 10,
            renewed_us: 20,
            transitions: 3,
        },
        version: version.to_string(),
    }
}

fn written(step: Step) -> Record {
    match step {
        Step::Create(record) | Step::Update(record, _) => record,
        other => panic!("nothing was written: {other:?}"),
    }
}

/// Returns the state of a leader since `now`, and what it wrote.
fn leader(now: Instant) -> (Machine, Stored) {
    let mut machine = machine();
    machine.looked(None, now);
    let record = written(machine.next(now, 100));
    let stored = Stored {
        record,
        version: "1".to_owned(),
    };
    machine.writes();
    machine.wrote(stored.clone(), now, now);
    (machine, stored)
}

#[test]
fn the_first_step_is_a_look() {
    assert_eq!(machine().next(Instant::now(), 0), Step::Look);
}

#[test]
fn without_a_lease_one_is_made() {
    let (now, mut machine) = (Instant::now(), machine());
    machine.looked(None, now);
    let record = written(machine.next(now, 100));
    assert_eq!((record.holder.as_deref(), record.transitions), (Some("a"), 0));
    assert_eq!((record.acquired_us, record.renewed_us), (100, 100));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    for nobody in [None, Some(String::new())] {
        let (now, mut machine) = (Instant::now(), machine());
        let mut released = held_by("b", 1);
        released.record.holder = nobody;
        machine.looked(Some(released), now);
        assert_eq!(written(machine.next(now, 100)).transitions, 4);
    }
}

#[test]
fn a_held_lease_is_taken_only_after_it_was_watched_unchanged_for_its_whole_duration() {
    let (now, mut machine) = (Instant::now(), machine());
    machine.looked(Some(held_by("b", 1)), now);
    assert_eq!(machine.next(now, 0), Step::Wait);
    // Observed again with the same version: no renewal.
    machine.looked(Some(held_by("b", 1)), now + 14 * SECOND);
    assert_eq!(machine.next(now + 14 * SECOND, 0), Step::Wait);
    assert!(matches!(machine.next(now + 15 * SECOND, 0), Step::Update(_, version) if version == "1"));
    // A new version restarts the wait.
    machine.looked(Some(held_by("b", 2)), now + 15 * SECOND);
    assert_eq!(machine.next(now + 29 * SECOND, 0), Step::Wait);
    assert!(matches!(machine.next(now + 30 * SECOND, 0), Step::Update(..)));
}

#[test]
fn the_duration_that_counts_is_the_holders() {
    let (now, mut machine) = (Instant::now(), machine());
    let mut longer = held_by("b", 1);
    longer.record.duration = Some(60 * SECOND);
    machine.looked(Some(longer), now);
    assert_eq!(machine.next(now + 59 * SECOND, 0), Step::Wait);
    let mut none = held_by("b", 2);
    none.record.duration = None;
    machine.looked(Some(none), now);
    assert_eq!(
        machine.next(now + 14 * SECOND, 0),
        Step::Wait,
        "the replica's own duration if the Lease has none"
    );
}

#[test]
fn a_term_counts_from_before_the_write_was_sent() {
    let (now, mut machine) = (Instant::now(), machine());
    machine.looked(None, now);
    let record = written(machine.next(now, 100));
    machine.writes();
    let stored = Stored {
        record,
        version: "1".to_owned(),
    };
    machine.wrote(stored, now, now + 4 * SECOND);
    assert_eq!(machine.until(), Some(now + 10 * SECOND));
    assert!(machine.leads(now + 9 * SECOND) && !machine.leads(now + 10 * SECOND));
}

#[test]
fn a_write_of_unknown_outcome_is_followed_by_a_look_and_keeps_the_term() {
    let now = Instant::now();
    let (mut machine, stored) = leader(now);
    machine.writes();
    machine.begin_round(now + 4 * SECOND);
    assert_eq!(machine.next(now + 4 * SECOND, 0), Step::Look);
    assert_eq!(machine.until(), Some(now + 10 * SECOND), "and is not extended");
    let arrived = Stored {
        version: "2".to_owned(),
        ..stored
    };
    machine.looked(Some(arrived), now + 4 * SECOND);
    assert!(matches!(machine.next(now + 4 * SECOND, 0), Step::Update(_, version) if version == "2"));
    assert_eq!(
        machine.until(),
        Some(now + 10 * SECOND),
        "only an acknowledged write extends it"
    );
}

#[test]
fn another_ones_name_ends_the_term() {
    let now = Instant::now();
    let (mut machine, _) = leader(now);
    machine.looked(Some(held_by("b", 2)), now + SECOND);
    assert_eq!(machine.until(), None);
    assert_eq!(machine.next(now + SECOND, 0), Step::Wait);
}

#[test]
fn a_deleted_lease_ends_the_term_and_is_made_again_after_the_duration() {
    let now = Instant::now();
    let (mut machine, _) = leader(now);
    machine.looked(None, now + SECOND);
    assert_eq!(machine.until(), None);
    assert_eq!(machine.next(now + 15 * SECOND, 0), Step::Wait);
    assert!(matches!(machine.next(now + 16 * SECOND, 0), Step::Create(_)));
}

#[test]
fn each_renewal_is_a_change_even_if_the_clock_was_set_back() {
    let now = Instant::now();
    let (machine, stored) = leader(now);
    let record = written(machine.next(now, 1));
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
    let (mut machine, _) = leader(now);
    let (record, version) = machine.release(200).unwrap();
    assert_eq!((record.holder, version.as_str()), (None, "1"));
    machine.looked(Some(held_by("b", 2)), now);
    assert_eq!(machine.release(200), None);
    let (mut machine, _) = leader(now);
    machine.writes();
    assert_eq!(
        machine.release(200),
        None,
        "it must read first: its last write may have arrived"
    );
}

#[test]
fn after_its_term_it_may_take_its_own_lease_again() {
    let now = Instant::now();
    let (mut machine, stored) = leader(now);
    let later = now + 60 * SECOND;
    machine.begin_round(later);
    assert_eq!(machine.until(), None);
    assert_eq!(machine.next(later, 0), Step::Look);
    machine.looked(Some(stored), later);
    assert!(
        matches!(machine.next(later, 0), Step::Update(..)),
        "no other replica held it meanwhile, or the version would differ"
    );
}

#[test]
fn what_the_work_may_still_take_ends_before_another_can_take_over() {
    let timing = Timing::default();
    assert!(timing.renew_deadline + timing.grace() < timing.duration);
    assert!(2 * timing.call() <= timing.renew_deadline);
}
