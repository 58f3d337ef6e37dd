//! The coordinator's answers to joins, heartbeats and commits, each judged by the identity it was
//! requested with.

use std::{collections::BTreeSet, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition};
use tokio::time::Instant;

use super::{MemberIdentity, MemberState, MemberStateMachine};
use crate::error::Error;

/// How to handle a rejected commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consumer) enum CommitVerdict {
    /// Send it again, for the partitions still owned, once the assignment is known: it was sent in
    /// an earlier generation by a member that has moved on with the group.
    Retry,
    /// The rejection is final.
    Final,
}

impl MemberStateMachine {
    /// Sets the member id that the coordinator has assigned; the member must join with it.
    pub(in crate::consumer) fn set_member_id(&mut self, serial: u64, member_id: &str) {
        if self.is_current_join(serial) {
            member_id.clone_into(&mut self.member_id);
            self.finish_leaving();
        }
    }

    /// Handles the answer to a join, before the assignment. From now on the group expects
    /// heartbeats.
    pub(in crate::consumer) fn handle_join_response(
        &mut self,
        serial: u64,
        identity: MemberIdentity,
        now: Instant,
    ) {
        if !self.is_current_join(serial) {
            return;
        }
        self.member_id = identity.member_id;
        if self.finish_leaving() {
            return;
        }
        self.joined_generation = identity.generation;
        self.next_beat = now + self.rules.heartbeat;
    }

    /// Handles the assignment. With `cooperative`, other members wait until this one has revoked
    /// the partitions that are missing in it.
    pub(in crate::consumer) fn handle_assignment(
        &mut self,
        serial: u64,
        partitions: BTreeSet<TopicPartition>,
        cooperative: bool,
    ) {
        let MemberState::Joining {
            serial: current,
            claimed,
        } = &self.state
        else {
            return;
        };
        if *current != serial {
            return;
        }
        let awaited = if cooperative {
            claimed.difference(&partitions).cloned().collect()
        } else {
            BTreeSet::new()
        };
        self.generation = self.joined_generation;
        (self.may_be_behind, self.failure, self.may_have_action) = (false, None, true);
        let mut target = partitions;
        // The subscription may have changed since the join started.
        target.retain(|key| self.topics().contains(&key.topic));
        self.state = MemberState::Stable { target, awaited };
    }

    /// Handles a failed join. The next one starts after `pause`.
    pub(in crate::consumer) fn handle_join_failure(
        &mut self,
        serial: u64,
        error: Error,
        now: Instant,
        pause: Duration,
    ) {
        if !self.is_current_join(serial) {
            return;
        }
        if matches!(self.state, MemberState::Leaving { .. }) {
            self.state = MemberState::Unjoined;
            return;
        }
        self.state = MemberState::Preparing {
            not_before: now + pause,
        };
        // The subscription may have changed since the join started, so that partitions must be
        // revoked before the next one.
        self.may_have_action = true;
        match (error.code(), error) {
            (ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired, _) => {}
            (ErrorCode::UnknownMemberId, _) => self.handle_expulsion(true),
            // The group is in another generation than the one joined, in which it does not know
            // what this member owns.
            (ErrorCode::IllegalGeneration, _) => self.handle_expulsion(false),
            (ErrorCode::FencedInstanceId, Error::Cluster(error)) => self.handle_fencing(error),
            (_, error) if error.is_retryable() => {}
            (_, error) => self.failure = Some(error),
        }
    }

    /// Handles the result of a heartbeat: an answer, or no answer for a whole session time-out.
    pub(in crate::consumer) fn handle_heartbeat_result(
        &mut self,
        sent: &MemberIdentity,
        outcome: Result<(), Error>,
        now: Instant,
    ) {
        if self.heartbeat_in_flight.as_ref() == Some(sent) {
            self.heartbeat_in_flight = None;
            self.next_beat = now + self.rules.heartbeat;
        }
        match outcome {
            Ok(()) => {}
            Err(Error::Cluster(error)) => {
                self.classify_rejection(sent, &error, now);
            }
            Err(error) => {
                if *sent == self.joined_identity() {
                    tracing::warn!(%error, "the group coordinator cannot be reached");
                    self.handle_expulsion(false);
                    self.prepare_rejoin(now);
                }
            }
        }
    }

    /// Handles a rejected commit.
    pub(in crate::consumer) fn handle_commit_rejection(
        &mut self,
        sent: &MemberIdentity,
        error: &ClusterError,
        now: Instant,
    ) -> CommitVerdict {
        if sent.generation < 0 {
            return CommitVerdict::Final;
        }
        self.classify_rejection(sent, error, now)
    }

    fn classify_rejection(
        &mut self,
        sent: &MemberIdentity,
        error: &ClusterError,
        now: Instant,
    ) -> CommitVerdict {
        if sent.member_id != self.member_id {
            return CommitVerdict::Final;
        }
        // The group may be in a later generation than the request; this member is already joining
        // it.
        let is_past = self.may_be_behind || sent.generation != self.joined_generation;
        match error.code() {
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration if is_past => self.retry_verdict(),
            ErrorCode::RebalanceInProgress => {
                self.rejoin = true;
                self.retry_verdict()
            }
            ErrorCode::IllegalGeneration => {
                self.handle_expulsion(false);
                self.prepare_rejoin(now);
                CommitVerdict::Final
            }
            ErrorCode::UnknownMemberId => {
                self.handle_expulsion(true);
                self.prepare_rejoin(now);
                CommitVerdict::Final
            }
            ErrorCode::FencedInstanceId => {
                self.handle_fencing(error.clone());
                CommitVerdict::Final
            }
            _ => CommitVerdict::Final,
        }
    }

    /// Partitions to revoke are revoked by the application, which may be waiting for this commit.
    fn retry_verdict(&self) -> CommitVerdict {
        if self.can_advance_without_poll() {
            CommitVerdict::Retry
        } else {
            CommitVerdict::Final
        }
    }

    fn prepare_rejoin(&mut self, now: Instant) {
        if !matches!(self.state, MemberState::Unjoined | MemberState::Leaving { .. }) {
            self.state = MemberState::Preparing { not_before: now };
        }
    }

    fn handle_expulsion(&mut self, unknown: bool) {
        if !self.held.is_empty() {
            tracing::warn!(
                member_id = self.member_id,
                partitions = self.held.len(),
                "the group has removed this member; its partitions are lost"
            );
        }
        self.lose_all_partitions();
        if unknown {
            self.member_id.clear();
        }
    }

    fn handle_fencing(&mut self, error: ClusterError) {
        self.handle_expulsion(true);
        self.state = MemberState::Unjoined;
        self.failure = Some(error.clone().into());
        self.fatal = Some(error);
    }

    /// Returns whether this is the join in flight.
    fn is_current_join(&self, serial: u64) -> bool {
        match self.state {
            MemberState::Joining { serial: current, .. } | MemberState::Leaving { serial: current, .. } => {
                current == serial
            }
            _ => false,
        }
    }

    /// Completes leaving if the member waited only for its id.
    fn finish_leaving(&mut self) -> bool {
        let leaving = matches!(self.state, MemberState::Leaving { .. });
        if leaving {
            self.state = MemberState::Unjoined;
            self.queue_leave();
        }
        leaving
    }
}
