//! A group as operators see it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Group, MemberId, Phase, join::protocol_bytes};

/// What a member costs beyond its strings and bytes, roughly.
const MEMBER_OVERHEAD: usize = 400;
/// What a group costs beyond its members, roughly.
const GROUP_OVERHEAD: usize = 600;

/// A group, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Empty, PreparingRebalance, CompletingRebalance, Stable, Dead.
    pub state: &'static str,
    /// The generation in force.
    pub generation: i32,
    /// "consumer".
    pub protocol_type: Arc<str>,
    /// The chosen protocol.
    pub protocol: Arc<str>,
    /// Empty when nobody leads.
    pub leader: MemberId,
    /// By id.
    pub members: Vec<MemberView>,
}

/// A member, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its id.
    pub member_id: MemberId,
    /// Its static name.
    pub instance: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// From where it calls.
    pub client_host: Arc<str>,
    /// In the chosen protocol.
    pub metadata: Bytes,
    /// What it was given.
    pub assignment: Bytes,
}

impl Group {
    /// The state's name.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing { .. } => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
            Phase::Dead => "Dead",
        }
    }

    /// For describing and listing.
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
            state: self.state(),
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

    /// The memory that it takes, roughly.
    pub fn bytes(&self) -> usize {
        let members = self.members.iter().map(|(id, member)| {
            let instance = member.instance.as_ref().map_or(0, |instance| instance.len());
            let named = id.len() + instance + member.client_id.len() + member.client_host.len();
            MEMBER_OVERHEAD + named + protocol_bytes(&member.protocols) + member.assignment.len()
        });
        let pending = self.pending.keys().map(|id| id.len() + MEMBER_OVERHEAD / 4);
        GROUP_OVERHEAD + members.chain(pending).sum::<usize>()
    }
}
