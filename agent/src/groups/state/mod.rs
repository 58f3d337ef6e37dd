//! One consumer group as a pure state machine of Kafka's classic protocol: no I/O, no clock, no
//! randomness. Driven by the coordinator, which passes the time in and carries the [`GroupEffects`]
//! out.
//!
//! ```text
//!            first join            all joined, or timeout            the leader's assignment
//! Empty ---------------> Preparing ----------------------> Completing ----------------> Stable
//!   ^                      |   ^                               |                          |
//!   +-- no members left ---+   +-- a member joins, leaves, or changes --------------------+
//! ```
//!
//! Invariants: the generation never decreases; every ticket is answered exactly once, unless it is
//! withdrawn; a member of an old generation can neither sync nor commit; and a group without client
//! activity is Empty once its timers have run.

mod errors;
mod join;
mod members;
mod rebalance;
mod record;
mod sync;
mod timers;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use streamhouse_core::Error;

pub use join::JoinRequest;
pub use record::GroupStateRecord;
pub use view::{GroupView, MemberView};

/// A member id: assigned by the coordinator, never reused.
pub type MemberId = Arc<str>;

/// Identifies the pending reply of one join or sync call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTicket(pub u64);

/// Limits of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRules {
    /// Maximum number of members, including issued member ids that have not joined yet.
    pub max_members: usize,
    /// Maximum bytes of the members' metadata in total, and of one round of assignments.
    pub max_bytes: usize,
    /// How long an empty group waits for further members after the first one, in milliseconds.
    pub initial_delay_ms: i64,
}

/// A protocol (assignor) that a member supports, with its metadata for the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProtocol {
    /// "range", "cooperative-sticky", …
    pub name: Arc<str>,
    /// Opaque to the coordinator.
    pub metadata: Bytes,
}

/// The reply to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// The generation that was joined.
    pub generation: i32,
    /// "consumer".
    pub protocol_type: Arc<str>,
    /// The selected protocol.
    pub protocol: Arc<str>,
    /// The member that computes the assignments.
    pub leader: MemberId,
    /// The member that the reply is for.
    pub member_id: MemberId,
    /// All members; for the leader only.
    pub members: Vec<JoinedMember>,
}

/// A member as described to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// The member id.
    pub member_id: MemberId,
    /// The group instance id.
    pub instance: Option<Arc<str>>,
    /// The metadata for the selected protocol.
    pub metadata: Bytes,
}

/// The reply to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReply {
    /// The assignment of this member.
    pub assignment: Bytes,
    /// The selected protocol.
    pub protocol: Arc<str>,
}

/// The reply to a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupReply {
    /// The reply to a join.
    Joined(JoinReply),
    /// The reply to a first join: the member must join again with this id.
    IdRequired(MemberId),
    /// The reply to a sync.
    Synced(SyncReply),
}

/// The effects of an event, for the coordinator: persist first, then reply.
#[derive(Debug, Default)]
pub struct GroupEffects {
    /// Whether the [`GroupStateRecord`] must be stored before any reply is sent.
    pub persist: bool,
    /// Replies to waiting tickets, or to the ticket of the event itself.
    pub replies: Vec<(ReplyTicket, Result<GroupReply, Error>)>,
}

impl GroupEffects {
    fn answer(&mut self, ticket: ReplyTicket, reply: GroupReply) {
        self.replies.push((ticket, Ok(reply)));
    }

    fn refuse(&mut self, ticket: ReplyTicket, error: Error) {
        self.replies.push((ticket, Err(error)));
    }
}

/// The phase of a group. Times are milliseconds of the caller's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupPhase {
    /// No members.
    Empty,
    /// Waits until all members have joined.
    Preparing {
        /// Waits for further members until then.
        not_before: i64,
        /// Members that have not joined by then are removed.
        until: i64,
    },
    /// Waits for the leader's assignments.
    Completing,
    /// All members have assignments.
    Stable,
    /// Deleted; the coordinator drops it.
    Dead,
}

#[derive(Debug, Clone)]
struct MemberState {
    instance: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    session_ms: i64,
    rebalance_ms: i64,
    protocols: Arc<[MemberProtocol]>,
    assignment: Bytes,
    /// When the session expires, unless the member waits for a reply.
    expires: i64,
    /// Whether it has joined the current rebalance.
    joined: bool,
    joining: Option<ReplyTicket>,
    syncing: Option<ReplyTicket>,
    /// Whether it asked for its assignment in this generation.
    synced: bool,
    /// Whether its client has not received its id yet: if that client disconnects, the member is
    /// removed.
    id_unconfirmed: bool,
    /// Increases with every added member: the oldest becomes the leader.
    order: u64,
}

impl MemberState {
    /// A member that waits for a reply cannot send heartbeats and does not expire.
    fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|offered| &*offered.name == protocol)
            .map(|p| p.metadata.clone())
            .unwrap_or_default()
    }
}

/// A consumer group of the classic protocol.
#[derive(Debug, Clone)]
pub struct ClassicGroup {
    rules: GroupRules,
    phase: GroupPhase,
    generation: i32,
    protocol_type: Arc<str>,
    /// Empty until one is selected.
    protocol: Arc<str>,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, MemberState>,
    /// Member ids by group instance id.
    static_members: HashMap<Arc<str>, MemberId>,
    /// Issued member ids that have not joined yet, with their expiry.
    pending_ids: BTreeMap<MemberId, i64>,
    /// Deadline for every member to ask for its assignment.
    sync_until: Option<i64>,
    next_order: u64,
}

impl ClassicGroup {
    /// Creates a group without members; `generation` is its last one (0 for a new group).
    pub fn new(rules: GroupRules, generation: i32) -> Self {
        Self {
            rules,
            phase: GroupPhase::Empty,
            generation,
            protocol_type: "".into(),
            protocol: "".into(),
            leader: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            pending_ids: BTreeMap::new(),
            sync_until: None,
            next_order: 0,
        }
    }

    /// Returns the current generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Returns whether the group has neither members nor issued ids: all of its state is in the
    /// store.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.pending_ids.is_empty()
    }

    /// Returns the number of members.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Returns whether the group has members.
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Refuses every call from now on; the coordinator drops the group.
    pub fn mark_deleted(&mut self) {
        self.phase = GroupPhase::Dead;
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
