//! Static members: they leave for a while, return, and are not doubled.

use super::*;

fn static_join(member_id: &str, instance: &str) -> MemberHeartbeat {
    MemberHeartbeat {
        instance: Some(instance.into()),
        ..join(member_id, &["orders"])
    }
}

fn static_beat(member_id: &str, epoch: i32, instance: &str) -> MemberHeartbeat {
    MemberHeartbeat {
        instance: Some(instance.into()),
        ..beat(member_id, epoch)
    }
}

#[test]
fn a_static_member_returns_to_its_partitions() {
    let mut bench = GroupBench::new(&[("orders", 4)]);
    bench.send(static_join("a", "one"));
    bench.send(static_join("b", "two"));
    bench.send(static_beat("a", 1, "one"));
    let kept = bench.keys("orders", &[0, 1]);
    bench.send(MemberHeartbeat {
        owned: Some(kept.iter().copied().collect()),
        ..static_beat("a", 1, "one")
    });
    bench.send(static_beat("b", 2, "two"));
    assert_eq!(
        bench.refusal(static_join("a2", "one")),
        ErrorCode::UnreleasedInstanceId
    );
    let away = bench.send(static_beat("a", STATIC_LEAVE_EPOCH, "one"));
    assert_eq!(away.epoch, STATIC_LEAVE_EPOCH);
    // Its partitions wait for it.
    assert_eq!(numbers(&bench.send(static_beat("b", 2, "two"))), None);
    let epoch = bench.group.epoch();
    let back = bench.send(static_join("a2", "one"));
    assert_eq!((back.epoch, numbers(&back)), (2, Some(vec![0, 1])));
    assert_eq!((bench.group.epoch(), bench.group.member_count()), (epoch, 2));
    assert_eq!(
        bench.refusal(static_beat("a", 2, "one")),
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        bench.refusal(static_beat("c", 2, "three")),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        bench.refusal(static_join("b", "three")),
        ErrorCode::InvalidRequest
    );
}

#[test]
fn a_static_member_that_does_not_return_is_removed() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(static_join("a", "one"));
    bench.send(static_beat("a", STATIC_LEAVE_EPOCH, "one"));
    assert!(bench.group.expire(RULES.session_ms));
    assert!(!bench.group.has_members());
    assert_eq!(numbers(&bench.send(static_join("a2", "one"))), Some(vec![0, 1]));
}

#[test]
fn a_static_member_leaves_for_good_or_is_removed_by_an_administrator() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(static_join("a", "one"));
    assert_eq!(
        bench.refusal(static_beat("b", LEAVE_EPOCH, "one")),
        ErrorCode::FencedInstanceId
    );
    bench.send(static_beat("a", LEAVE_EPOCH, "one"));
    assert!(!bench.group.has_members());
    bench.send(static_join("b", "one"));
    assert_eq!(
        bench.group.remove("", Some("two")).unwrap_err().code(),
        ErrorCode::UnknownMemberId
    );
    let error = bench.group.remove("a", Some("one")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::FencedInstanceId);
    bench.group.remove("", Some("one")).unwrap();
    assert!(!bench.group.has_members());
    bench.send(join("c", &["orders"]));
    bench.group.remove("c", None).unwrap();
    let error = bench.group.remove("c", None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownMemberId);
}
