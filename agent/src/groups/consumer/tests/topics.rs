//! Topics and subscriptions that change.

use super::*;

#[test]
fn new_partitions_and_topics_are_assigned_and_deleted_ones_given_up() {
    let mut bench = GroupBench::new(&[("orders", 1)]);
    assert_eq!(
        numbers(&bench.send(join("a", &["bills", "orders"]))),
        Some(vec![0])
    );
    bench.catalog.set_topic("orders", 3);
    assert!(
        bench
            .group
            .extend_session(0, &beat("a", 1), &bench.catalog)
            .is_none()
    );
    let reply = bench.send(beat("a", 1));
    assert_eq!((reply.epoch, numbers(&reply)), (2, Some(vec![0, 1, 2])));
    bench.catalog.set_topic("bills", 1);
    assert_eq!(bench.send(beat("a", 2)).assignment.unwrap().len(), 4);
    bench.catalog.delete_topic("orders");
    let reply = bench.send(beat("a", 3));
    assert_eq!(
        (reply.epoch, reply.assignment),
        (3, Some(bench.catalog.partitions("bills")))
    );
    assert_eq!(bench.report("a", 3, &bench.keys("bills", &[0])).epoch, 4);
    // A change elsewhere is not one of the group.
    bench.catalog.set_topic("other", 1);
    let outcome = bench.group.heartbeat(0, &beat("a", 4), &bench.catalog).unwrap();
    assert!(!outcome.persist && outcome.reply.epoch == 4);
}

#[test]
fn a_topic_that_was_deleted_and_created_again_is_another_one() {
    let mut bench = GroupBench::new(&[("orders", 1)]);
    bench.send(join("a", &["orders"]));
    let old = bench.catalog.partitions("orders");
    bench.catalog.delete_topic("orders");
    bench.catalog.set_topic("orders", 1);
    let reply = bench.send(beat("a", 1));
    assert_eq!((reply.epoch, reply.assignment), (1, Some(PartitionSet::new())));
    let reply = bench.report("a", 1, &[]);
    assert_eq!(
        (reply.epoch, &reply.assignment),
        (2, &Some(bench.catalog.partitions("orders")))
    );
    assert_ne!(reply.assignment, Some(old));
}

#[test]
fn a_member_that_subscribes_to_other_topics_gives_up_the_old_ones_first() {
    let mut bench = GroupBench::new(&[("orders", 1), ("bills", 1)]);
    bench.send(join("a", &["orders"]));
    let other = MemberHeartbeat {
        topics: Some(topic_list(&["bills"])),
        ..beat("a", 1)
    };
    let reply = bench.send(other);
    assert_eq!((reply.epoch, reply.assignment), (1, Some(PartitionSet::new())));
    let names = bench.group.subscribed_names();
    assert!(names.contains("bills") && !names.contains("orders"));
    let reply = bench.report("a", 1, &[]);
    assert_eq!(
        (reply.epoch, reply.assignment),
        (2, Some(bench.catalog.partitions("bills")))
    );
}

#[test]
fn a_changed_subscription_takes_partitions_away_also_before_there_is_a_new_target() {
    let mut bench = GroupBench::new(&[("orders", 1), ("bills", 1)]);
    bench.group.rules.assignment_interval_ms = 1_000;
    bench.send(join("a", &["bills", "orders"]));
    let fewer = MemberHeartbeat {
        topics: Some(topic_list(&["bills"])),
        ..beat("a", 1)
    };
    let reply = bench.send(fewer);
    assert_eq!(
        (reply.epoch, reply.assignment),
        (1, Some(bench.catalog.partitions("bills")))
    );
    let owned = bench.keys("bills", &[0]);
    assert_eq!(bench.report("a", 1, &owned).epoch, 1);
    bench.now = 1_000;
    assert_eq!(bench.report("a", 1, &owned).epoch, 2);
    assert_eq!(bench.group.state_name(), "Stable");
}

#[test]
fn topics_are_found_by_regular_expression() {
    let mut bench = GroupBench::new(&[("orders-1", 1), ("bills", 1), ("orders-2", 1)]);
    let with = |pattern: &str, epoch| MemberHeartbeat {
        pattern: Some(pattern.into()),
        epoch,
        ..join("a", &[])
    };
    assert_eq!(bench.refusal(with("(", 0)), ErrorCode::InvalidRegularExpression);
    assert!(!bench.group.has_members());
    assert_eq!(bench.send(with("orders-.*", 0)).assignment.unwrap().len(), 2);
    // The topics are searched again after a while.
    bench.catalog.set_topic("orders-3", 1);
    assert_eq!(bench.send(beat("a", 1)).epoch, 1);
    bench.now = RULES.pattern_interval_ms;
    let reply = bench.send(beat("a", 1));
    assert_eq!((reply.epoch, reply.assignment.unwrap().len()), (2, 3));
    // An empty one ends the subscription.
    let ended = MemberHeartbeat {
        pattern: Some("".into()),
        ..beat("a", 2)
    };
    assert_eq!(bench.send(ended).assignment, Some(PartitionSet::new()));
    assert_eq!(bench.report("a", 2, &[]).epoch, 3);
    assert!(bench.group.view().members[0].pattern.is_none());
}

#[test]
fn a_stored_regular_expression_that_is_invalid_by_now_finds_nothing() {
    let mut bench = GroupBench::new(&[("orders-1", 1)]);
    let with = |member: &str, pattern: &str| MemberHeartbeat {
        pattern: Some(pattern.into()),
        ..join(member, &[])
    };
    bench.send(with("a", "orders-.*"));
    bench.send(with("b", "bills"));
    // As if it was stored when it was valid.
    let entry = bench.group.members.get_mut("b").unwrap();
    Arc::make_mut(&mut entry.member).pattern = Some("(".into());
    let stored = bench.group.to_state();
    bench.group = ConsumerGroup::load(RULES, bench.group.epoch(), &stored, 0).unwrap();
    let names = |bench: &GroupBench| Vec::from_iter(bench.group.subscribed_names());
    let epoch = bench.send(with("a", "orders-.*")).epoch;
    assert_eq!(names(&bench), ["orders-1"]);
    // It is not a reason to search at every change of the catalog.
    bench.catalog.set_topic("orders-2", 1);
    bench.send(beat("a", epoch));
    assert_eq!(names(&bench), ["orders-1"]);
    bench.now = RULES.pattern_interval_ms;
    bench.send(beat("a", epoch));
    assert_eq!(names(&bench), ["orders-1", "orders-2"]);
    // Nobody else gets it.
    assert_eq!(bench.refusal(with("c", "(")), ErrorCode::InvalidRegularExpression);
}

#[test]
fn names_and_a_regular_expression_add_up() {
    let mut bench = GroupBench::new(&[("orders", 1), ("bills", 1)]);
    let both = MemberHeartbeat {
        pattern: Some("ord.*".into()),
        ..join("a", &["bills", "orders"])
    };
    assert_eq!(bench.send(both).assignment.unwrap().len(), 2);
}

#[test]
fn what_only_a_member_that_left_read_is_no_subscription() {
    let mut bench = GroupBench::new(&[("orders", 1), ("bills", 1), ("logs-1", 1)]);
    bench.send(join("a", &["orders"]));
    bench.send(join("b", &["bills"]));
    let logs = MemberHeartbeat {
        pattern: Some("logs-.*".into()),
        ..join("c", &[])
    };
    bench.send(logs);
    let names = |bench: &GroupBench| Vec::from_iter(bench.group.subscribed_names());
    assert_eq!(names(&bench), ["bills", "logs-1", "orders"]);
    bench.send(beat("b", LEAVE_EPOCH));
    assert_eq!(names(&bench), ["logs-1", "orders"]);
    bench.send(beat("c", LEAVE_EPOCH));
    assert_eq!(names(&bench), ["orders"]);
    // The next heartbeat makes the target of the member that is left, and no other follows.
    let epoch = bench.send(beat("a", 1)).epoch;
    let outcome = bench
        .group
        .heartbeat(0, &beat("a", epoch), &bench.catalog)
        .unwrap();
    assert!(!outcome.persist);
    assert_eq!(outcome.reply.epoch, epoch);
}

#[test]
fn a_full_heartbeat_by_regular_expression_alone_is_answered_with_the_assignment() {
    let mut bench = GroupBench::new(&[("orders-1", 1)]);
    let full = |epoch| MemberHeartbeat {
        epoch,
        topics: None,
        pattern: Some("orders-.*".into()),
        ..join("a", &[])
    };
    let assigned = bench.catalog.partitions("orders-1");
    assert_eq!(bench.send(full(JOIN_EPOCH)).assignment, Some(assigned.clone()));
    assert_eq!(bench.send(beat("a", 1)).assignment, None);
    assert_eq!(bench.send(full(1)).assignment, Some(assigned));
}
