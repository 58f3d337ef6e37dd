//! Single scenarios of a member.

mod model;

use streamhouse_core::{Error as ClusterError, ErrorCode};

use super::*;

fn at(now: Instant, seconds: u64) -> Instant {
    now + Duration::from_secs(seconds)
}

fn of(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn refused(code: ErrorCode) -> Error {
    ClusterError::new(code, "the test says so").into()
}

fn machine(cooperative: bool, is_static: bool, now: Instant) -> MemberStateMachine {
    let rules = MemberConfig {
        cooperative,
        is_static,
        heartbeat: Duration::from_secs(3),
        max_poll_interval: Duration::from_secs(300),
        leave_timeout: Duration::from_secs(5),
    };
    let mut machine = MemberStateMachine::new(rules, now);
    machine.subscribe(vec!["t".into()]);
    machine
}

/// Joins generation `generation` and completes the assignment of these partitions.
fn join(machine: &mut MemberStateMachine, generation: i32, partitions: &[i32], now: Instant) {
    machine.start_poll(now);
    let serial = machine.orders(now).join.expect("no join").serial;
    let identity = MemberIdentity {
        member_id: "m".into(),
        generation,
    };
    machine.handle_join_response(serial, identity, now);
    let share = partitions.iter().copied().map(of).collect();
    machine.handle_assignment(serial, share, machine.rules.cooperative);
    while let Some(RebalanceAction::Assign(keys)) = machine.next_action() {
        machine.complete_assign(&keys);
    }
    machine.end_poll(now);
}

fn beat(machine: &mut MemberStateMachine, now: Instant, outcome: Result<(), Error>) {
    let sent = machine.orders(now).beat.expect("no heartbeat");
    machine.handle_heartbeat_result(&sent, outcome, now);
}

#[test]
fn a_member_that_works_for_long_beats_on_through_a_rebalance_of_an_eager_group() {
    let now = Instant::now();
    let mut machine = machine(false, false, now);
    join(&mut machine, 1, &[0, 1], now);
    beat(
        &mut machine,
        at(now, 3),
        Err(refused(ErrorCode::RebalanceInProgress)),
    );
    // The next poll revokes its partitions. Until then it must not join, and stays a member.
    for seconds in [6, 100, 290] {
        let orders = machine.orders(at(now, seconds));
        assert!(orders.join.is_none());
        let outcome = Err(refused(ErrorCode::RebalanceInProgress));
        machine.handle_heartbeat_result(&orders.beat.unwrap(), outcome, at(now, seconds));
    }
    machine.start_poll(at(now, 291));
    assert_eq!(
        machine.next_action(),
        Some(RebalanceAction::Revoke(vec![of(0), of(1)]))
    );
    assert!(
        machine.orders(at(now, 294)).beat.is_some(),
        "also while it gives up"
    );
    machine.complete_revoke(&[of(0), of(1)]);
    let join = machine.orders(at(now, 295)).join.unwrap();
    assert_eq!((join.member_id.as_str(), join.owned.len()), ("m", 0));
}

#[test]
fn a_cooperative_member_joins_again_without_a_poll_and_answers_of_before_mean_nothing() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0, 1], now);
    let old = machine.identity();
    beat(
        &mut machine,
        at(now, 3),
        Err(refused(ErrorCode::RebalanceInProgress)),
    );
    let join = machine.orders(at(now, 3)).join.unwrap();
    assert_eq!((join.owned.len(), join.generation), (2, 1));
    let illegal = ClusterError::new(ErrorCode::IllegalGeneration, "past");
    assert_eq!(
        machine.handle_commit_rejection(&old, &illegal, now),
        CommitVerdict::Retry
    );
    let identity = MemberIdentity {
        member_id: "m".into(),
        generation: 2,
    };
    machine.handle_join_response(join.serial, identity.clone(), at(now, 4));
    assert_eq!(machine.commit_permit(), CommitPermit::Wait);
    assert_eq!(
        machine.orders(at(now, 7)).beat,
        Some(identity.clone()),
        "the group counts it already"
    );
    machine.handle_assignment(join.serial, [of(0)].into(), true);
    assert_eq!(machine.commit_permit(), CommitPermit::Send(identity.clone()));
    assert_eq!(
        machine.handle_commit_rejection(&old, &illegal, now),
        CommitVerdict::Retry
    );
    assert!(!machine.has_lost_partitions());
    // In the current generation, the same answer means that the group has removed the member.
    assert_eq!(
        machine.handle_commit_rejection(&identity, &illegal, now),
        CommitVerdict::Final
    );
    assert!(machine.has_lost_partitions() && machine.ownership_epoch(&of(0)).is_none());
}

#[test]
fn a_subscription_that_changes_during_a_join_that_fails_gives_up_what_it_no_longer_wants() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0], now);
    machine.request_rejoin();
    let order = machine.orders(now).join.unwrap();
    machine.subscribe(vec!["u".into()]);
    assert_eq!(machine.next_action(), None, "not while it joins");
    let error = refused(ErrorCode::RebalanceInProgress);
    machine.handle_join_failure(order.serial, error, now, Duration::ZERO);
    assert!(machine.orders(now).join.is_none());
    assert_eq!(machine.next_action(), Some(RebalanceAction::Revoke(vec![of(0)])));
    machine.complete_revoke(&[of(0)]);
    assert_eq!(machine.orders(now).join.unwrap().topics, ["u"]);
}

#[test]
fn an_expelled_member_drops_everything_at_once_and_gets_new_tenures() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0], now);
    let before = machine.ownership_epoch(&of(0));
    beat(&mut machine, at(now, 3), Err(refused(ErrorCode::UnknownMemberId)));
    assert_eq!(machine.take_dropped(), [of(0)], "not read any more");
    assert_eq!(machine.ownership_epoch(&of(0)), None, "not committed any more");
    assert!(machine.orders(at(now, 3)).join.is_none());
    assert_eq!(
        machine.next_action(),
        Some(RebalanceAction::Lose(vec![of(0)])),
        "first the application hears of it"
    );
    machine.complete_lose(&[of(0)]);
    let again = machine.orders(at(now, 3)).join.unwrap();
    assert_eq!(
        (again.member_id.as_str(), again.owned.len(), again.generation),
        ("", 0, -1)
    );
    let identity = MemberIdentity {
        member_id: "n".into(),
        generation: 3,
    };
    machine.handle_join_response(again.serial, identity, now);
    machine.handle_assignment(again.serial, [of(0)].into(), true);
    assert_eq!(machine.next_action(), Some(RebalanceAction::Assign(vec![of(0)])));
    assert!(machine.ownership_epoch(&of(0)) > before);
}

#[test]
fn a_silent_coordinator_takes_the_partitions_and_a_late_answer_does_not() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0], now);
    let sent = machine.orders(at(now, 3)).beat.unwrap();
    let stale = MemberIdentity {
        generation: 0,
        ..sent.clone()
    };
    let silence = Error::timeout("the heartbeat", Duration::from_secs(45), None);
    machine.handle_heartbeat_result(&stale, Err(silence.clone()), at(now, 40));
    assert!(!machine.has_lost_partitions());
    machine.handle_heartbeat_result(&sent, Err(silence), at(now, 48));
    assert!(machine.has_lost_partitions());
}

#[test]
fn a_member_that_is_not_polled_leaves_and_comes_back_with_the_next_poll() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0], now);
    let orders = machine.orders(at(now, 301));
    assert_eq!((orders.leave.as_deref(), orders.beat), (Some("m"), None));
    assert!(orders.changed && machine.has_lost_partitions());
    machine.complete_leave();
    assert!(machine.orders(at(now, 400)).join.is_none());
    assert!(machine.start_poll(at(now, 401)));
    assert_eq!(machine.next_action(), Some(RebalanceAction::Lose(vec![of(0)])));
    machine.complete_lose(&[of(0)]);
    assert!(machine.orders(at(now, 401)).join.is_some());
}

#[test]
fn a_member_that_leaves_while_its_id_is_asked_for_waits_for_it() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    machine.start_poll(now);
    let serial = machine.orders(now).join.unwrap().serial;
    machine.start_leaving();
    machine.leave(now);
    assert!(!machine.has_left());
    assert_eq!(machine.orders(now).joining, Some(serial), "the question goes on");
    machine.set_member_id(serial, "m");
    let orders = machine.orders(now);
    assert_eq!((orders.joining, orders.leave.as_deref()), (None, Some("m")));
    machine.complete_leave();
    assert!(machine.has_left());
    // The wait is limited.
    machine.subscribe(vec!["t".into()]);
    machine.start_poll(now);
    machine.orders(now).join.unwrap();
    machine.leave(now);
    machine.orders(at(now, 6));
    assert!(machine.has_left());
}

#[test]
fn a_static_member_stays_in_its_group_and_a_fenced_one_never_joins_again() {
    let now = Instant::now();
    let mut machine = machine(true, true, now);
    join(&mut machine, 1, &[0], now);
    machine.start_leaving();
    assert_eq!(machine.next_action(), Some(RebalanceAction::Revoke(vec![of(0)])));
    machine.complete_revoke(&[of(0)]);
    machine.leave(now);
    assert!(machine.has_left() && machine.orders(now).leave.is_none());
    machine.subscribe(vec!["t".into()]);
    join(&mut machine, 2, &[0], now);
    beat(
        &mut machine,
        at(now, 3),
        Err(refused(ErrorCode::FencedInstanceId)),
    );
    assert!(machine.has_lost_partitions());
    assert_eq!(
        machine.take_failure().unwrap().code(),
        ErrorCode::FencedInstanceId
    );
    machine.start_poll(at(now, 4));
    assert!(machine.orders(at(now, 4)).join.is_none());
    assert_eq!(machine.fatal_error().unwrap().code(), ErrorCode::FencedInstanceId);
}

#[test]
fn a_new_subscription_keeps_the_membership_and_gives_up_first_what_is_not_wanted() {
    let now = Instant::now();
    let mut machine = machine(true, false, now);
    join(&mut machine, 1, &[0, 1], now);
    machine.subscribe(vec!["u".into()]);
    assert!(
        machine.orders(now).join.is_none(),
        "others could get what it still reads"
    );
    assert_eq!(
        machine.next_action(),
        Some(RebalanceAction::Revoke(vec![of(0), of(1)]))
    );
    machine.complete_revoke(&[of(0), of(1)]);
    let join = machine.orders(now).join.unwrap();
    assert_eq!(
        (join.member_id.as_str(), join.topics),
        ("m", vec!["u".to_owned()])
    );
}
