//! Timeouts: silent members, slow rebalances, disconnected callers.

use super::*;

#[test]
fn an_empty_group_waits_for_more_members_and_longer_when_they_come() {
    let mut desk = GroupDriver::new(GroupRules {
        initial_delay_ms: 3_000,
        ..RULES
    });
    let first = desk.join("");
    assert_eq!(desk.group.deadline(), Some(4_000));
    desk.advance_time(2_000);
    let second = desk.join("");
    desk.advance_time(2_000);
    assert!(desk.is_waiting(first) && desk.is_waiting(second));
    desk.advance_time(1_000);
    assert_eq!(desk.joined(first).generation, 1);
    assert_eq!(desk.joined(first).members.len(), 2);
    assert_eq!(desk.joined(second).members.len(), 0);
    assert_eq!(desk.joined(second).leader, desk.joined(first).member_id);
}

#[test]
fn members_that_keep_coming_cannot_put_the_first_rebalance_off_for_ever() {
    let mut desk = GroupDriver::new(GroupRules {
        initial_delay_ms: 3_000,
        ..RULES
    });
    let first = desk.join_with(
        JoinRequest {
            rebalance_ms: 5_000,
            ..join_request("")
        },
        false,
    );
    desk.advance_time(2_900);
    desk.join("");
    desk.advance_time(1_900);
    desk.join("");
    assert!(desk.is_waiting(first));
    desk.advance_time(200);
    assert_eq!(desk.joined(first).members.len(), 3);
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    let first = desk.join("m1");
    for _ in 0..5 {
        desk.advance_time(9_000);
        assert_eq!(
            desk.heartbeat(2, "m2"),
            Some(E::RebalanceInProgress),
            "it sends heartbeats but does not join"
        );
    }
    assert!(desk.is_waiting(third));
    desk.advance_time(REBALANCE - 45_000);
    assert_eq!(desk.joined(first).members.len(), 2);
    assert_eq!(desk.heartbeat(2, "m2"), Some(E::UnknownMemberId));
}

#[test]
fn when_the_leader_is_left_behind_the_eldest_of_the_others_leads() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    desk.join("m2");
    desk.advance_time(SESSION);
    assert_eq!(&*desk.joined(third).leader, "m2");
}

#[test]
fn a_silent_member_is_noticed_and_the_others_share_what_it_had() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.advance_time(SESSION - 1);
    assert_eq!(desk.heartbeat(2, "m1"), None);
    desk.advance_time(1);
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::RebalanceInProgress));
    let alone = desk.join("m1");
    assert_eq!(
        (desk.joined(alone).generation, desk.joined(alone).members.len()),
        (3, 1)
    );
}

#[test]
fn a_group_that_everybody_abandons_becomes_empty_in_a_new_generation() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.advance_time(SESSION);
    assert_eq!((desk.group.state_name(), desk.group.generation()), ("Empty", 3));
    assert!(desk.group.is_vacant() && desk.group.deadline().is_none());
}

#[test]
fn who_waits_for_an_answer_does_not_expire() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    let first = desk.join("m1");
    // m2 keeps sending heartbeats, so the rebalance continues.
    for _ in 0..4 {
        desk.advance_time(SESSION - 1);
        desk.heartbeat(2, "m2");
    }
    assert!(desk.is_waiting(third) && desk.is_waiting(first));
    desk.join("m2");
    assert_eq!(desk.heartbeat(3, "m1"), None);
    desk.advance_time(SESSION - 1);
    assert_eq!(
        desk.heartbeat(3, "m6"),
        None,
        "its session restarted with the reply"
    );
}

#[test]
fn a_leader_that_never_assigns_is_removed_and_those_who_wait_join_again() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    desk.join("m1");
    desk.join("m2");
    assert_eq!(desk.joined(third).generation, 3);
    let waiting = [desk.sync(3, "m2", &[]), desk.sync(3, "m6", &[])];
    let beats = REBALANCE / (SESSION - 1);
    for _ in 0..beats {
        desk.advance_time(SESSION - 1);
        assert_eq!(desk.heartbeat(3, "m1"), None, "it sends heartbeats");
    }
    assert!(waiting.iter().all(|ticket| desk.is_waiting(*ticket)));
    desk.advance_time(REBALANCE - beats * (SESSION - 1));
    assert!(
        waiting
            .iter()
            .all(|ticket| desk.refusal(*ticket) == E::RebalanceInProgress)
    );
    assert_eq!(desk.heartbeat(3, "m1"), Some(E::UnknownMemberId));
}

#[test]
fn a_member_that_never_asks_for_its_assignment_is_removed_from_a_stable_group() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    desk.join("");
    desk.join("m1");
    desk.sync(2, "m1", &[("m1", "one"), ("m2", "two")]);
    assert_eq!(desk.group.state_name(), "Stable");
    for _ in 0..(REBALANCE / (SESSION - 1)) {
        desk.advance_time(SESSION - 1);
        assert_eq!((desk.heartbeat(2, "m1"), desk.heartbeat(2, "m2")), (None, None));
    }
    desk.advance_time(SESSION - 1);
    assert_eq!(desk.heartbeat(2, "m2"), Some(E::UnknownMemberId));
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::RebalanceInProgress));
}

#[test]
fn an_id_that_nobody_comes_back_with_is_forgotten_and_holds_the_rebalance_up_no_longer() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join_with(join_request(""), true);
    assert_eq!(
        desk.group.state_name(),
        "Stable",
        "issuing an id starts no rebalance"
    );
    let (first, second) = (desk.join("m1"), desk.join("m2"));
    assert!(desk.is_waiting(first), "the newcomer is expected");
    desk.advance_time(SESSION);
    assert_eq!(
        (desk.joined(first).generation, desk.joined(second).generation),
        (3, 3)
    );
    let late = desk.join("m6");
    assert_eq!(desk.refusal(late), E::UnknownMemberId);
    let mut desk = GroupDriver::with_stable_pair();
    desk.join_with(join_request(""), true);
    let first = desk.join("m1");
    desk.join("m2");
    desk.leave("m6");
    assert_eq!(desk.joined(first).generation, 3);
}

#[test]
fn a_first_join_whose_caller_went_away_leaves_no_ghost() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    let first = desk.join("m1");
    desk.open.remove(&third);
    let effects = desk.group.withdraw(desk.now, third);
    desk.apply_effects(effects);
    desk.join("m2");
    assert_eq!(desk.joined(first).members.len(), 2);
}

#[test]
fn a_member_whose_call_broke_may_come_back_and_expires_when_it_does_not() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("");
    let first = desk.join("m1");
    desk.open.remove(&first);
    let effects = desk.group.withdraw(desk.now, first);
    desk.apply_effects(effects);
    let second = desk.join("m2");
    assert_eq!(desk.joined(second).generation, 3, "it had joined");
    let back = desk.join("m1");
    assert_eq!(desk.joined(back).generation, 3);
    desk.advance_time(SESSION);
    assert!(!desk.group.has_members());
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("m1");
    desk.join("m2");
    let waiting = desk.sync(3, "m2", &[]);
    desk.open.remove(&waiting);
    let effects = desk.group.withdraw(desk.now, waiting);
    desk.apply_effects(effects);
    desk.sync(3, "m1", &[("m2", "b")]);
    let again = desk.sync(3, "m2", &[]);
    assert_eq!(desk.assignment(again), b"b");
}

#[test]
fn a_group_without_a_leader_begins_anew_when_the_time_for_syncing_is_over() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    desk.group.leader = None;
    let record = desk.group.to_record();
    desk.group = ClassicGroup::load(RULES, record.generation, &record.state, desk.now).unwrap();
    let waiting = desk.sync(1, "m1", &[]);
    desk.advance_time(REBALANCE);
    assert_eq!(desk.refusal(waiting), E::RebalanceInProgress);
    let again = desk.join("m1");
    assert_eq!(&*desk.joined(again).leader, "m1");
}
