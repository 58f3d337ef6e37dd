//! A group as seen by administrators.

use std::sync::Arc;

use super::{ConsumerGroup, MemberId, partitions::PartitionSet};

/// Approximate bytes of a member beyond its strings and partitions.
const MEMBER_OVERHEAD: usize = 500;
/// Approximate bytes of a partition in a set.
const PARTITION_BYTES: usize = 32;
/// Approximate bytes of a group beyond its members.
const GROUP_OVERHEAD: usize = 600;
/// Bytes that a name takes beside its letters.
const NAME_OVERHEAD: usize = 32;

/// The description of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerGroupView {
    /// Empty, Assigning, Reconciling or Stable.
    pub state: &'static str,
    /// The group epoch.
    pub epoch: i32,
    /// The group epoch of the target assignment.
    pub assignment_epoch: i32,
    /// The assignor.
    pub assignor: &'static str,
    /// In the order of their ids.
    pub members: Vec<ConsumerMemberView>,
}

/// The description of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerMemberView {
    /// The member id.
    pub member_id: MemberId,
    /// The group instance id.
    pub instance: Option<Arc<str>>,
    /// The rack.
    pub rack: Option<Arc<str>>,
    /// The member epoch.
    pub epoch: i32,
    /// The client id.
    pub client_id: Arc<str>,
    /// The address of the client.
    pub client_host: Arc<str>,
    /// The subscribed topics.
    pub topics: Arc<[Arc<str>]>,
    /// The subscribed regular expression.
    pub pattern: Option<Arc<str>>,
    /// The partitions that the member may have.
    pub assigned: PartitionSet,
    /// The partitions that it should have.
    pub target: Arc<PartitionSet>,
}

impl ConsumerGroup {
    /// Returns Kafka's name of the state.
    pub fn state_name(&self) -> &'static str {
        let reconciled = |entry: &super::MemberEntry| entry.member.is_reconciled_to(self.assignment_epoch);
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self.members.values().all(reconciled) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// Describes the group.
    pub fn view(&self) -> ConsumerGroupView {
        let members = self.members.iter().map(|(id, entry)| {
            let member = &entry.member;
            ConsumerMemberView {
                member_id: id.clone(),
                instance: member.instance.clone(),
                rack: member.rack.clone(),
                epoch: member.epoch,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: member.topics.clone(),
                pattern: member.pattern.clone(),
                assigned: member.assigned.keys().copied().collect(),
                target: member.target.clone(),
            }
        });
        ConsumerGroupView {
            state: self.state_name(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.preferred_assignor().name(),
            members: members.collect(),
        }
    }

    /// Returns the approximate memory of the group in bytes.
    pub fn memory_bytes(&self) -> usize {
        let members = self.members.iter().map(|(id, entry)| {
            let member = &entry.member;
            let partitions = member.assigned.len() + member.revoking.len() + member.target.len();
            let named = id.len() + member.client_id.len() + member.client_host.len();
            let subscribed = member.subscription_bytes() + member.topics.len() * NAME_OVERHEAD;
            MEMBER_OVERHEAD + named + subscribed + partitions * PARTITION_BYTES
        });
        let topics = self.topics.keys().map(|name| name.len() + PARTITION_BYTES);
        GROUP_OVERHEAD + self.patterns.memory_bytes() + members.chain(topics).sum::<usize>()
    }
}
