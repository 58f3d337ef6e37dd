//! How a group's leader shares partitions among the members: pure functions of the members' subscriptions. Names and
//! results of `range` and `roundrobin` are Kafka's, so mixed groups agree.

mod range;
mod round_robin;
mod sticky;

use std::collections::{BTreeMap, BTreeSet};

use streamhouse_core::TopicPartition;

/// A way to share partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assignor {
    /// Balanced, moves as few partitions as possible, and moves them without stopping the others: a partition is given to
    /// its new member only after the old one gave it up.
    CooperativeSticky,
    /// Consecutive partitions of each topic. Members with equal subscriptions get equal partitions of co-partitioned topics.
    Range,
    /// All partitions of all topics in turn.
    RoundRobin,
}

/// A member that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Given by the coordinator.
    pub id: String,
    /// Static membership.
    pub instance_id: Option<String>,
    /// What it wants.
    pub topics: Vec<String>,
    /// What it holds at the moment.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it held that.
    pub generation: Option<i32>,
}

/// Who gets what, by member id. Every member has an entry.
pub type Assignment = BTreeMap<String, Vec<TopicPartition>>;

impl Assignor {
    /// The protocol name, as Kafka's clients know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    /// The assignor of a protocol name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::CooperativeSticky, Self::Range, Self::RoundRobin]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Whether members keep their partitions while the group rebalances.
    pub fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }

    /// Shares the partitions of `topics` (their number by name) among `members`. A topic that is not named there has no
    /// partitions. With [`Assignor::CooperativeSticky`] a partition that changes hands is left out until its old member
    /// no longer holds it.
    pub fn assign(self, members: &[Member], topics: &BTreeMap<String, i32>) -> Assignment {
        match self {
            Self::Range => range::assign(members, topics),
            Self::RoundRobin => round_robin::assign(members, topics),
            Self::CooperativeSticky => withhold_moving(members, sticky::assign(members, topics)),
        }
    }
}

/// Leaves out the partitions that somebody else than their new member still holds.
fn withhold_moving(members: &[Member], mut assignment: Assignment) -> Assignment {
    let mut holders: BTreeMap<&TopicPartition, BTreeSet<&str>> = BTreeMap::new();
    for member in members {
        for partition in &member.owned {
            holders.entry(partition).or_default().insert(&member.id);
        }
    }
    for (member, partitions) in &mut assignment {
        partitions.retain(|partition| {
            holders
                .get(partition)
                .is_none_or(|holders| holders.contains(member.as_str()))
        });
    }
    assignment
}

/// Members in Kafka's order: static ones by instance id, then the others by member id.
fn ordered(members: &[Member]) -> Vec<&Member> {
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by(|a, b| match (&a.instance_id, &b.instance_id) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.id.cmp(&b.id),
    });
    ordered
}

/// An entry for everybody.
fn nothing_each(members: &[Member]) -> Assignment {
    members
        .iter()
        .map(|member| (member.id.clone(), Vec::new()))
        .collect()
}

/// The partitions of a topic.
fn partitions_of<'a>(
    topic: &'a str,
    topics: &BTreeMap<String, i32>,
) -> impl Iterator<Item = TopicPartition> + use<'a> {
    let count = topics.get(topic).copied().unwrap_or(0);
    (0..count).map(move |partition| TopicPartition::new(topic, partition))
}

/// Every topic that somebody wants, in order.
fn wanted_topics(members: &[Member]) -> BTreeSet<&str> {
    members
        .iter()
        .flat_map(|member| member.topics.iter().map(String::as_str))
        .collect()
}

#[cfg(test)]
mod tests;
