//! A group of either protocol, classic or consumer (KIP-848), as the coordinator holds it. A group
//! without members takes the protocol of the next member that joins; its generation or epoch goes
//! on.

use prost::Message;
use streamhouse_core::{Error, ErrorCode};
use streamhouse_metadata::GroupWrite;

use super::{
    consumer::{CONSUMER_GROUP_FORMAT, ConsumerGroup},
    limits::GroupLimits,
    state::{ClassicGroup, GroupEffects, ReplyTicket},
};

/// The protocol of a group's members, with Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupType {
    /// The classic protocol.
    Classic,
    /// The consumer protocol.
    Consumer,
}

impl GroupType {
    /// Returns Kafka's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// A group of either protocol.
#[derive(Debug, Clone)]
pub(super) enum AnyGroup {
    /// A group of the classic protocol.
    Classic(ClassicGroup),
    /// A group of the consumer protocol.
    Consumer(ConsumerGroup),
}

/// What the stored states of both protocols have in common.
#[derive(Clone, PartialEq, Message)]
struct StoredFormat {
    #[prost(uint32, tag = "1")]
    format: u32,
}

fn stored_type(state: &[u8]) -> GroupType {
    match StoredFormat::decode(state) {
        Ok(stored) if stored.format == CONSUMER_GROUP_FORMAT => GroupType::Consumer,
        _ => GroupType::Classic,
    }
}

impl AnyGroup {
    /// Creates a group that has never existed.
    pub(super) fn new(limits: &GroupLimits) -> Self {
        Self::Classic(ClassicGroup::new(limits.rules(), 0))
    }

    /// Creates a group without members, of the stored protocol.
    pub(super) fn without_members(limits: &GroupLimits, generation: i32, state: &[u8]) -> Self {
        match stored_type(state) {
            GroupType::Classic => Self::Classic(ClassicGroup::new(limits.rules(), generation)),
            GroupType::Consumer => Self::Consumer(ConsumerGroup::new(limits.consumer_rules(), generation)),
        }
    }

    /// Decodes a stored group.
    ///
    /// # Errors
    /// UNKNOWN if the bytes cannot be decoded.
    pub(super) fn load(limits: &GroupLimits, generation: i32, state: &[u8], now: i64) -> Result<Self, Error> {
        Ok(match stored_type(state) {
            GroupType::Classic => Self::Classic(ClassicGroup::load(limits.rules(), generation, state, now)?),
            GroupType::Consumer => Self::Consumer(ConsumerGroup::load(
                limits.consumer_rules(),
                generation,
                state,
                now,
            )?),
        })
    }

    /// Returns what is stored of the group.
    pub(super) fn to_write(&self, group_id: &str, slot: i32) -> GroupWrite {
        let (generation, state, has_members) = match self {
            Self::Classic(group) => {
                let record = group.to_record();
                let has_members = !record.state.is_empty();
                (record.generation, record.state, has_members)
            }
            Self::Consumer(group) => (group.epoch(), group.to_state(), group.has_members()),
        };
        GroupWrite {
            group_id: group_id.to_owned(),
            slot,
            generation,
            state: Some(state),
            has_members,
        }
    }

    /// Returns the protocol of the group.
    pub(super) fn group_type(&self) -> GroupType {
        match self {
            Self::Classic(_) => GroupType::Classic,
            Self::Consumer(_) => GroupType::Consumer,
        }
    }

    /// Returns the group if it is a classic one.
    pub(super) fn classic(&mut self) -> Option<&mut ClassicGroup> {
        match self {
            Self::Classic(group) => Some(group),
            Self::Consumer(_) => None,
        }
    }

    /// Returns the group if it is one of the consumer protocol.
    pub(super) fn consumer(&mut self) -> Option<&mut ConsumerGroup> {
        match self {
            Self::Classic(_) => None,
            Self::Consumer(group) => Some(group),
        }
    }

    /// Returns the group for a classic member that joins: one of the consumer protocol becomes a
    /// classic one if it has no members.
    ///
    /// # Errors
    /// INCONSISTENT_GROUP_PROTOCOL if it has members of the consumer protocol.
    pub(super) fn for_join(&mut self, limits: &GroupLimits) -> Result<&mut ClassicGroup, Error> {
        if let Self::Consumer(group) = self {
            if group.has_members() {
                return Err(Error::new(
                    ErrorCode::InconsistentGroupProtocol,
                    "the group's members use the consumer protocol; use it too, or another group id",
                ));
            }
            *self = Self::Classic(ClassicGroup::new(limits.rules(), group.epoch()));
        }
        self.classic().ok_or_else(not_a_consumer_group)
    }

    /// Returns the group for a heartbeat of the consumer protocol. With that of a member that
    /// `joins`, a classic group becomes one of the consumer protocol if it has no members.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND if it is a classic group.
    pub(super) fn for_heartbeat(
        &mut self,
        limits: &GroupLimits,
        joins: bool,
    ) -> Result<&mut ConsumerGroup, Error> {
        if let Self::Classic(group) = self
            && joins
            && !group.has_members()
        {
            *self = Self::Consumer(ConsumerGroup::new(limits.consumer_rules(), group.generation()));
        }
        self.consumer().ok_or_else(not_a_consumer_group)
    }

    /// Returns the generation, or the group epoch.
    pub(super) fn generation(&self) -> i32 {
        match self {
            Self::Classic(group) => group.generation(),
            Self::Consumer(group) => group.epoch(),
        }
    }

    /// Returns whether all of the group's state is in the store.
    pub(super) fn is_vacant(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_vacant(),
            Self::Consumer(group) => !group.has_members(),
        }
    }

    /// Returns the number of members.
    pub(super) fn member_count(&self) -> usize {
        match self {
            Self::Classic(group) => group.member_count(),
            Self::Consumer(group) => group.member_count(),
        }
    }

    /// Returns whether the group has members.
    pub(super) fn has_members(&self) -> bool {
        self.member_count() > 0
    }

    /// Returns Kafka's name of the state.
    pub(super) fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state_name(),
            Self::Consumer(group) => group.state_name(),
        }
    }

    /// Returns the approximate memory in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.memory_bytes(),
            Self::Consumer(group) => group.memory_bytes(),
        }
    }

    /// Returns when [`expire`](Self::expire) is due.
    pub(super) fn deadline(&self) -> Option<i64> {
        match self {
            Self::Classic(group) => group.deadline(),
            Self::Consumer(group) => group.deadline(),
        }
    }

    /// Applies everything that is due at `now`.
    pub(super) fn expire(&mut self, now: i64) -> GroupEffects {
        match self {
            Self::Classic(group) => group.expire(now),
            Self::Consumer(group) => persist_if(group.expire(now)),
        }
    }

    /// Withdraws a ticket whose call was cancelled.
    pub(super) fn withdraw(&mut self, now: i64, ticket: ReplyTicket) -> GroupEffects {
        match self {
            Self::Classic(group) => group.withdraw(now, ticket),
            // Its members never wait.
            Self::Consumer(_) => GroupEffects::default(),
        }
    }

    /// Removes a member by its id or, if that is empty, its instance id. For members of the
    /// consumer protocol, an administrator does so.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID if there is no such member.
    pub(super) fn leave(
        &mut self,
        now: i64,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<GroupEffects, Error> {
        match self {
            Self::Classic(group) => group.leave(now, member_id, instance),
            Self::Consumer(group) => group.remove(member_id, instance).map(|()| persist_if(true)),
        }
    }

    /// Catches up with a later stored generation, after a write whose outcome was unknown.
    pub(super) fn catch_up(&mut self, now: i64, stored: i32) -> GroupEffects {
        match self {
            Self::Classic(group) => group.catch_up(now, stored),
            Self::Consumer(group) => {
                group.catch_up(stored);
                GroupEffects::default()
            }
        }
    }
}

/// Returns the effects of a change that answers no ticket.
pub(super) fn persist_if(persist: bool) -> GroupEffects {
    GroupEffects {
        persist,
        ..GroupEffects::default()
    }
}

pub(super) fn not_a_consumer_group() -> Error {
    Error::new(
        ErrorCode::GroupIdNotFound,
        "there is no group of the consumer protocol with this id",
    )
}
