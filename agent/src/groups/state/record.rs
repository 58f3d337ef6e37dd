//! The persisted form of a group, which survives the agent that coordinates it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use streamhouse_core::{Error, ErrorCode};

use super::{ClassicGroup, GroupPhase, GroupRules, MemberProtocol, MemberState};

/// The format version of [`StoredGroup`]; other versions are refused.
const STORED_FORMAT: u32 = 1;

/// The members must join again.
const PHASE_PREPARING: u32 = 1;
/// The leader must assign.
const PHASE_COMPLETING: u32 = 2;
/// The leader has assigned.
const PHASE_STABLE: u32 = 3;

/// The stored state of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStateRecord {
    /// Fences members of old generations.
    pub generation: i32,
    /// Empty if the group has no members.
    pub state: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredGroup {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    protocol_type: String,
    #[prost(string, tag = "3")]
    protocol: String,
    #[prost(string, tag = "4")]
    leader: String,
    /// [`PHASE_PREPARING`], [`PHASE_COMPLETING`] or [`PHASE_STABLE`].
    #[prost(uint32, tag = "5")]
    phase: u32,
    /// The oldest first.
    #[prost(message, repeated, tag = "6")]
    members: Vec<StoredMember>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMember {
    #[prost(string, tag = "1")]
    id: String,
    /// Empty for dynamic members.
    #[prost(string, tag = "2")]
    instance: String,
    #[prost(string, tag = "3")]
    client_id: String,
    #[prost(string, tag = "4")]
    client_host: String,
    #[prost(int64, tag = "5")]
    session_ms: i64,
    #[prost(int64, tag = "6")]
    rebalance_ms: i64,
    #[prost(message, repeated, tag = "7")]
    protocols: Vec<StoredProtocol>,
    #[prost(bytes = "bytes", tag = "8")]
    assignment: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StoredProtocol {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    metadata: Bytes,
}

impl ClassicGroup {
    /// Encodes what another coordinator needs to continue the group. Leaves out dynamic members
    /// whose clients have not received their ids yet: those clients could not continue there.
    pub fn to_record(&self) -> GroupStateRecord {
        let named = |member: &MemberState| !member.id_unconfirmed || member.instance.is_some();
        let members = self.members.iter().filter(|(_, member)| named(member));
        let mut members: Vec<_> = members.collect();
        if members.is_empty() {
            return GroupStateRecord {
                generation: self.generation,
                state: Vec::new(),
            };
        }
        members.sort_by_key(|(_, member)| member.order);
        let stored = StoredGroup {
            format: STORED_FORMAT,
            protocol_type: self.protocol_type.to_string(),
            protocol: self.protocol.to_string(),
            leader: self.leader.as_deref().unwrap_or_default().to_owned(),
            phase: match self.phase {
                GroupPhase::Stable => PHASE_STABLE,
                GroupPhase::Completing => PHASE_COMPLETING,
                GroupPhase::Preparing { .. } | GroupPhase::Empty | GroupPhase::Dead => PHASE_PREPARING,
            },
            members: members
                .into_iter()
                .map(|(id, member)| encode_member(id, member))
                .collect(),
        };
        GroupStateRecord {
            generation: self.generation,
            state: stored.encode_to_vec(),
        }
    }

    /// Decodes a stored group. Its members get a fresh session, so that they continue as if nothing
    /// had happened.
    ///
    /// # Errors
    /// UNKNOWN if the bytes cannot be decoded.
    pub fn load(rules: GroupRules, generation: i32, state: &[u8], now: i64) -> Result<Self, Error> {
        let mut group = Self::new(rules, generation);
        if state.is_empty() {
            return Ok(group);
        }
        let unreadable = |why: String| {
            Error::new(
                ErrorCode::Unknown,
                format!("the stored group cannot be decoded: {why}"),
            )
        };
        let stored = StoredGroup::decode(state).map_err(|error| unreadable(error.to_string()))?;
        if stored.format != STORED_FORMAT {
            return Err(unreadable(format!(
                "its format version is {}, this agent supports {STORED_FORMAT}",
                stored.format
            )));
        }
        group.protocol_type = stored.protocol_type.into();
        group.protocol = stored.protocol.into();
        for stored_member in stored.members {
            group.restore_member(now, stored_member, stored.phase == PHASE_STABLE);
        }
        group.leader = group
            .members
            .get_key_value(stored.leader.as_str())
            .map(|(id, _)| id.clone());
        if group.members.is_empty() {
            return Ok(group);
        }
        let until = now.saturating_add(group.max_rebalance_ms().max(1));
        group.phase = match stored.phase {
            PHASE_STABLE => GroupPhase::Stable,
            PHASE_COMPLETING => GroupPhase::Completing,
            PHASE_PREPARING => GroupPhase::Preparing {
                not_before: now,
                until,
            },
            other => return Err(unreadable(format!("unknown phase {other}"))),
        };
        group.sync_until = (group.phase == GroupPhase::Completing).then_some(until);
        Ok(group)
    }

    fn restore_member(&mut self, now: i64, stored: StoredMember, assigned: bool) {
        let id = Arc::from(stored.id);
        let instance: Option<Arc<str>> = (!stored.instance.is_empty()).then(|| stored.instance.into());
        if let Some(instance) = &instance {
            self.static_members.insert(instance.clone(), Arc::clone(&id));
        }
        let protocols = stored.protocols.into_iter().map(|p| MemberProtocol {
            name: p.name.into(),
            metadata: p.metadata,
        });
        let member = MemberState {
            instance,
            client_id: stored.client_id.into(),
            client_host: stored.client_host.into(),
            session_ms: stored.session_ms,
            rebalance_ms: stored.rebalance_ms,
            protocols: protocols.collect(),
            assignment: stored.assignment,
            expires: now.saturating_add(stored.session_ms),
            joined: false,
            joining: None,
            syncing: None,
            synced: assigned,
            id_unconfirmed: false,
            order: self.next_order,
        };
        self.next_order += 1;
        self.members.insert(id, member);
    }
}

fn encode_member(id: &str, member: &MemberState) -> StoredMember {
    let protocols = member.protocols.iter();
    StoredMember {
        id: id.to_owned(),
        instance: member.instance.as_deref().unwrap_or_default().to_owned(),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        session_ms: member.session_ms,
        rebalance_ms: member.rebalance_ms,
        protocols: protocols
            .map(|p| StoredProtocol {
                name: p.name.to_string(),
                metadata: p.metadata.clone(),
            })
            .collect(),
        assignment: member.assignment.clone(),
    }
}
