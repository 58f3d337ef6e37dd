//! Static members keep their place across a restart.

use super::*;

#[test]
fn a_static_member_that_restarts_takes_its_place_without_a_rebalance() {
    let mut desk = GroupDriver::new(RULES);
    desk.join_static("a");
    desk.join_static("b");
    desk.join_with(
        JoinRequest {
            instance: Some("a".into()),
            ..join_request("m1")
        },
        false,
    );
    desk.sync(2, "m2", &[]);
    desk.sync(2, "m1", &[("m1", "one"), ("m2", "two")]);
    desk.persisted = None;
    let back = desk.join_static("b");
    let id = desk.joined(back).member_id.clone();
    assert_eq!(
        (desk.joined(back).generation, desk.group.state_name()),
        (2, "Stable")
    );
    assert!(desk.persisted.is_some(), "the new id survives a failover");
    let sync = desk.sync(2, &id, &[]);
    assert_eq!(desk.assignment(sync), b"two");
    let fenced = desk.group.heartbeat(desk.now, 2, "m2", Some("b")).unwrap_err();
    assert_eq!(fenced.code(), E::FencedInstanceId);
    assert_eq!(
        desk.heartbeat(2, "m2"),
        Some(E::UnknownMemberId),
        "even without its instance id"
    );
}

#[test]
fn a_static_leader_that_restarts_takes_its_assignment_and_does_not_assign() {
    let mut desk = GroupDriver::new(RULES);
    desk.join_static("a");
    desk.sync(1, "m1", &[("m1", "all")]);
    let back = desk.join_static("a");
    let joined = desk.joined(back).clone();
    assert_eq!(
        (&*joined.leader, joined.members.len(), joined.generation),
        ("m1", 0, 1)
    );
    let sync = desk.sync(1, &joined.member_id, &[]);
    assert_eq!(desk.assignment(sync), b"all");
}

#[test]
fn the_former_self_of_a_static_member_is_fenced_while_it_waits() {
    let mut desk = GroupDriver::with_stable_pair();
    let old = desk.join_static("s");
    let new = desk.join_static("s");
    assert_eq!(desk.refusal(old), E::FencedInstanceId);
    desk.join("m1");
    desk.join("m2");
    assert_eq!(desk.joined(new).generation, 3);
    let stale = desk.join_with(
        JoinRequest {
            instance: Some("s".into()),
            ..join_request("m6")
        },
        false,
    );
    assert_eq!(desk.refusal(stale), E::FencedInstanceId);
    let unknown = desk.join_with(
        JoinRequest {
            instance: Some("t".into()),
            ..join_request("m6")
        },
        false,
    );
    assert_eq!(desk.refusal(unknown), E::UnknownMemberId);
}

#[test]
fn a_static_member_that_comes_back_with_another_protocol_begins_a_rebalance() {
    let mut desk = GroupDriver::new(RULES);
    desk.join_static("a");
    desk.sync(1, "m1", &[]);
    let back = desk.join_with(
        JoinRequest {
            instance: Some("a".into()),
            ..join_offering("", &["robin"])
        },
        false,
    );
    assert_eq!(
        (desk.joined(back).generation, &*desk.joined(back).protocol),
        (2, "robin")
    );
}

#[test]
fn a_static_member_keeps_its_place_through_a_rebalance_it_misses_until_its_session_ends() {
    let mut desk = GroupDriver::new(RULES);
    let patient = JoinRequest {
        session_ms: 10 * REBALANCE,
        instance: Some("a".into()),
        ..join_request("")
    };
    desk.join_with(patient, false);
    let second = desk.join("");
    assert!(desk.is_waiting(second));
    desk.advance_time(REBALANCE);
    assert_eq!(desk.joined(second).members.len(), 2, "leader is the one who came");
    assert_eq!(&*desk.joined(second).leader, "m2");
    desk.sync(desk.group.generation(), "m2", &[]);
    for _ in 0..70 {
        desk.advance_time(SESSION - 1);
        if desk.group.view().members.len() == 1 {
            return;
        }
        desk.heartbeat(desk.group.generation(), "m2");
    }
    panic!("the static member never expired");
}

#[test]
fn static_members_alone_that_all_miss_a_rebalance_are_not_forgotten_at_once() {
    let mut desk = GroupDriver::new(GroupRules {
        initial_delay_ms: 1_000,
        ..RULES
    });
    let patient = |id: &str, name: &str| JoinRequest {
        session_ms: 3 * REBALANCE,
        instance: Some(name.into()),
        ..join_request(id)
    };
    desk.join_with(patient("", "a"), false);
    desk.join_with(patient("", "b"), false);
    desk.join("");
    desk.advance_time(1_000);
    desk.sync(1, "m1", &[]);
    desk.leave("m3");
    desk.advance_time(REBALANCE);
    assert_eq!(
        (desk.group.state_name(), desk.group.view().members.len()),
        ("PreparingRebalance", 2)
    );
    let first = desk.join_with(patient("m1", "a"), false);
    assert!(desk.is_waiting(first));
    let second = desk.join_with(patient("m2", "b"), false);
    assert_eq!(
        (desk.joined(first).generation, desk.joined(second).generation),
        (2, 2)
    );
}

#[test]
fn an_administrator_removes_a_static_member_by_its_name() {
    let mut desk = GroupDriver::new(RULES);
    desk.join_static("a");
    let effects = desk.group.leave(desk.now, "", Some("a")).unwrap();
    desk.apply_effects(effects);
    assert_eq!(desk.group.state_name(), "Empty");
    assert_eq!(
        desk.group.leave(desk.now, "", Some("a")).unwrap_err().code(),
        E::UnknownMemberId
    );
}
