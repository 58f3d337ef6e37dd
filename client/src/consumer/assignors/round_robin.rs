//! Kafka's round-robin assignor: all partitions of all topics, in order, to the members in turn.
//! Members without a subscription to the topic are skipped.

use std::collections::BTreeMap;

use super::{
    GroupAssignment, MemberSubscription, empty_assignment, partitions_of, sorted_members, wanted_topics,
};

pub(super) fn assign(members: &[MemberSubscription], topics: &BTreeMap<String, i32>) -> GroupAssignment {
    let mut assignment = empty_assignment(members);
    let order = sorted_members(members);
    let mut turn = 0;
    for topic in wanted_topics(members) {
        for partition in partitions_of(topic, topics) {
            // At least one member subscribes to the topic, so this ends within one round.
            while !order[turn % order.len()].topics.iter().any(|t| t == topic) {
                turn += 1;
            }
            assignment
                .entry(order[turn % order.len()].id.clone())
                .or_default()
                .push(partition);
            turn += 1;
        }
    }
    assignment
}
