//! One consumer group as a pure state machine, with Kafka's classic protocol: no I/O, no clock, no randomness. Called by the
//! coordinator, which passes the time in and carries the [`Effects`] out.
//!
//! ```text
//!            first join                all joined, or time is up            the leader's assignment
//! Empty ----------------> Preparing ------------------------------> Completing ----------------> Stable
//!   ^                       |   ^                                       |                          |
//!   +--- nobody is left ----+   +---- a member comes, goes, or changes -+--------------------------+
//! ```
//!
//! What always holds: the generation never goes down; every ticket is answered exactly once, unless it is withdrawn; a member
//! of an old generation can neither sync nor commit; and once its timers have run, a group that nobody speaks to is Empty.

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

pub use join::Join;
pub use record::Record;
pub use view::{GroupView, MemberView};

/// Names a member: given by the coordinator, unique for ever.
pub type MemberId = Arc<str>;

/// A place in the queue for an answer: one per call to join or sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Bounds of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Members at most, those who still have to come back with their new id included.
    pub max_members: usize,
    /// Bytes that the members' metadata takes together at most; also the bound of one round of assignments.
    pub max_bytes: usize,
    /// How long an empty group waits for more members after the first one, in milliseconds.
    pub initial_delay_ms: i64,
}

/// One way of assigning partitions that a member offers, with what it says to the leader in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// "range", "cooperative-sticky", …
    pub name: Arc<str>,
    /// Opaque here.
    pub metadata: Bytes,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation joined.
    pub generation: i32,
    /// "consumer".
    pub protocol_type: Arc<str>,
    /// The protocol that was chosen.
    pub protocol: Arc<str>,
    /// Who assigns.
    pub leader: MemberId,
    /// Who is answered.
    pub member_id: MemberId,
    /// Everybody, for the leader only.
    pub members: Vec<JoinedMember>,
}

/// What the leader learns of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: MemberId,
    /// Its static name.
    pub instance: Option<Arc<str>>,
    /// Its metadata in the chosen protocol.
    pub metadata: Bytes,
}

/// The answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// What the leader gave this member.
    pub assignment: Bytes,
    /// The protocol that was chosen.
    pub protocol: Arc<str>,
}

/// What a ticket is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a join.
    Joined(Joined),
    /// To a first join of somebody who shall come back with this id.
    IdRequired(MemberId),
    /// To a sync.
    Synced(Synced),
}

/// What an event makes the coordinator do: persist first, then answer.
#[derive(Debug, Default)]
pub struct Effects {
    /// Whether [`Group::record`] must be stored before anybody is answered.
    pub persist: bool,
    /// Answers, each to a ticket that waited or to the event's own.
    pub replies: Vec<(Ticket, Result<Reply, Error>)>,
}

impl Effects {
    fn answer(&mut self, ticket: Ticket, reply: Reply) {
        self.replies.push((ticket, Ok(reply)));
    }

    fn refuse(&mut self, ticket: Ticket, error: Error) {
        self.replies.push((ticket, Err(error)));
    }
}

/// Where a group stands. Times are milliseconds of the caller's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No members.
    Empty,
    /// Waits until everybody has joined.
    Preparing {
        /// More members may come until then.
        not_before: i64,
        /// Whoever has not joined by then is left behind.
        until: i64,
    },
    /// Waits for the leader's assignment.
    Completing,
    /// Everybody works.
    Stable,
    /// Deleted; the coordinator forgets it.
    Dead,
}

#[derive(Debug, Clone)]
struct Member {
    instance: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    session_ms: i64,
    rebalance_ms: i64,
    protocols: Arc<[Protocol]>,
    assignment: Bytes,
    /// When it counts as gone, unless it waits for an answer.
    expires: i64,
    /// It takes part in the rebalance under way.
    joined: bool,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
    /// It asked for its assignment in this generation.
    synced: bool,
    /// Its client has never been told its id: should the client go away, nobody can speak for it.
    unnamed: bool,
    /// Rises with every member that is added: the eldest becomes leader.
    order: u64,
}

impl Member {
    /// Who waits for us cannot send heartbeats, and shall not.
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

/// A group.
#[derive(Debug, Clone)]
pub struct Group {
    rules: Rules,
    phase: Phase,
    generation: i32,
    protocol_type: Arc<str>,
    /// Empty while none is chosen.
    protocol: Arc<str>,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member>,
    /// Static names and who has them.
    statics: HashMap<Arc<str>, MemberId>,
    /// Ids given to clients that have to come back with them, and until when.
    pending: BTreeMap<MemberId, i64>,
    /// Until when every member must have asked for its assignment.
    sync_until: Option<i64>,
    next_order: u64,
}

impl Group {
    /// A group without members whose last generation was `generation` (0 for one that never was).
    pub fn new(rules: Rules, generation: i32) -> Self {
        Self {
            rules,
            phase: Phase::Empty,
            generation,
            protocol_type: "".into(),
            protocol: "".into(),
            leader: None,
            members: BTreeMap::new(),
            statics: HashMap::new(),
            pending: BTreeMap::new(),
            sync_until: None,
            next_order: 0,
        }
    }

    /// The generation in force.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// No members, and nobody is expected: all that there is to know is in the store.
    pub fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// How many are in it.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether anybody is in it.
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// From now on every call is refused; the coordinator forgets it.
    pub fn kill(&mut self) {
        self.phase = Phase::Dead;
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
