//! [`MemberMachine`]: a member of a consumer group as a pure state machine, with Kafka's classic protocol: no I/O, no clock, no
//! randomness. The driver carries its [`Orders`] out and reports the answers; `poll` runs its [`Duty`]s, because the
//! application's callbacks belong there; commits ask it under which name they may be sent.
//!
//! ```text
//!         first poll             all that must go first is given up           assignment
//! Out ---------------> Preparing ------------------------------> Joining ----------------> Stable
//!  ^                      ^  ^                                      |                        |
//!  |  closed, or no poll  |  +------------- the join failed --------+                        |
//!  +----------------------+------- the group rebalances, or went on without the member ------+
//! ```
//!
//! What always holds: a partition is held from the begin of its `Assign` until the end of its `Revoke`, or until the group is
//! known to have gone on; each such time is a tenure, and an offset of one tenure is never committed in another; an answer
//! counts only for the member id and generation it was asked with.

mod answers;
mod duties;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use streamhouse_core::TopicPartition;
use tokio::time::Instant;

pub(in crate::consumer) use self::answers::Verdict;
pub(in crate::consumer) use self::duties::Duty;
use crate::error::Error;

/// What is fixed for a member.
#[derive(Debug, Clone, Copy)]
pub(in crate::consumer) struct MemberRules {
    /// Partitions are kept through rebalances.
    pub(in crate::consumer) cooperative: bool,
    /// It has a name that outlives it, and stays in the group when it closes.
    pub(in crate::consumer) is_static: bool,
    /// Between heartbeats.
    pub(in crate::consumer) heartbeat: Duration,
    /// It leaves its group without a poll for this long.
    pub(in crate::consumer) max_poll_interval: Duration,
    /// An id that is being asked for while the member leaves is waited for this long.
    pub(in crate::consumer) leave_within: Duration,
}

/// Who a request comes from; its answer counts for this member and generation only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct MemberIdentity {
    /// Empty before the coordinator gave one.
    pub(in crate::consumer) member_id: String,
    /// -1 while not a member.
    pub(in crate::consumer) generation: i32,
}

/// What a join brings to the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) struct JoinOrder {
    /// Names the join among all of this member.
    pub(in crate::consumer) serial: u64,
    pub(in crate::consumer) topics: Vec<String>,
    pub(in crate::consumer) member_id: String,
    /// What it holds, and since which generation.
    pub(in crate::consumer) owned: Vec<TopicPartition>,
    pub(in crate::consumer) generation: i32,
}

/// What the driver does next.
#[derive(Debug, Default)]
pub(in crate::consumer) struct Orders {
    /// Starts this join.
    pub(in crate::consumer) join: Option<JoinOrder>,
    /// The join that goes on; any other is cut off.
    pub(in crate::consumer) joining: Option<u64>,
    /// Sends this heartbeat.
    pub(in crate::consumer) beat: Option<MemberIdentity>,
    /// Whose heartbeat is still of use; any other is cut off.
    pub(in crate::consumer) identity: Option<MemberIdentity>,
    /// Tells the group that the member with this id goes.
    pub(in crate::consumer) leave: Option<String>,
    /// Looks again then.
    pub(in crate::consumer) wake: Option<Instant>,
    /// The application's side has something to do.
    pub(in crate::consumer) changed: bool,
}

/// Where the member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Neither a member nor about to be one.
    Out,
    /// Will join, not before this, and once all that must go first is given up and the application has heard of what was lost:
    /// while it works on that, others had better read it.
    Preparing { not_before: Instant },
    /// A join is under way.
    Joining {
        serial: u64,
        /// What it told the group that it holds.
        claimed: BTreeSet<TopicPartition>,
    },
    /// It has its assignment.
    Stable {
        target: BTreeSet<TopicPartition>,
        /// What others wait for: once it is given up, the member joins again.
        awaited: BTreeSet<TopicPartition>,
    },
    /// It leaves, and waits for the id that it has asked for.
    Leaving { serial: u64, until: Instant },
}

/// How a commit may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) enum CommitPermit {
    /// Now, as this member.
    Send(MemberIdentity),
    /// The member has joined a generation and does not know its assignment yet: any answer would mean nothing.
    Wait,
}

/// The machine.
#[derive(Debug)]
pub(in crate::consumer) struct MemberMachine {
    rules: MemberRules,
    phase: Phase,
    /// `None` without a subscription.
    topics: Option<Vec<String>>,
    member_id: String,
    /// The generation whose assignment it knows.
    generation: i32,
    /// The generation that the coordinator has it in: newer while it waits for the assignment.
    announced: i32,
    /// A join was tried since the last assignment: the group may be further than this member knows.
    unsure: bool,
    /// The group asked for another join.
    rejoin: bool,
    /// What it reads, and in which tenure.
    held: BTreeMap<TopicPartition, u64>,
    /// Held, but the application has not heard of them (to the end) yet.
    assigning: BTreeSet<TopicPartition>,
    /// Somebody else's already, and the application has not heard of it yet.
    lost: BTreeSet<TopicPartition>,
    /// Not to be read any more; taken by the caller of every event.
    dropped: Vec<TopicPartition>,
    last_serial: u64,
    last_tenure: u64,
    /// Everything is to be given up.
    closing: bool,
    /// Ids to take leave for.
    departing: Vec<String>,
    /// A leave is on its way.
    leaving: bool,
    /// Why it cannot join; tried again later.
    failure: Option<Error>,
    /// Why it can never join.
    fatal: Option<streamhouse_core::Error>,
    polling: bool,
    last_poll: Instant,
    next_beat: Instant,
    /// The heartbeat on its way.
    beating: Option<MemberIdentity>,
    /// Whether `duty` may have something to say.
    due: bool,
}

impl MemberMachine {
    pub(in crate::consumer) fn new(rules: MemberRules, now: Instant) -> Self {
        Self {
            rules,
            phase: Phase::Out,
            topics: None,
            member_id: String::new(),
            generation: -1,
            announced: -1,
            unsure: false,
            rejoin: false,
            held: BTreeMap::new(),
            assigning: BTreeSet::new(),
            lost: BTreeSet::new(),
            dropped: Vec::new(),
            last_serial: 0,
            last_tenure: 0,
            closing: false,
            departing: Vec::new(),
            leaving: false,
            failure: None,
            fatal: None,
            polling: false,
            last_poll: now,
            next_beat: now,
            beating: None,
            due: false,
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

    /// Wants the group's share of these topics. A member joins again, after it gave up what it no longer wants.
    pub(in crate::consumer) fn subscribe(&mut self, topics: Vec<String>) {
        if let Phase::Stable { target, .. } = &mut self.phase {
            target.retain(|partition| topics.contains(&partition.topic));
        }
        self.rejoin = self.phase != Phase::Out;
        self.closing = false;
        self.topics = Some(topics);
        self.due = true;
    }

    /// Other topics match the subscription by now.
    pub(in crate::consumer) fn change_topics(&mut self, topics: Vec<String>) {
        if !self.closing && self.topics.as_ref().is_some_and(|old| *old != topics) {
            self.subscribe(topics);
        }
    }

    /// The application polls. Says whether that makes the member join.
    pub(in crate::consumer) fn start_poll(&mut self, now: Instant) -> bool {
        self.polling = true;
        let may_join = self.topics.is_some() && !self.closing && self.fatal.is_none();
        let joins = self.phase == Phase::Out && may_join;
        if joins {
            self.phase = Phase::Preparing { not_before: now };
            self.due = true;
        }
        joins
    }

    /// The application's poll is over, or was cut off.
    pub(in crate::consumer) fn end_poll(&mut self, now: Instant) {
        self.polling = false;
        self.last_poll = now;
    }

    /// Why the membership does not go on, once each time it fails.
    pub(in crate::consumer) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Why it never will.
    pub(in crate::consumer) fn fatal(&self) -> Option<Error> {
        self.fatal.clone().map(Error::from)
    }

    /// The group should be shared anew, because what it reads changed.
    pub(in crate::consumer) fn ask_rejoin(&mut self) {
        self.rejoin = true;
    }

    /// What is not to be read any more, since the last event.
    pub(in crate::consumer) fn take_dropped(&mut self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.dropped)
    }

    /// The tenure in which a partition is held.
    pub(in crate::consumer) fn tenure(&self, partition: &TopicPartition) -> Option<u64> {
        self.held.get(partition).copied()
    }

    /// Whether the group went on without this member, and the application has not heard of it yet.
    pub(in crate::consumer) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// How a commit of what is held may go now.
    pub(in crate::consumer) fn commit_permit(&self) -> CommitPermit {
        if self.announced == self.generation || !self.gets_on() {
            CommitPermit::Send(self.identity())
        } else {
            CommitPermit::Wait
        }
    }

    /// Whether the next assignment comes without the application's doing.
    fn gets_on(&self) -> bool {
        let joining = matches!(self.phase, Phase::Joining { .. });
        let is_wanted = |key: &TopicPartition| self.topics().contains(&key.topic);
        joining || (self.rules.cooperative && !self.closing && self.held.keys().all(is_wanted))
    }

    /// Gives up everything from now on: see [`Duty`]. Heartbeats go on.
    pub(in crate::consumer) fn start_leaving(&mut self) {
        self.closing = true;
        self.due = true;
    }

    /// Ends the membership; call it when nothing is held any more.
    pub(in crate::consumer) fn leave(&mut self, now: Instant) {
        let asking = self.member_id.is_empty() && !self.rules.is_static;
        self.phase = match self.phase {
            // The id is on its way. Without it nobody could take leave, and the group would wait for a ghost.
            Phase::Joining { serial, .. } if asking => Phase::Leaving {
                serial,
                until: now + self.rules.leave_within,
            },
            Phase::Leaving { .. } => self.phase.clone(),
            _ => Phase::Out,
        };
        self.depart();
        self.forget_generation();
        self.topics = None;
        (self.rejoin, self.closing, self.fatal, self.failure) = (false, false, None, None);
    }

    /// Whether nothing is left to be told to the group.
    pub(in crate::consumer) fn has_left(&self) -> bool {
        self.phase == Phase::Out && self.departing.is_empty() && !self.leaving
    }

    /// A leave was answered, or given up.
    pub(in crate::consumer) fn left(&mut self) {
        self.leaving = false;
    }

    /// What the driver does now.
    pub(in crate::consumer) fn orders(&mut self, now: Instant) -> Orders {
        let mut orders = Orders::default();
        if self.polls_too_rarely(now) {
            tracing::warn!(
                interval = ?self.rules.max_poll_interval,
                "no poll within max_poll_interval: leaving the group; poll more often or raise it"
            );
            self.lose_everything();
            self.depart();
            self.phase = Phase::Out;
            orders.changed = true;
        }
        match &self.phase {
            Phase::Stable { awaited, .. } => {
                let given_up = !awaited.is_empty() && awaited.iter().all(|key| !self.held.contains_key(key));
                if (self.rejoin || given_up) && !self.closing {
                    self.phase = Phase::Preparing { not_before: now };
                    self.due = true;
                    orders.changed = true;
                }
            }
            Phase::Leaving { until, .. } if now >= *until => self.phase = Phase::Out,
            _ => {}
        }
        if let Phase::Preparing { not_before } = self.phase
            && now >= not_before
            && !self.closing
            && self.lost.is_empty()
            && self.first_to_go().is_empty()
        {
            orders.join = Some(self.start_join());
            orders.changed = true;
        }
        if self.announced >= 0 && self.beating.as_ref() != Some(&self.announced_identity()) {
            self.beating = None;
            if now >= self.next_beat {
                self.beating = Some(self.announced_identity());
                orders.beat = self.beating.clone();
            }
        }
        if !self.leaving && !self.departing.is_empty() {
            self.leaving = true;
            orders.leave = Some(self.departing.remove(0));
        }
        orders.joining = match self.phase {
            Phase::Joining { serial, .. } | Phase::Leaving { serial, .. } => Some(serial),
            _ => None,
        };
        orders.identity = self.beating.clone();
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
        self.phase = Phase::Joining {
            serial: self.last_serial,
            claimed: owned.collect(),
        };
        (self.rejoin, self.unsure) = (false, true);
        order
    }

    fn polls_too_rarely(&self, now: Instant) -> bool {
        !self.polling
            && !self.closing
            && !matches!(self.phase, Phase::Out | Phase::Leaving { .. })
            && now > self.last_poll + self.rules.max_poll_interval
    }

    fn next_wake(&self) -> Option<Instant> {
        let beat = (self.announced >= 0 && self.beating.is_none()).then_some(self.next_beat);
        let phase = match self.phase {
            Phase::Preparing { not_before } => Some(not_before),
            Phase::Leaving { until, .. } => Some(until),
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

    fn announced_identity(&self) -> MemberIdentity {
        MemberIdentity {
            member_id: self.member_id.clone(),
            generation: self.announced,
        }
    }

    /// Takes leave, now that the id is known; a static member stays, so that it may come back to its partitions.
    fn depart(&mut self) {
        let member_id = std::mem::take(&mut self.member_id);
        if !member_id.is_empty() && !self.rules.is_static {
            self.departing.push(member_id);
        }
    }

    fn forget_generation(&mut self) {
        (self.generation, self.announced, self.unsure) = (-1, -1, false);
        self.beating = None;
    }

    /// The group went on without this member: what it held is somebody else's.
    fn lose_everything(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.dropped.extend(held.keys().cloned());
        self.lost.extend(held.into_keys());
        self.assigning.clear();
        self.forget_generation();
        self.due = true;
    }
}

#[cfg(test)]
mod tests;
