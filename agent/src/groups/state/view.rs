//! A group as seen by administrators.

use std::sync::Arc;

use bytes::Bytes;

use super::{ClassicGroup, GroupPhase, MemberId, join::protocol_bytes};

/// Approximate bytes of a member beyond its strings and payloads.
const MEMBER_OVERHEAD: usize = 400;
/// Approximate bytes of a group beyond its members.
const GROUP_OVERHEAD: usize = 600;

/// The description of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Empty, PreparingRebalance, CompletingRebalance, Stable, Dead.
    pub state: &'static str,
    /// The current generation.
    pub generation: i32,
    /// "consumer".
    pub protocol_type: Arc<str>,
    /// The selected protocol.
    pub protocol: Arc<str>,
    /// Empty without a leader.
    pub leader: MemberId,
    /// In the order of their ids.
    pub members: Vec<MemberView>,
}

/// The description of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// The member id.
    pub member_id: MemberId,
    /// The group instance id.
    pub instance: Option<Arc<str>>,
    /// The client id.
    pub client_id: Arc<str>,
    /// The address of the client.
    pub client_host: Arc<str>,
    /// For the selected protocol.
    pub metadata: Bytes,
    /// The current assignment.
    pub assignment: Bytes,
}

impl ClassicGroup {
    /// Returns Kafka's name of the state.
    pub fn state_name(&self) -> &'static str {
        match self.phase {
            GroupPhase::Empty => "Empty",
            GroupPhase::Preparing { .. } => "PreparingRebalance",
            GroupPhase::Completing => "CompletingRebalance",
            GroupPhase::Stable => "Stable",
            GroupPhase::Dead => "Dead",
        }
    }

    /// Describes the group for listing and describing.
    pub fn view(&self) -> GroupView {
        let members = self.members.iter().map(|(id, member)| MemberView {
            member_id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(&self.protocol),
            assignment: member.assignment.clone(),
        });
        GroupView {
            state: self.state_name(),
            generation: self.generation,
            protocol_type: if self.members.is_empty() {
                "".into()
            } else {
                self.protocol_type.clone()
            },
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| "".into()),
            members: members.collect(),
        }
    }

    /// Returns the approximate memory of the group in bytes.
    pub fn memory_bytes(&self) -> usize {
        let members = self.members.iter().map(|(id, member)| {
            let instance = member.instance.as_ref().map_or(0, |instance| instance.len());
            let named = id.len() + instance + member.client_id.len() + member.client_host.len();
            MEMBER_OVERHEAD + named + protocol_bytes(&member.protocols) + member.assignment.len()
        });
        let pending = self.pending_ids.keys().map(|id| id.len() + MEMBER_OVERHEAD / 4);
        GROUP_OVERHEAD + members.chain(pending).sum::<usize>()
    }
}
