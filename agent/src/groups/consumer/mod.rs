//! One consumer group as a pure state machine of Kafka's consumer protocol (KIP-848): no I/O, no
//! clock, no randomness. Driven by the coordinator, which passes the time and the topics in, and
//! stores the group before it replies.
//!
//! The *group epoch* rises with every change of members, subscriptions or topics. For each group
//! epoch the coordinator computes a *target assignment*. Each member moves towards it by itself,
//! with its heartbeats, and has a *member epoch* of its own:
//!
//! ```text
//!                     target is newer, and nothing to give up
//!          +--------------------------------------------------------+
//!          |                                                        v
//!       Stable ---> UnrevokedPartitions ---> UnreleasedPartitions / Stable, in the target's epoch
//!             gives up   acknowledged: no longer          waits for partitions that
//!             partitions among its partitions             other members still have
//! ```
//!
//! Invariants: no partition is assigned to, or awaits revocation by, two members at once; epochs of
//! the group never decrease; a group is Stable only if every partition of its topics is assigned to
//! a member that subscribes to it; and a call that fails changes nothing.

mod assignor;
mod catalog;
mod errors;
mod heartbeat;
mod offsets;
mod partitions;
mod patterns;
mod reconcile;
mod record;
mod request;
mod static_members;
mod subscription;
mod target;
mod timers;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use uuid::Uuid;

use self::patterns::TopicPatterns;
pub use self::{
    assignor::ServerAssignor,
    catalog::{TopicCatalog, TopicShape},
    partitions::{PartitionEpochs, PartitionKey, PartitionSet, partitions_by_topic},
    patterns::MAX_PATTERN_LEN,
    record::CONSUMER_GROUP_FORMAT,
    request::{HeartbeatOutcome, HeartbeatReply, MemberHeartbeat},
    view::{ConsumerGroupView, ConsumerMemberView},
};
use crate::groups::state::MemberId;

/// The member epoch of a heartbeat with which a member joins.
pub const JOIN_EPOCH: i32 = 0;
/// The member epoch of a heartbeat with which a member leaves for good.
pub const LEAVE_EPOCH: i32 = -1;
/// The member epoch of a heartbeat with which a static member leaves to return; also that of the
/// member meanwhile.
pub const STATIC_LEAVE_EPOCH: i32 = -2;

/// Limits and times of one group. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerGroupRules {
    /// Maximum number of members.
    pub max_members: usize,
    /// Maximum bytes of the members' subscriptions in total.
    pub max_bytes: usize,
    /// A member that sends no heartbeat for so long is removed.
    pub session_ms: i64,
    /// How often members send heartbeats.
    pub heartbeat_ms: i32,
    /// Minimum time between two target assignments: members that start together share one.
    pub assignment_interval_ms: i64,
    /// Minimum time between two searches for topics that match regular expressions.
    pub pattern_interval_ms: i64,
}

/// How far a member is on its way to its target assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberReconciliation {
    /// It has all of its target that it may have in its epoch.
    Stable,
    /// It must give up partitions first.
    UnrevokedPartitions,
    /// It waits for partitions that other members have.
    UnreleasedPartitions,
}

/// A member, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ConsumerMember {
    instance: Option<Arc<str>>,
    rack: Option<Arc<str>>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    rebalance_ms: i64,
    /// Subscribed topics by name, in order.
    topics: Arc<[Arc<str>]>,
    /// A regular expression of topic names.
    pattern: Option<Arc<str>>,
    assignor: Option<ServerAssignor>,
    /// [`STATIC_LEAVE_EPOCH`] for a static member that is away.
    epoch: i32,
    /// The epoch before, which the member may still have if a reply was lost.
    previous_epoch: i32,
    reconciliation: MemberReconciliation,
    assigned: PartitionEpochs,
    /// Partitions that it must give up; nobody else can have them meanwhile.
    revoking: PartitionEpochs,
    target: Arc<PartitionSet>,
}

impl ConsumerMember {
    fn new(client_id: Arc<str>, client_host: Arc<str>) -> Self {
        Self {
            instance: None,
            rack: None,
            client_id,
            client_host,
            rebalance_ms: 0,
            topics: Arc::default(),
            pattern: None,
            assignor: None,
            epoch: JOIN_EPOCH,
            previous_epoch: JOIN_EPOCH,
            reconciliation: MemberReconciliation::Stable,
            assigned: PartitionEpochs::new(),
            revoking: PartitionEpochs::new(),
            target: Arc::default(),
        }
    }

    fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.reconciliation == MemberReconciliation::Stable && self.epoch == epoch
    }

    /// Returns the bytes of its subscription.
    fn subscription_bytes(&self) -> usize {
        let topics: usize = self.topics.iter().map(|topic| topic.len()).sum();
        topics + self.pattern.as_ref().map_or(0, |pattern| pattern.len())
    }
}

/// A member with its timers.
#[derive(Debug, Clone)]
struct MemberEntry {
    member: Arc<ConsumerMember>,
    /// When the session expires.
    expires: i64,
    /// When the member is removed unless it has given up partitions.
    revoke_until: Option<i64>,
}

/// A consumer group of the consumer protocol.
#[derive(Debug, Clone)]
pub struct ConsumerGroup {
    rules: ConsumerGroupRules,
    /// The group epoch.
    epoch: i32,
    /// The group epoch of the members' targets.
    assignment_epoch: i32,
    /// When the targets were computed; `None` if they have not been here.
    assigned_at: Option<i64>,
    members: BTreeMap<MemberId, MemberEntry>,
    /// Member ids by group instance id.
    static_members: HashMap<Arc<str>, MemberId>,
    patterns: TopicPatterns,
    /// The topics that members subscribe to and that exist.
    topics: BTreeMap<Arc<str>, TopicShape>,
    /// The version of the catalog that `topics` are from; `None` if they are stored ones.
    topics_version: Option<u64>,
}

impl ConsumerGroup {
    /// Creates a group without members; `epoch` is its last group epoch, or the last generation if
    /// it was a classic group (0 for a new group).
    pub fn new(rules: ConsumerGroupRules, epoch: i32) -> Self {
        Self {
            rules,
            epoch,
            assignment_epoch: epoch,
            assigned_at: None,
            members: BTreeMap::new(),
            static_members: HashMap::new(),
            patterns: TopicPatterns::default(),
            topics: BTreeMap::new(),
            topics_version: None,
        }
    }

    /// Returns the group epoch.
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Returns whether the group has members.
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Returns the number of members.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Catches up with a later stored epoch, after a write whose outcome was unknown: the targets
    /// are computed again.
    pub fn catch_up(&mut self, stored: i32) {
        self.epoch = self.epoch.max(stored);
    }

    /// Raises the group epoch, so that the targets are computed again.
    fn raise_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Replaces a member; its timers stay. Returns whether it has changed.
    fn set_member(&mut self, id: &MemberId, member: ConsumerMember) -> bool {
        let Some(entry) = self.members.get_mut(id) else {
            return false;
        };
        if *entry.member == member {
            return false;
        }
        entry.member = Arc::new(member);
        true
    }

    /// Removes a member, whose partitions are free from now on.
    fn remove_member(&mut self, id: &str) {
        let Some(entry) = self.members.remove(id) else {
            return;
        };
        if let Some(instance) = &entry.member.instance
            && self
                .static_members
                .get(instance)
                .is_some_and(|holder| **holder == *id)
        {
            self.static_members.remove(instance);
        }
        self.raise_epoch();
    }

    /// Returns the ids of the topics that a member subscribes to and that exist.
    fn subscribed_ids(&self, member: &ConsumerMember) -> Vec<Uuid> {
        let names = member
            .topics
            .iter()
            .chain(self.patterns.topics(member.pattern.as_ref()));
        let mut ids: Vec<Uuid> = names.filter_map(|name| Some(self.topics.get(name)?.id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(super) mod tests;
