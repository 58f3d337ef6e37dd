//! A heartbeat of a member, and what it is answered.

use std::sync::Arc;

use streamhouse_core::Error;

use super::{
    ConsumerMember, JOIN_EPOCH, LEAVE_EPOCH, MemberId, STATIC_LEAVE_EPOCH, assignor::ServerAssignor,
    errors::fenced_epoch, partitions::PartitionSet,
};

/// A heartbeat whose limits are already checked.
#[derive(Debug, Clone)]
pub struct MemberHeartbeat {
    /// The member id; not empty.
    pub member_id: MemberId,
    /// The member epoch; see [`JOIN_EPOCH`], [`LEAVE_EPOCH`] and [`STATIC_LEAVE_EPOCH`].
    pub epoch: i32,
    /// The group instance id of a static member.
    pub instance: Option<Arc<str>>,
    /// The rack; `None` if it has not changed.
    pub rack: Option<Arc<str>>,
    /// The rebalance timeout in milliseconds; `None` if it has not changed.
    pub rebalance_ms: Option<i64>,
    /// The subscribed topics in order, each once; `None` if they have not changed.
    pub topics: Option<Arc<[Arc<str>]>>,
    /// The subscribed regular expression, empty for none; `None` if it has not changed.
    pub pattern: Option<Arc<str>>,
    /// The preferred assignor; `None` if it has not changed.
    pub assignor: Option<ServerAssignor>,
    /// The partitions that the member has; `None` if they have not changed.
    pub owned: Option<PartitionSet>,
    /// The client id.
    pub client_id: Arc<str>,
    /// The address of the client.
    pub client_host: Arc<str>,
}

impl MemberHeartbeat {
    /// Returns whether the member sends everything, as it does after an error: it may not know its
    /// assignment.
    pub(super) fn is_full(&self) -> bool {
        let subscribes = self.topics.is_some() || self.pattern.is_some();
        let everything = self.rebalance_ms.is_some() && subscribes && self.owned.is_some();
        self.epoch == JOIN_EPOCH || everything
    }

    pub(super) fn is_leave(&self) -> bool {
        matches!(self.epoch, LEAVE_EPOCH | STATIC_LEAVE_EPOCH)
    }

    /// Returns the member as it is with the fields of this heartbeat.
    pub(super) fn update(&self, member: &ConsumerMember) -> ConsumerMember {
        let mut updated = member.clone();
        updated.client_id = self.client_id.clone();
        updated.client_host = self.client_host.clone();
        if self.instance.is_some() {
            updated.instance = self.instance.clone();
        }
        if self.rack.is_some() {
            updated.rack = self.rack.clone();
        }
        if let Some(rebalance_ms) = self.rebalance_ms {
            updated.rebalance_ms = rebalance_ms;
        }
        if let Some(topics) = &self.topics {
            updated.topics = topics.clone();
        }
        if let Some(pattern) = &self.pattern {
            updated.pattern = Some(pattern.clone()).filter(|pattern| !pattern.is_empty());
        }
        if self.assignor.is_some() {
            updated.assignor = self.assignor;
        }
        updated
    }
}

/// The reply to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The member id.
    pub member_id: MemberId,
    /// The new member epoch.
    pub epoch: i32,
    /// The partitions that the member may have, if they have changed or it may not know them.
    pub assignment: Option<PartitionSet>,
}

/// The outcome of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatOutcome {
    /// Whether the group must be stored before the reply is sent.
    pub persist: bool,
    /// The reply.
    pub reply: HeartbeatReply,
}

/// Checks the epoch of a heartbeat. A member may have the epoch before if a reply was lost: then
/// it has nothing that it must not have.
pub(super) fn check_epoch(member: &ConsumerMember, beat: &MemberHeartbeat) -> Result<(), Error> {
    if beat.epoch == JOIN_EPOCH || beat.epoch == member.epoch {
        return Ok(());
    }
    let is_subset = |owned: &PartitionSet| {
        owned
            .iter()
            .all(|partition| member.assigned.contains_key(partition))
    };
    let lost_reply = beat.epoch < member.epoch
        && beat.epoch == member.previous_epoch
        && beat.owned.as_ref().is_some_and(is_subset);
    match lost_reply {
        true => Ok(()),
        false => Err(fenced_epoch(beat.epoch, member.epoch)),
    }
}
