//! Who may commit and fetch offsets, and groups that another coordinator continues.

use super::*;

#[test]
fn members_commit_in_their_epoch_or_in_one_since_which_they_have_the_partition() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    let keys: Vec<Option<PartitionKey>> = bench.keys("orders", &[0, 1]).into_iter().map(Some).collect();
    let group = &bench.group;
    assert_eq!(
        group.check_commit("", -1, keys.iter().copied()).unwrap(),
        None,
        "nobody is there"
    );
    assert_eq!(
        group
            .check_commit("a", 1, keys.iter().copied())
            .unwrap_err()
            .code(),
        ErrorCode::UnknownMemberId
    );
    bench.send(join("a", &["orders"]));
    bench.send(join("b", &["orders"]));
    bench.send(beat("a", 1));
    bench.report("a", 1, &bench.keys("orders", &[0]));
    let group = &bench.group;
    assert_eq!(group.check_commit("a", 2, keys.iter().copied()).unwrap(), Some(2));
    assert_eq!(
        group.check_commit("a", 1, keys[..1].iter().copied()).unwrap(),
        Some(2),
        "since epoch 1"
    );
    for (epoch, partitions) in [(1, &keys[..]), (0, &keys[..1]), (1, &[None]), (3, &keys[..1])] {
        let error = group
            .check_commit("a", epoch, partitions.iter().copied())
            .unwrap_err();
        assert_eq!(
            error.code(),
            ErrorCode::StaleMemberEpoch,
            "{epoch} {partitions:?}"
        );
    }
    assert_eq!(
        group
            .check_commit("", -1, keys.iter().copied())
            .unwrap_err()
            .code(),
        ErrorCode::UnknownMemberId
    );
    assert!(group.check_fetch("a", 2).is_ok());
    assert_eq!(
        group.check_fetch("a", 1).unwrap_err().code(),
        ErrorCode::StaleMemberEpoch
    );
    assert_eq!(
        group.check_fetch("c", 1).unwrap_err().code(),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn another_coordinator_continues_the_group() {
    let mut bench = GroupBench::new(&[("orders", 4)]);
    bench.send(MemberHeartbeat {
        instance: Some("one".into()),
        rack: Some("zone".into()),
        pattern: Some("bills.*".into()),
        assignor: Some(ServerAssignor::Range),
        ..join("a", &["orders"])
    });
    bench.send(join("b", &["orders"]));
    let first = MemberHeartbeat {
        instance: Some("one".into()),
        ..beat("a", 1)
    };
    assert_eq!(bench.send(first.clone()).epoch, 1);
    let stored = bench.group.to_state();
    let mut group = ConsumerGroup::load(RULES, bench.group.epoch(), &stored, 0).unwrap();
    assert_eq!((group.view(), group.to_state()), (bench.group.view(), stored));
    // The member still has to give up partitions, and has its time for it.
    assert!(group.expire(RULES.session_ms.max(REBALANCE_MS)));
    bench.group = ConsumerGroup::load(RULES, bench.group.epoch(), &bench.group.to_state(), 0).unwrap();
    let owned = Some(bench.keys("orders", &[0, 1]).into_iter().collect());
    assert_eq!(bench.send(MemberHeartbeat { owned, ..first }).epoch, 2);
    assert_eq!(numbers(&bench.send(beat("b", 2))), Some(vec![2, 3]));
    assert_eq!(bench.group.epoch(), 2);
}

#[test]
fn damaged_states_are_refused() {
    let mut bench = GroupBench::new(&[("orders", 4)]);
    bench.send(join("a", &["orders"]));
    let stored = bench.group.to_state();
    assert!(ConsumerGroup::load(RULES, 1, &stored[..stored.len() - 1], 0).is_err());
    for place in 0..stored.len() {
        let mut damaged = stored.clone();
        damaged[place] ^= 0x55;
        drop(ConsumerGroup::load(RULES, 1, &damaged, 0));
    }
}

#[test]
fn a_later_stored_epoch_is_taken_over() {
    let mut bench = GroupBench::new(&[("orders", 1)]);
    bench.send(join("a", &["orders"]));
    bench.group.catch_up(7);
    assert_eq!(bench.group.state_name(), "Assigning");
    assert_eq!(bench.send(beat("a", 1)).epoch, 7);
}
