//! Joining, syncing, leaving, committing.

use super::*;

#[test]
fn the_first_member_leads_a_group_of_its_own() {
    let mut desk = GroupDriver::new(RULES);
    let ticket = desk.join("");
    let joined = desk.joined(ticket).clone();
    assert_eq!(
        (joined.generation, &*joined.leader, &*joined.member_id),
        (1, "m1", "m1")
    );
    assert_eq!(
        (&*joined.protocol, &*joined.protocol_type, joined.members.len()),
        ("range", "consumer", 1)
    );
    assert_eq!(joined.members[0].metadata, "range");
    assert_eq!(desk.group.state_name(), "CompletingRebalance");
    let ticket = desk.sync(1, "m1", &[("m1", "all")]);
    assert_eq!(desk.assignment(ticket), b"all");
    assert_eq!(desk.group.state_name(), "Stable");
}

#[test]
fn a_newcomer_makes_everybody_join_again() {
    let mut desk = GroupDriver::with_stable_pair();
    let third = desk.join("");
    assert_eq!(desk.group.state_name(), "PreparingRebalance");
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::RebalanceInProgress));
    let first = desk.join("m1");
    assert!(desk.is_waiting(first) && desk.is_waiting(third));
    let second = desk.join("m2");
    assert_eq!(desk.joined(third).generation, 3);
    assert_eq!(&*desk.joined(second).leader, "m1");
    assert_eq!(desk.joined(first).members.len(), 3);
}

#[test]
fn an_old_generation_can_neither_sync_nor_beat_nor_commit() {
    let mut desk = GroupDriver::with_stable_pair();
    let late = desk.sync(1, "m2", &[]);
    assert_eq!(desk.refusal(late), E::IllegalGeneration);
    assert_eq!(desk.heartbeat(1, "m2"), Some(E::IllegalGeneration));
    let error = desk.group.check_commit(desk.now, 1, "m2", None).unwrap_err();
    assert_eq!(error.code(), E::IllegalGeneration);
    assert_eq!(desk.group.check_commit(desk.now, 2, "m2", None).unwrap(), Some(2));
}

#[test]
fn commits_are_taken_until_the_new_generation_begins() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("");
    assert_eq!(
        desk.group.check_commit(desk.now, 2, "m1", None).unwrap(),
        Some(2),
        "while members join again"
    );
    desk.join("m1");
    desk.join("m2");
    let old = desk.group.check_commit(desk.now, 2, "m1", None).unwrap_err();
    let new = desk.group.check_commit(desk.now, 3, "m1", None).unwrap_err();
    assert_eq!(
        (old.code(), new.code()),
        (E::IllegalGeneration, E::RebalanceInProgress)
    );
}

#[test]
fn a_consumer_without_membership_commits_only_while_nobody_is_a_member() {
    let mut empty = ClassicGroup::new(RULES, 7);
    assert_eq!(empty.check_commit(0, -1, "", None).unwrap(), None);
    assert_eq!(
        empty.check_commit(0, 7, "m", None).unwrap_err().code(),
        E::UnknownMemberId
    );
    let mut desk = GroupDriver::with_stable_pair();
    assert_eq!(
        desk.group
            .check_commit(desk.now, -1, "", None)
            .unwrap_err()
            .code(),
        E::UnknownMemberId
    );
}

#[test]
fn a_follower_that_asks_again_with_nothing_new_changes_nothing() {
    let mut desk = GroupDriver::with_stable_pair();
    let again = desk.join("m2");
    assert_eq!(
        (desk.joined(again).generation, desk.joined(again).members.len()),
        (2, 0)
    );
    let sync = desk.sync(2, "m2", &[]);
    assert_eq!(desk.assignment(sync), b"two");
    assert_eq!(desk.group.state_name(), "Stable");
}

#[test]
fn a_leader_that_joins_again_and_a_follower_with_news_begin_a_rebalance() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("m1");
    assert_eq!(desk.group.state_name(), "PreparingRebalance");
    let mut desk = GroupDriver::with_stable_pair();
    let news = JoinRequest {
        protocols: vec![MemberProtocol {
            name: "range".into(),
            metadata: "new".into(),
        }]
        .into(),
        ..join_request("m2")
    };
    desk.join_with(news, false);
    assert_eq!(desk.group.state_name(), "PreparingRebalance");
}

#[test]
fn a_lost_join_answer_is_given_again_while_the_leader_assigns() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    let again = desk.join("m1");
    assert_eq!(
        (desk.joined(again).generation, desk.joined(again).members.len()),
        (1, 1)
    );
    assert_eq!(desk.group.state_name(), "CompletingRebalance");
}

#[test]
fn news_while_the_leader_assigns_send_everybody_back() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    desk.join("");
    desk.join("m1");
    let waiting = desk.sync(2, "m2", &[]);
    desk.join("");
    assert_eq!(desk.refusal(waiting), E::RebalanceInProgress);
    let late = desk.sync(2, "m1", &[("m1", "x")]);
    assert_eq!(desk.refusal(late), E::RebalanceInProgress);
}

#[test]
fn a_call_repeated_while_it_waits_takes_the_place_of_the_first() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("");
    let (stale, fresh) = (desk.join("m1"), desk.join("m1"));
    assert_eq!(desk.refusal(stale), E::RebalanceInProgress);
    desk.join("m2");
    assert_eq!(desk.joined(fresh).generation, 3);
    let (stale, fresh) = (desk.sync(3, "m2", &[]), desk.sync(3, "m2", &[]));
    assert_eq!(desk.refusal(stale), E::RebalanceInProgress);
    desk.sync(3, "m1", &[("m2", "b")]);
    assert_eq!(desk.assignment(fresh), b"b");
}

#[test]
fn a_member_left_out_of_the_assignment_gets_an_empty_one_and_strangers_are_ignored() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    let sync = desk.sync(1, "m1", &[("nobody", "x")]);
    assert_eq!(desk.assignment(sync), b"");
}

#[test]
fn leaving_shares_at_once_and_the_last_one_empties_the_group() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.leave("m2");
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::RebalanceInProgress));
    desk.leave("m1");
    assert_eq!((desk.group.state_name(), desk.group.generation()), ("Empty", 3));
    let gone = desk.group.leave(desk.now, "m1", None).unwrap_err();
    assert_eq!(gone.code(), E::UnknownMemberId);
}

#[test]
fn leaving_lets_those_who_wait_for_the_leaver_go_on() {
    let mut desk = GroupDriver::with_stable_pair();
    let (third, first) = (desk.join(""), desk.join("m1"));
    desk.leave("m2");
    assert_eq!(desk.joined(first).members.len(), 2);
    let waiting = desk.sync(3, "m6", &[]);
    desk.leave("m6");
    assert_eq!(desk.refusal(waiting), E::UnknownMemberId);
    assert_eq!(desk.joined(third).generation, 3);
}

#[test]
fn strangers_are_told_to_join_first() {
    let mut desk = GroupDriver::with_stable_pair();
    let (joining, syncing) = (desk.join("stranger"), desk.sync(2, "stranger", &[]));
    assert_eq!(
        (desk.refusal(joining), desk.refusal(syncing)),
        (E::UnknownMemberId, E::UnknownMemberId)
    );
    assert_eq!(desk.heartbeat(2, "stranger"), Some(E::UnknownMemberId));
    let mut empty = GroupDriver::new(RULES);
    let joining = empty.join("stranger");
    assert_eq!(empty.refusal(joining), E::UnknownMemberId);
}

#[test]
fn the_protocol_that_most_prefer_is_chosen_among_those_that_everybody_has() {
    let mut desk = GroupDriver::new(GroupRules {
        initial_delay_ms: 1_000,
        ..RULES
    });
    let first = desk.join_with(join_offering("", &["sticky", "range", "robin"]), false);
    desk.join_with(join_offering("", &["robin", "range"]), false);
    desk.join_with(join_offering("", &["robin", "range", "other"]), false);
    desk.advance_time(1_000);
    assert_eq!(&*desk.joined(first).protocol, "robin");
    assert!(
        desk.joined(first)
            .members
            .iter()
            .all(|member| member.metadata == "robin")
    );
}

#[test]
fn among_equal_protocols_the_eldest_decides() {
    let mut desk = GroupDriver::new(GroupRules {
        initial_delay_ms: 1_000,
        ..RULES
    });
    let first = desk.join_with(join_offering("", &["a", "b"]), false);
    desk.join_with(join_offering("", &["b", "a"]), false);
    desk.advance_time(1_000);
    assert_eq!(&*desk.joined(first).protocol, "a");
}

#[test]
fn members_without_a_protocol_in_common_are_refused() {
    let mut desk = GroupDriver::with_stable_pair();
    let other = desk.join_with(join_offering("", &["robin"]), false);
    let kind = desk.join_with(
        JoinRequest {
            protocol_type: "connect".into(),
            ..join_request("")
        },
        false,
    );
    assert_eq!(
        (desk.refusal(other), desk.refusal(kind)),
        (E::InconsistentGroupProtocol, E::InconsistentGroupProtocol)
    );
    assert_eq!(desk.group.state_name(), "Stable");
    let mut alone = GroupDriver::new(RULES);
    alone.join("");
    let changed = alone.join_with(join_offering("m1", &["robin"]), false);
    assert_eq!(
        &*alone.joined(changed).protocol,
        "robin",
        "a single member may change its protocols"
    );
}

#[test]
fn a_new_member_may_have_to_come_back_with_its_id() {
    let mut desk = GroupDriver::new(RULES);
    let first = desk.join_with(join_request(""), true);
    assert_eq!(desk.answers[&first], Ok(GroupReply::IdRequired("m1".into())));
    assert!(!desk.group.has_members() && !desk.group.is_vacant());
    let second = desk.join_with(join_request("m1"), true);
    assert_eq!(
        (desk.joined(second).generation, &*desk.joined(second).member_id),
        (1, "m1")
    );
}
