//! Limits, and what survives the coordinator.

use super::*;

#[test]
fn the_generation_is_stored_before_anybody_joins_it_and_the_assignment_before_anybody_gets_it() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    assert_eq!(desk.persisted.take().unwrap().generation, 1);
    desk.sync(1, "m1", &[("m1", "all")]);
    let stored = desk.persisted.take().unwrap();
    assert_eq!(stored, desk.group.to_record());
    desk.leave("m1");
    assert_eq!(
        desk.persisted.take().unwrap(),
        GroupStateRecord {
            generation: 2,
            state: Vec::new()
        }
    );
    assert!(desk.group.is_vacant());
}

#[test]
fn a_full_group_takes_nobody_but_its_members_back() {
    let mut desk = GroupDriver::new(GroupRules {
        max_members: 2,
        ..RULES
    });
    desk.join("");
    desk.join_with(join_request(""), true);
    let third = desk.join("");
    assert_eq!(
        desk.refusal(third),
        E::GroupMaxSizeReached,
        "the id given away counts"
    );
    let (second, first) = (desk.join("m2"), desk.join("m1"));
    assert_eq!(
        (desk.joined(first).generation, desk.joined(second).generation),
        (2, 2)
    );
}

#[test]
fn the_metadata_and_assignments_of_a_group_are_bounded() {
    let mut desk = GroupDriver::new(GroupRules {
        max_bytes: 100,
        ..RULES
    });
    let heavy = |id: &str, bytes| JoinRequest {
        protocols: vec![MemberProtocol {
            name: "range".into(),
            metadata: vec![0; bytes].into(),
        }]
        .into(),
        ..join_request(id)
    };
    desk.join_with(heavy("", 60), false);
    let second = desk.join_with(heavy("", 60), false);
    assert_eq!(desk.refusal(second), E::GroupMaxSizeReached);
    let ticket = desk.open_ticket();
    let given = vec![("m1".to_owned(), Bytes::from(vec![0; 101]))];
    let effects = desk.group.sync(desk.now, 1, "m1", None, given, ticket);
    desk.apply_effects(effects);
    assert_eq!(desk.refusal(ticket), E::MessageTooLarge);
    let heavier = desk.join_with(heavy("m1", 90), false);
    assert_eq!(
        desk.joined(heavier).generation,
        2,
        "what it said before does not count twice"
    );
}

#[test]
fn a_stored_group_goes_on_where_it_was() {
    let mut desk = GroupDriver::with_stable_pair();
    let record = desk.group.to_record();
    desk.now = 77;
    desk.group = ClassicGroup::load(RULES, record.generation, &record.state, desk.now).unwrap();
    assert_eq!(
        (desk.group.state_name(), desk.group.to_record()),
        ("Stable", record)
    );
    assert_eq!(desk.group.deadline(), Some(77 + SESSION), "sessions start again");
    assert_eq!((desk.heartbeat(2, "m1"), desk.heartbeat(2, "m2")), (None, None));
    let sync = desk.sync(2, "m2", &[]);
    assert_eq!(desk.assignment(sync), b"two");
    desk.join("");
    desk.join("m2");
    let first = desk.join("m1");
    assert_eq!(&*desk.joined(first).leader, "m1");
}

#[test]
fn a_group_stored_before_its_leader_assigned_still_can_be_assigned() {
    let mut desk = GroupDriver::new(RULES);
    desk.join("");
    desk.join_static("s");
    desk.join("m1");
    let record = desk.persisted.clone().unwrap();
    desk.group = ClassicGroup::load(RULES, record.generation, &record.state, desk.now).unwrap();
    assert_eq!(desk.group.state_name(), "CompletingRebalance");
    let second = desk.sync(2, "m2", &[]);
    desk.sync(2, "m1", &[("m2", "b")]);
    assert_eq!(desk.assignment(second), b"b");
    let fenced = desk.group.heartbeat(desk.now, 2, "m1", Some("s")).unwrap_err();
    assert_eq!(fenced.code(), E::FencedInstanceId, "static names survive");
}

#[test]
fn bytes_that_are_no_group_are_refused_and_none_are_an_empty_group() {
    assert_eq!(
        ClassicGroup::load(RULES, 3, &[], 0).unwrap().state_name(),
        "Empty"
    );
    assert!(ClassicGroup::load(RULES, 3, b"nonsense", 0).is_err());
    assert!(
        ClassicGroup::load(RULES, 3, &[8, 2], 0).is_err(),
        "a later format"
    );
}

#[test]
fn a_group_that_fell_behind_the_store_catches_up_and_everybody_joins_again() {
    let mut desk = GroupDriver::with_stable_pair();
    let effects = desk.group.catch_up(desk.now, 9);
    desk.apply_effects(effects);
    assert_eq!(
        (desk.group.generation(), desk.group.state_name()),
        (9, "PreparingRebalance")
    );
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::IllegalGeneration));
    desk.join("m1");
    let last = desk.join("m2");
    assert_eq!(desk.joined(last).generation, 10);
    let effects = desk.group.catch_up(desk.now, 4);
    desk.apply_effects(effects);
    assert_eq!(desk.group.generation(), 10);
}

#[test]
fn a_dead_group_answers_nobody() {
    let mut desk = GroupDriver::new(RULES);
    desk.group.mark_deleted();
    let ticket = desk.join("");
    assert_eq!(desk.refusal(ticket), E::CoordinatorNotAvailable);
    assert_eq!(desk.heartbeat(0, "m1"), Some(E::UnknownMemberId));
    assert_eq!(
        desk.group.check_commit(0, -1, "", None).unwrap_err().code(),
        E::UnknownMemberId
    );
}

#[test]
fn a_group_describes_itself() {
    let view = GroupDriver::with_stable_pair().group.view();
    assert_eq!(
        (view.state, view.generation, &*view.protocol, &*view.leader),
        ("Stable", 2, "range", "m1")
    );
    assert_eq!(
        (view.members.len(), &view.members[1].assignment[..]),
        (2, &b"two"[..])
    );
    let group = GroupDriver::with_stable_pair().group;
    assert!(group.memory_bytes() > ClassicGroup::new(RULES, 0).memory_bytes());
}

#[test]
fn a_member_that_left_stays_gone_when_another_coordinator_takes_over_before_the_others_joined() {
    let mut desk = GroupDriver::with_stable_pair();
    desk.join("");
    desk.leave("m2");
    let record = desk.persisted.clone().unwrap();
    desk.open.clear();
    desk.group = ClassicGroup::load(RULES, record.generation, &record.state, desk.now).unwrap();
    assert_eq!(
        (desk.group.state_name(), desk.group.generation()),
        ("PreparingRebalance", 2)
    );
    assert_eq!(
        desk.group.view().members.len(),
        1,
        "nor is there a newcomer who does not know its id"
    );
    assert_eq!(desk.heartbeat(2, "m1"), Some(E::RebalanceInProgress));
    let alone = desk.join("m1");
    assert_eq!(
        (desk.joined(alone).generation, desk.joined(alone).members.len()),
        (3, 1)
    );
}
