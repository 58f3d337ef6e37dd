//! The assignors that run at the coordinator: which partitions each member should have.

mod range;
mod uniform;

use std::sync::Arc;

use super::{catalog::TopicShape, partitions::PartitionSet};

/// An assignor of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerAssignor {
    /// Balances the number of partitions, and moves as few as possible.
    Uniform,
    /// Gives each member consecutive partitions of each topic.
    Range,
}

impl ServerAssignor {
    /// All assignors, the default one first.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// Returns Kafka's name of the assignor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// Returns the assignor with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// Assigns every partition that a member subscribes to. The result is in the order of the
    /// members.
    pub(super) fn assign(self, topics: &[TopicShape], members: &[AssignorMember<'_>]) -> Vec<PartitionSet> {
        match self {
            Self::Uniform => uniform::assign(topics, members),
            Self::Range => range::assign(topics, members),
        }
    }
}

/// A member as an assignor sees it.
#[derive(Debug, Clone)]
pub(super) struct AssignorMember<'a> {
    /// The group instance id of a static member: its place in the order survives restarts.
    pub(super) instance: Option<&'a Arc<str>>,
    /// The subscribed topics, as indexes into the topics.
    pub(super) topics: Vec<usize>,
    /// What the member should have had so far.
    pub(super) previous: &'a PartitionSet,
}

/// Returns the subscribers of each topic, as indexes into the members.
fn subscribers(topics: &[TopicShape], members: &[AssignorMember<'_>]) -> Vec<Vec<usize>> {
    let mut subscribers = vec![Vec::new(); topics.len()];
    for (member, described) in members.iter().enumerate() {
        for topic in &described.topics {
            subscribers[*topic].push(member);
        }
    }
    subscribers
}

#[cfg(test)]
mod tests;
