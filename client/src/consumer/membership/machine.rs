//! [`MemberStateMachine`]: a member of a consumer group as a pure state machine of Kafka's classic
//! group protocol: no I/O, no clock, no randomness. The driver executes its [`DriverOrders`] and
//! reports the answers; `poll` performs its [`RebalanceAction`]s, because they call the
//! application; commits ask it for the identity to send.
//!
//! ```text
//!                first poll               revoked                 assignment
//!   Unjoined ---------------> Preparing ------------> Joining ------------------> Stable
//!      ^                        ^   ^                    |                           |
//!      |  closed, or no poll    |   +---- join failed ---+                           |
//!      +------------------------+------ rebalance, or removed from the group --------+
//! ```
//!
//! Invariants: a partition is owned from the start of its `Assign` action until the end of its
//! `Revoke` action, or until the member learns that the group has removed it. Each such period has
//! a number, its ownership epoch, and an offset of one epoch is never committed in another. An
//! answer counts only for the member id and generation of its request.

mod actions;
mod responses;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

pub(in crate::consumer) use self::actions::RebalanceAction;
pub(in crate::consumer) use self::responses::CommitVerdict;
use crate::error::Error;

/// Fixed settings of a member.
#[derive(Debug, Clone, Copy)]
pub(in crate::consumer) struct MemberConfig {
    /// Whether partitions are kept during rebalances.
    pub(in crate::consumer) cooperative: bool,
    /// Whether the member is static: it stays in the group when it closes.
    pub(in crate::consumer) is_static: bool,
    /// Interval between heartbeats.
    pub(in crate::consumer) heartbeat: Duration,
    /// Longest time between polls before the member leaves its group.
    pub(in crate::consumer) max_poll_interval: Duration,
    /// How long a leaving member waits for an id it has requested.
    pub(in crate::consumer) leave_timeout: Duration,
}

/// Identity of a request's sender. The answer counts only for this member and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct MemberIdentity {
    /// Empty before the coordinator has assigned an id.
    pub(in crate::consumer) member_id: String,
    /// -1 while not a member.
    pub(in crate::consumer) generation: i32,
}

/// A join to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct JoinOrder {
    /// Number of the join among all joins of this member.
    pub(in crate::consumer) serial: u64,
    pub(in crate::consumer) topics: Vec<String>,
    pub(in crate::consumer) member_id: String,
    /// Owned partitions, and the generation they were assigned in.
    pub(in crate::consumer) owned: Vec<TopicPartition>,
    pub(in crate::consumer) generation: i32,
}

/// What the driver executes next.
#[derive(Debug, Default)]
pub(in crate::consumer) struct DriverOrders {
    /// Join to start.
    pub(in crate::consumer) join: Option<JoinOrder>,
    /// Join to continue; any other is aborted.
    pub(in crate::consumer) joining: Option<u64>,
    /// Heartbeat to send.
    pub(in crate::consumer) beat: Option<MemberIdentity>,
    /// Identity of the heartbeat to continue; any other is aborted.
    pub(in crate::consumer) identity: Option<MemberIdentity>,
    /// Member id to leave the group with.
    pub(in crate::consumer) leave: Option<String>,
    /// When to ask for orders again.
    pub(in crate::consumer) wake: Option<Instant>,
    /// Whether the application's side may have an action to perform.
    pub(in crate::consumer) changed: bool,
}

/// State of the member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MemberState {
    /// Neither a member nor joining.
    Unjoined,
    /// Will join after `not_before`, once all partitions to revoke are revoked and lost ones are
    /// reported to the application: until then, others should read the partitions.
    Preparing { not_before: Instant },
    /// A join is in flight.
    Joining {
        serial: u64,
        /// Owned partitions as sent with the join.
        claimed: BTreeSet<TopicPartition>,
    },
    /// The member has its assignment.
    Stable {
        target: BTreeSet<TopicPartition>,
        /// Owned partitions that other members wait for: once they are revoked, the member joins
        /// again.
        awaited: BTreeSet<TopicPartition>,
    },
    /// Leaving, and waiting for the id it has requested.
    Leaving { serial: u64, until: Instant },
}

/// Whether a commit may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) enum CommitPermit {
    /// Send it with this identity.
    Send(MemberIdentity),
    /// Wait: the member has joined a generation but does not know its assignment yet, so any answer
    /// would be meaningless.
    Wait,
}

/// The state machine.
#[derive(Debug)]
pub(in crate::consumer) struct MemberStateMachine {
    rules: MemberConfig,
    state: MemberState,
    /// `None` without a subscription.
    topics: Option<Vec<String>>,
    member_id: String,
    /// Generation of the last known assignment.
    generation: i32,
    /// Generation that the member has joined; newer than `generation` while it waits for the
    /// assignment.
    joined_generation: i32,
    /// Whether a join was attempted since the last assignment, so that the group may be in a later
    /// generation.
    may_be_behind: bool,
    /// Whether the group has requested another join.
    rejoin: bool,
    /// Owned partitions with their ownership epochs.
    held: BTreeMap<TopicPartition, u64>,
    /// Owned partitions whose `Assign` action has not completed.
    assigning: BTreeSet<TopicPartition>,
    /// Lost partitions that were not reported to the application yet.
    lost: BTreeSet<TopicPartition>,
    /// Partitions that must not be read any more; taken after every event.
    dropped: Vec<TopicPartition>,
    last_serial: u64,
    last_ownership_epoch: u64,
    /// Whether everything is to be given up.
    closing: bool,
    /// Ids to leave the group with.
    pending_leaves: Vec<String>,
    /// Whether a leave request is in flight.
    leave_in_flight: bool,
    /// Why the last join failed; a join is attempted again later.
    failure: Option<Error>,
    /// Why the member can never join.
    fatal: Option<streamhouse_core::Error>,
    polling: bool,
    last_poll: Instant,
    next_beat: Instant,
    /// The heartbeat in flight.
    heartbeat_in_flight: Option<MemberIdentity>,
    /// Whether [`MemberStateMachine::duty`] may have an action.
    may_have_action: bool,
}

impl MemberStateMachine {
    pub(in crate::consumer) fn new(rules: MemberConfig, now: Instant) -> Self {
        Self {
            rules,
            state: MemberState::Unjoined,
            topics: None,
            member_id: String::new(),
            generation: -1,
            joined_generation: -1,
            may_be_behind: false,
            rejoin: false,
            held: BTreeMap::new(),
            assigning: BTreeSet::new(),
            lost: BTreeSet::new(),
            dropped: Vec::new(),
            last_serial: 0,
            last_ownership_epoch: 0,
            closing: false,
            pending_leaves: Vec::new(),
            leave_in_flight: false,
            failure: None,
            fatal: None,
            polling: false,
            last_poll: now,
            next_beat: now,
            heartbeat_in_flight: None,
            may_have_action: false,
        }
    }

    pub(in crate::consumer) fn topics(&self) -> &[String] {
        self.topics.as_deref().unwrap_or_default()
    }

    pub(in crate::consumer) fn is_subscribed(&self) -> bool {
        self.topics.is_some()
    }

    pub(in crate::consumer) fn member_id(&self) -> &str {
        &self.member_id
    }

    pub(in crate::consumer) fn generation(&self) -> i32 {
        self.generation
    }

    /// Subscribes to topics. A member joins again, after it has given up what it no longer wants.
    pub(in crate::consumer) fn subscribe(&mut self, topics: Vec<String>) {
        if let MemberState::Stable { target, .. } = &mut self.state {
            target.retain(|partition| topics.contains(&partition.topic));
        }
        self.rejoin = self.state != MemberState::Unjoined;
        self.closing = false;
        self.topics = Some(topics);
        self.may_have_action = true;
    }

    /// Updates the topics of a pattern subscription.
    pub(in crate::consumer) fn change_topics(&mut self, topics: Vec<String>) {
        if !self.closing && self.topics.as_ref().is_some_and(|old| *old != topics) {
            self.subscribe(topics);
        }
    }

    /// Records the start of a poll. Returns whether it makes the member join.
    pub(in crate::consumer) fn start_poll(&mut self, now: Instant) -> bool {
        self.polling = true;
        let may_join = self.topics.is_some() && !self.closing && self.fatal.is_none();
        let joins = self.state == MemberState::Unjoined && may_join;
        if joins {
            self.state = MemberState::Preparing { not_before: now };
            self.may_have_action = true;
        }
        joins
    }

    /// Records the end of a poll.
    pub(in crate::consumer) fn end_poll(&mut self, now: Instant) {
        self.polling = false;
        self.last_poll = now;
    }

    /// Takes the reason why the last join failed.
    pub(in crate::consumer) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Returns the reason why the member can never join.
    pub(in crate::consumer) fn fatal_error(&self) -> Option<Error> {
        self.fatal.clone().map(Error::from)
    }

    /// Requests a rebalance, because the subscribed topics changed.
    pub(in crate::consumer) fn request_rejoin(&mut self) {
        self.rejoin = true;
    }

    /// Takes the partitions that were lost or revoked since the last event.
    pub(in crate::consumer) fn take_dropped(&mut self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.dropped)
    }

    /// Returns the ownership epoch of a partition, if it is owned.
    pub(in crate::consumer) fn ownership_epoch(&self, partition: &TopicPartition) -> Option<u64> {
        self.held.get(partition).copied()
    }

    /// Returns whether partitions were lost and not yet reported to the application.
    pub(in crate::consumer) fn has_lost_partitions(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Returns whether owned partitions may be committed now.
    pub(in crate::consumer) fn commit_permit(&self) -> CommitPermit {
        if self.joined_generation == self.generation || !self.can_advance_without_poll() {
            CommitPermit::Send(self.identity())
        } else {
            CommitPermit::Wait
        }
    }

    /// Returns whether the next assignment arrives without an action of the application.
    fn can_advance_without_poll(&self) -> bool {
        let joining = matches!(self.state, MemberState::Joining { .. });
        let is_wanted = |key: &TopicPartition| self.topics().contains(&key.topic);
        joining || (self.rules.cooperative && !self.closing && self.held.keys().all(is_wanted))
    }

    /// Starts to give up all partitions. Heartbeats continue.
    pub(in crate::consumer) fn start_leaving(&mut self) {
        self.closing = true;
        self.may_have_action = true;
    }

    /// Ends the membership. Call it when no partition is owned any more.
    pub(in crate::consumer) fn leave(&mut self, now: Instant) {
        let asking = self.member_id.is_empty() && !self.rules.is_static;
        self.state = match self.state {
            // The requested id has not arrived. Without it the member cannot leave, and the group
            // would wait for it.
            MemberState::Joining { serial, .. } if asking => MemberState::Leaving {
                serial,
                until: now + self.rules.leave_timeout,
            },
            MemberState::Leaving { .. } => self.state.clone(),
            _ => MemberState::Unjoined,
        };
        self.queue_leave();
        self.clear_generation();
        self.topics = None;
        (self.rejoin, self.closing, self.fatal, self.failure) = (false, false, None, None);
    }

    /// Returns whether all leave requests are done.
    pub(in crate::consumer) fn has_left(&self) -> bool {
        self.state == MemberState::Unjoined && self.pending_leaves.is_empty() && !self.leave_in_flight
    }

    /// Records that a leave request was answered or given up.
    pub(in crate::consumer) fn complete_leave(&mut self) {
        self.leave_in_flight = false;
    }

    /// Returns what the driver executes now.
    pub(in crate::consumer) fn orders(&mut self, now: Instant) -> DriverOrders {
        let mut orders = DriverOrders::default();
        if self.has_exceeded_poll_interval(now) {
            tracing::warn!(
                interval = ?self.rules.max_poll_interval,
                "no poll within max_poll_interval: leaving the group; poll more often, or raise max_poll_interval"
            );
            self.lose_all_partitions();
            self.queue_leave();
            self.state = MemberState::Unjoined;
            orders.changed = true;
        }
        match &self.state {
            MemberState::Stable { awaited, .. } => {
                let given_up = !awaited.is_empty() && awaited.iter().all(|key| !self.held.contains_key(key));
                if (self.rejoin || given_up) && !self.closing {
                    self.state = MemberState::Preparing { not_before: now };
                    self.may_have_action = true;
                    orders.changed = true;
                }
            }
            MemberState::Leaving { until, .. } if now >= *until => self.state = MemberState::Unjoined,
            _ => {}
        }
        if let MemberState::Preparing { not_before } = self.state
            && now >= not_before
            && !self.closing
            && self.lost.is_empty()
            && self.partitions_to_revoke().is_empty()
        {
            orders.join = Some(self.start_join());
            orders.changed = true;
        }
        if self.joined_generation >= 0 && self.heartbeat_in_flight.as_ref() != Some(&self.joined_identity()) {
            self.heartbeat_in_flight = None;
            if now >= self.next_beat {
                self.heartbeat_in_flight = Some(self.joined_identity());
                orders.beat = self.heartbeat_in_flight.clone();
            }
        }
        if !self.leave_in_flight && !self.pending_leaves.is_empty() {
            self.leave_in_flight = true;
            orders.leave = Some(self.pending_leaves.remove(0));
        }
        orders.joining = match self.state {
            MemberState::Joining { serial, .. } | MemberState::Leaving { serial, .. } => Some(serial),
            _ => None,
        };
        orders.identity = self.heartbeat_in_flight.clone();
        orders.wake = self.next_wake();
        orders
    }

    fn start_join(&mut self) -> JoinOrder {
        self.last_serial += 1;
        let owned = self.held.keys().cloned();
        let order = JoinOrder {
            serial: self.last_serial,
            topics: self.topics().to_vec(),
            member_id: self.member_id.clone(),
            owned: owned.clone().collect(),
            generation: self.generation,
        };
        self.state = MemberState::Joining {
            serial: self.last_serial,
            claimed: owned.collect(),
        };
        (self.rejoin, self.may_be_behind) = (false, true);
        order
    }

    fn has_exceeded_poll_interval(&self, now: Instant) -> bool {
        !self.polling
            && !self.closing
            && !matches!(self.state, MemberState::Unjoined | MemberState::Leaving { .. })
            && now > self.last_poll + self.rules.max_poll_interval
    }

    fn next_wake(&self) -> Option<Instant> {
        let beat =
            (self.joined_generation >= 0 && self.heartbeat_in_flight.is_none()).then_some(self.next_beat);
        let phase = match self.state {
            MemberState::Preparing { not_before } => Some(not_before),
            MemberState::Leaving { until, .. } => Some(until),
            _ => None,
        };
        beat.into_iter().chain(phase).min()
    }

    fn identity(&self) -> MemberIdentity {
        MemberIdentity {
            member_id: self.member_id.clone(),
            generation: self.generation,
        }
    }

    fn joined_identity(&self) -> MemberIdentity {
        MemberIdentity {
            member_id: self.member_id.clone(),
            generation: self.joined_generation,
        }
    }

    /// Queues a leave request if the id is known. A static member stays, so that it can return to
    /// its partitions.
    fn queue_leave(&mut self) {
        let member_id = std::mem::take(&mut self.member_id);
        if !member_id.is_empty() && !self.rules.is_static {
            self.pending_leaves.push(member_id);
        }
    }

    fn clear_generation(&mut self) {
        (self.generation, self.joined_generation, self.may_be_behind) = (-1, -1, false);
        self.heartbeat_in_flight = None;
    }

    /// Drops all owned partitions, because the group has removed this member.
    fn lose_all_partitions(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.dropped.extend(held.keys().cloned());
        self.lost.extend(held.into_keys());
        self.assigning.clear();
        self.clear_generation();
        self.may_have_action = true;
    }
}

#[cfg(test)]
mod tests;
