//! Assignors: how the leader of a group distributes partitions among the members, as pure functions
//! of their subscriptions. Names and results of `range` and `roundrobin` are Kafka's, so that
//! groups may mix clients.

mod range;
mod round_robin;
mod sticky;

use std::collections::{BTreeMap, BTreeSet};

use streamhouse_core::TopicPartition;

/// A strategy to distribute partitions among the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assignor {
    /// Balanced; moves as few partitions as possible, and moves them without stopping the other
    /// members: a partition is assigned to its new owner only after the old one has given it up.
    CooperativeSticky,
    /// Consecutive partitions of each topic. Members with equal subscriptions get equal partitions
    /// of co-partitioned topics.
    Range,
    /// All partitions of all topics in turn.
    RoundRobin,
}

/// A member of a group, as input of an assignor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemberSubscription {
    /// Member id, given by the coordinator.
    pub id: String,
    /// Group instance id of a static member.
    pub instance_id: Option<String>,
    /// Subscribed topics.
    pub topics: Vec<String>,
    /// Partitions that the member owns.
    pub owned: Vec<TopicPartition>,
    /// Generation in which it owned them.
    pub generation: Option<i32>,
}

impl MemberSubscription {
    /// Creates a dynamic member that subscribes to these topics and owns no partitions.
    pub fn new<T: Into<String>>(id: impl Into<String>, topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            id: id.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// Assigned partitions by member id. Every member has an entry.
pub type GroupAssignment = BTreeMap<String, Vec<TopicPartition>>;

impl Assignor {
    /// Returns the protocol name, as in Kafka's clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    /// Returns the assignor with this protocol name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::CooperativeSticky, Self::Range, Self::RoundRobin]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Returns whether members keep their partitions during a rebalance.
    pub fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }

    /// Distributes the partitions of `topics` (number of partitions by name) among `members`. A
    /// topic that is not in `topics` has no partitions. With [`Assignor::CooperativeSticky`], a
    /// partition that changes its owner is left out until the old owner has given it up.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use streamhouse_client::consumer::{Assignor, assignors::MemberSubscription};
    ///
    /// let members = ["a", "b"].map(|id| MemberSubscription::new(id, ["orders"]));
    /// let topics = BTreeMap::from([("orders".to_owned(), 4)]);
    /// let assigned = Assignor::Range.assign(&members, &topics);
    /// assert_eq!(assigned["a"].len(), 2);
    /// ```
    pub fn assign(self, members: &[MemberSubscription], topics: &BTreeMap<String, i32>) -> GroupAssignment {
        match self {
            Self::Range => range::assign(members, topics),
            Self::RoundRobin => round_robin::assign(members, topics),
            Self::CooperativeSticky => withhold_moving(members, sticky::assign(members, topics)),
        }
    }
}

/// Removes the partitions that another member than their new owner still owns.
fn withhold_moving(members: &[MemberSubscription], mut assignment: GroupAssignment) -> GroupAssignment {
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

/// Sorts members as Kafka does: static ones by instance id, then the others by member id.
fn sorted_members(members: &[MemberSubscription]) -> Vec<&MemberSubscription> {
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by(|a, b| match (&a.instance_id, &b.instance_id) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.id.cmp(&b.id),
    });
    ordered
}

/// Returns an assignment without partitions, with an entry for each member.
fn empty_assignment(members: &[MemberSubscription]) -> GroupAssignment {
    members
        .iter()
        .map(|member| (member.id.clone(), Vec::new()))
        .collect()
}

/// Returns the partitions of a topic.
fn partitions_of<'a>(
    topic: &'a str,
    topics: &BTreeMap<String, i32>,
) -> impl Iterator<Item = TopicPartition> + use<'a> {
    let count = topics.get(topic).copied().unwrap_or(0);
    (0..count).map(move |partition| TopicPartition::new(topic, partition))
}

/// Returns all subscribed topics in order.
fn wanted_topics(members: &[MemberSubscription]) -> BTreeSet<&str> {
    members
        .iter()
        .flat_map(|member| member.topics.iter().map(String::as_str))
        .collect()
}

#[cfg(test)]
mod tests;
