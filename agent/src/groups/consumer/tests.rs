//! The state machine step by step: joining, reconciling, leaving, static members, fencing, topics.

mod offsets_and_storage;
mod static_members;
mod topics;

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::ErrorCode;
use uuid::Uuid;

use super::*;

/// Topics that a test changes as it likes.
#[derive(Debug, Clone, Default)]
pub(super) struct TestCatalog {
    version: u64,
    topics: BTreeMap<String, TopicShape>,
    created: u128,
}

impl TestCatalog {
    pub(super) fn new(topics: &[(&str, i32)]) -> Self {
        let mut catalog = Self::default();
        for (name, partitions) in topics {
            catalog.set_topic(name, *partitions);
        }
        catalog
    }

    /// Creates a topic, or gives it more partitions.
    pub(super) fn set_topic(&mut self, name: &str, partitions: i32) {
        self.version += 1;
        self.created += 1;
        let shape = TopicShape {
            id: Uuid::from_u128(self.created),
            partitions,
        };
        self.topics.entry(name.to_owned()).or_insert(shape).partitions = partitions;
    }

    pub(super) fn delete_topic(&mut self, name: &str) {
        self.version += 1;
        self.topics.remove(name);
    }

    pub(super) fn partitions(&self, name: &str) -> PartitionSet {
        let shape = self.topics.get(name).copied();
        let all = |shape: TopicShape| (0..shape.partitions).map(move |partition| (shape.id, partition));
        shape.into_iter().flat_map(all).collect()
    }
}

impl TopicCatalog for TestCatalog {
    fn version(&self) -> u64 {
        self.version
    }

    fn topic(&self, name: &str) -> Option<TopicShape> {
        self.topics.get(name).copied()
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        let named = self.topics.iter().find(|(_, shape)| shape.id == id);
        named.map(|(name, _)| name.as_str())
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.topics.keys().map(String::as_str))
    }
}

pub(super) const RULES: ConsumerGroupRules = ConsumerGroupRules {
    max_members: 4,
    max_bytes: 100,
    session_ms: 45_000,
    heartbeat_ms: 5_000,
    assignment_interval_ms: 0,
    pattern_interval_ms: 10_000,
};
pub(super) const REBALANCE_MS: i64 = 60_000;

pub(super) fn topic_list(topics: &[&str]) -> Arc<[Arc<str>]> {
    topics.iter().map(|topic| Arc::from(*topic)).collect()
}

/// Returns a heartbeat that says nothing new.
pub(in crate::groups) fn beat(member_id: &str, epoch: i32) -> MemberHeartbeat {
    MemberHeartbeat {
        member_id: member_id.into(),
        epoch,
        instance: None,
        rack: None,
        rebalance_ms: None,
        topics: None,
        pattern: None,
        assignor: None,
        owned: None,
        client_id: "client".into(),
        client_host: "127.0.0.1".into(),
    }
}

/// Returns the first heartbeat of a member.
pub(super) fn join(member_id: &str, topics: &[&str]) -> MemberHeartbeat {
    MemberHeartbeat {
        rebalance_ms: Some(REBALANCE_MS),
        topics: Some(topic_list(topics)),
        owned: Some(PartitionSet::new()),
        ..beat(member_id, JOIN_EPOCH)
    }
}

/// A group with its topics and a clock.
struct GroupBench {
    group: ConsumerGroup,
    catalog: TestCatalog,
    now: i64,
}

impl GroupBench {
    fn new(topics: &[(&str, i32)]) -> Self {
        Self {
            group: ConsumerGroup::new(RULES, 0),
            catalog: TestCatalog::new(topics),
            now: 0,
        }
    }

    fn send(&mut self, beat: MemberHeartbeat) -> HeartbeatReply {
        self.group
            .heartbeat(self.now, &beat, &self.catalog)
            .unwrap()
            .reply
    }

    fn refusal(&mut self, beat: MemberHeartbeat) -> ErrorCode {
        self.group
            .heartbeat(self.now, &beat, &self.catalog)
            .unwrap_err()
            .code()
    }

    /// Sends a heartbeat of a member that has these partitions.
    fn report(&mut self, member_id: &str, epoch: i32, owned: &[PartitionKey]) -> HeartbeatReply {
        let owned = Some(owned.iter().copied().collect());
        self.send(MemberHeartbeat {
            owned,
            ..beat(member_id, epoch)
        })
    }

    fn keys(&self, topic: &str, partitions: &[i32]) -> Vec<PartitionKey> {
        let id = self.catalog.topic(topic).unwrap().id;
        partitions.iter().map(|partition| (id, *partition)).collect()
    }
}

fn numbers(reply: &HeartbeatReply) -> Option<Vec<i32>> {
    let assignment = reply.assignment.as_ref()?;
    Some(assignment.iter().map(|(_, partition)| *partition).collect())
}

#[test]
fn a_lone_member_gets_everything_at_once() {
    let mut bench = GroupBench::new(&[("orders", 3)]);
    assert_eq!(bench.group.state_name(), "Empty");
    let reply = bench.send(join("a", &["orders"]));
    assert_eq!((reply.epoch, numbers(&reply)), (1, Some(vec![0, 1, 2])));
    assert_eq!(bench.group.state_name(), "Stable");
    // Nothing new: no assignment, and nothing to store.
    let outcome = bench.group.heartbeat(0, &beat("a", 1), &bench.catalog).unwrap();
    assert!(!outcome.persist && outcome.reply.assignment.is_none());
}

#[test]
fn a_member_that_sends_everything_learns_its_assignment() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(join("a", &["orders"]));
    let full = MemberHeartbeat {
        epoch: 1,
        ..join("a", &["orders"])
    };
    let reply = bench.group.extend_session(0, &full, &bench.catalog).unwrap();
    assert_eq!(numbers(&reply), Some(vec![0, 1]));
    assert_eq!(bench.send(full), reply);
}

#[test]
fn partitions_are_given_up_before_another_member_gets_them() {
    let mut bench = GroupBench::new(&[("orders", 4)]);
    bench.send(join("a", &["orders"]));
    let second = bench.send(join("b", &["orders"]));
    assert_eq!((second.epoch, numbers(&second)), (2, Some(vec![])));
    assert_eq!(bench.group.state_name(), "Reconciling");
    // The first member is asked for two partitions, and stays in its epoch until it has given them
    // up.
    let first = bench.send(beat("a", 1));
    assert_eq!((first.epoch, numbers(&first)), (1, Some(vec![0, 1])));
    let all = bench.keys("orders", &[0, 1, 2, 3]);
    assert_eq!(bench.report("a", 1, &all).epoch, 1);
    assert_eq!(numbers(&bench.send(beat("b", 2))), None);
    let kept = bench.keys("orders", &[0, 1]);
    let first = bench.report("a", 1, &kept);
    assert_eq!((first.epoch, numbers(&first)), (2, None));
    let second = bench.send(beat("b", 2));
    assert_eq!((second.epoch, numbers(&second)), (2, Some(vec![2, 3])));
    assert_eq!(bench.group.state_name(), "Stable");
}

#[test]
fn a_member_that_leaves_or_dies_frees_its_partitions() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(join("a", &["orders"]));
    bench.send(join("b", &["orders"]));
    let left = bench.send(beat("a", LEAVE_EPOCH));
    assert_eq!(left.epoch, LEAVE_EPOCH);
    assert_eq!(bench.group.state_name(), "Assigning");
    assert_eq!(numbers(&bench.send(beat("b", 2))), Some(vec![0, 1]));
    bench.now = RULES.session_ms;
    assert_eq!(bench.group.deadline(), Some(RULES.session_ms));
    assert!(!bench.group.expire(bench.now - 1) && bench.group.expire(bench.now));
    assert_eq!(
        (bench.group.state_name(), bench.group.deadline()),
        ("Empty", None)
    );
    assert_eq!(bench.refusal(beat("b", 3)), ErrorCode::UnknownMemberId);
}

#[test]
fn a_member_that_keeps_partitions_too_long_is_removed() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(join("a", &["orders"]));
    bench.send(join("b", &["orders"]));
    bench.send(beat("a", 1));
    bench.now = REBALANCE_MS - 1;
    assert_eq!(bench.report("a", 1, &bench.keys("orders", &[0, 1])).epoch, 1);
    bench.send(beat("b", 2));
    assert!(!bench.group.expire(bench.now));
    assert!(bench.group.expire(REBALANCE_MS));
    assert_eq!(numbers(&bench.send(beat("b", 2))), Some(vec![0, 1]));
    assert_eq!(bench.refusal(beat("a", 1)), ErrorCode::UnknownMemberId);
}

#[test]
fn epochs_fence_members_and_a_lost_reply_does_not() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.send(join("a", &["orders"]));
    bench.send(join("b", &["orders"]));
    bench.send(beat("a", 1));
    let kept = bench.keys("orders", &[0]);
    assert_eq!(bench.report("a", 1, &kept).epoch, 2);
    // The reply was lost: the member still has epoch 1, and nothing that it must not have.
    assert_eq!(bench.report("a", 1, &kept).epoch, 2);
    assert_eq!(bench.refusal(beat("a", 1)), ErrorCode::FencedMemberEpoch);
    let owned = Some(bench.keys("orders", &[1]).into_iter().collect());
    let other = MemberHeartbeat {
        owned,
        ..beat("a", 1)
    };
    assert_eq!(bench.refusal(other), ErrorCode::FencedMemberEpoch);
    assert_eq!(bench.refusal(beat("a", 3)), ErrorCode::FencedMemberEpoch);
    assert_eq!(bench.refusal(beat("c", 3)), ErrorCode::UnknownMemberId);
    // A fenced member joins again under its id.
    let back = bench.send(join("a", &["orders"]));
    assert_eq!((back.epoch, numbers(&back)), (2, Some(vec![0])));
}

#[test]
fn a_group_has_limits() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    for member in ["a", "b", "c", "d"] {
        bench.send(join(member, &["orders"]));
    }
    assert_eq!(
        bench.refusal(join("e", &["orders"])),
        ErrorCode::GroupMaxSizeReached
    );
    let long = "x".repeat(90);
    assert_eq!(bench.refusal(join("a", &[&long])), ErrorCode::GroupMaxSizeReached);
    assert_eq!(bench.group.member_count(), 4);
}

#[test]
fn the_assignor_of_most_members_is_used() {
    let mut bench = GroupBench::new(&[("orders", 4)]);
    let with = |member: &str, assignor| MemberHeartbeat {
        assignor: Some(assignor),
        ..join(member, &["orders"])
    };
    bench.send(join("a", &["orders"]));
    assert_eq!(bench.group.view().assignor, "uniform");
    bench.send(with("b", ServerAssignor::Range));
    assert_eq!(bench.group.view().assignor, "range");
    bench.send(with("c", ServerAssignor::Uniform));
    assert_eq!(bench.group.view().assignor, "uniform");
}

#[test]
fn targets_are_computed_once_in_an_interval() {
    let mut bench = GroupBench::new(&[("orders", 2)]);
    bench.group.rules.assignment_interval_ms = 1_000;
    bench.send(join("a", &["orders"]));
    let second = bench.send(join("b", &["orders"]));
    assert_eq!((second.epoch, numbers(&second)), (1, Some(vec![])));
    assert_eq!(bench.group.state_name(), "Assigning");
    bench.now = 1_000;
    assert_eq!(bench.send(beat("b", 1)).epoch, 2);
    assert_eq!(numbers(&bench.send(beat("a", 1))), Some(vec![0]));
}
