//! The coordinator's answers to joins, heartbeats and commits, each judged by the identity it was
//! requested with.

use std::{collections::BTreeSet, time::Duration};

use streamhouse_core::{Error as CoreError, ErrorCode, TopicPartition};
use tokio::time::Instant;

use super::{MemberIdentity, MemberMachine, Phase};
use crate::error::Error;

/// How to handle a rejected commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::consumer) enum Verdict {
    /// Send it again, for the partitions still owned, once the assignment is known: it was sent in
    /// an earlier generation by a member that has moved on with the group.
    Again,
    /// The rejection is final.
    Final,
}

impl MemberMachine {
    /// Sets the member id that the coordinator has assigned; the member must join with it.
    pub(in crate::consumer) fn id_given(&mut self, serial: u64, member_id: &str) {
        if self.goes_on(serial) {
            member_id.clone_into(&mut self.member_id);
            self.leave_if_known();
        }
    }

    /// Handles the answer to a join, before the assignment. From now on the group expects
    /// heartbeats.
    pub(in crate::consumer) fn join_answered(&mut self, serial: u64, identity: MemberIdentity, now: Instant) {
        if !self.goes_on(serial) {
            return;
        }
        self.member_id = identity.member_id;
        if self.leave_if_known() {
            return;
        }
        self.announced = identity.generation;
        self.next_beat = now + self.rules.heartbeat;
    }

    /// Handles the assignment. With `cooperative`, other members wait until this one has revoked
    /// the partitions that are missing in it.
    pub(in crate::consumer) fn synced(
        &mut self,
        serial: u64,
        partitions: BTreeSet<TopicPartition>,
        cooperative: bool,
    ) {
        let Phase::Joining {
            serial: current,
            claimed,
        } = &self.phase
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
        self.generation = self.announced;
        (self.unsure, self.failure, self.due) = (false, None, true);
        let mut target = partitions;
        // The subscription may have changed since the join started.
        target.retain(|key| self.topics().contains(&key.topic));
        self.phase = Phase::Stable { target, awaited };
    }

    /// Handles a failed join. The next one starts after `pause`.
    pub(in crate::consumer) fn join_failed(
        &mut self,
        serial: u64,
        error: Error,
        now: Instant,
        pause: Duration,
    ) {
        if !self.goes_on(serial) {
            return;
        }
        if matches!(self.phase, Phase::Leaving { .. }) {
            self.phase = Phase::Out;
            return;
        }
        self.phase = Phase::Preparing {
            not_before: now + pause,
        };
        // The subscription may have changed since the join started, so that partitions must be
        // revoked before the next one.
        self.due = true;
        match (error.code(), error) {
            (ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired, _) => {}
            (ErrorCode::UnknownMemberId, _) => self.expelled(true),
            // The group is in another generation than the one joined, in which it does not know
            // what this member owns.
            (ErrorCode::IllegalGeneration, _) => self.expelled(false),
            (ErrorCode::FencedInstanceId, Error::Cluster(error)) => self.fenced(error),
            (_, error) if error.is_retryable() => {}
            (_, error) => self.failure = Some(error),
        }
    }

    /// Handles the result of a heartbeat: an answer, or no answer for a whole session time-out.
    pub(in crate::consumer) fn beat_ended(
        &mut self,
        sent: &MemberIdentity,
        outcome: Result<(), Error>,
        now: Instant,
    ) {
        if self.beating.as_ref() == Some(sent) {
            self.beating = None;
            self.next_beat = now + self.rules.heartbeat;
        }
        match outcome {
            Ok(()) => {}
            Err(Error::Cluster(error)) => {
                self.judge(sent, &error, now);
            }
            Err(error) => {
                if *sent == self.announced_identity() {
                    tracing::warn!(%error, "the group coordinator cannot be reached");
                    self.expelled(false);
                    self.prepare(now);
                }
            }
        }
    }

    /// Handles a rejected commit.
    pub(in crate::consumer) fn commit_refused(
        &mut self,
        sent: &MemberIdentity,
        error: &CoreError,
        now: Instant,
    ) -> Verdict {
        if sent.generation < 0 {
            return Verdict::Final;
        }
        self.judge(sent, error, now)
    }

    fn judge(&mut self, sent: &MemberIdentity, error: &CoreError, now: Instant) -> Verdict {
        if sent.member_id != self.member_id {
            return Verdict::Final;
        }
        // The group may be in a later generation than the request; this member is already joining
        // it.
        let is_past = self.unsure || sent.generation != self.announced;
        match error.code() {
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration if is_past => self.again(),
            ErrorCode::RebalanceInProgress => {
                self.rejoin = true;
                self.again()
            }
            ErrorCode::IllegalGeneration => {
                self.expelled(false);
                self.prepare(now);
                Verdict::Final
            }
            ErrorCode::UnknownMemberId => {
                self.expelled(true);
                self.prepare(now);
                Verdict::Final
            }
            ErrorCode::FencedInstanceId => {
                self.fenced(error.clone());
                Verdict::Final
            }
            _ => Verdict::Final,
        }
    }

    /// Partitions to revoke are revoked by the application, which may be waiting for this commit.
    fn again(&self) -> Verdict {
        if self.gets_on() {
            Verdict::Again
        } else {
            Verdict::Final
        }
    }

    fn prepare(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Out | Phase::Leaving { .. }) {
            self.phase = Phase::Preparing { not_before: now };
        }
    }

    fn expelled(&mut self, unknown: bool) {
        if !self.held.is_empty() {
            tracing::warn!(
                member_id = self.member_id,
                partitions = self.held.len(),
                "the group has removed this member; its partitions are lost"
            );
        }
        self.lose_everything();
        if unknown {
            self.member_id.clear();
        }
    }

    fn fenced(&mut self, error: CoreError) {
        self.expelled(true);
        self.phase = Phase::Out;
        self.failure = Some(error.clone().into());
        self.fatal = Some(error);
    }

    /// Returns whether this is the join in flight.
    fn goes_on(&self, serial: u64) -> bool {
        match self.phase {
            Phase::Joining { serial: current, .. } | Phase::Leaving { serial: current, .. } => {
                current == serial
            }
            _ => false,
        }
    }

    /// Completes leaving if the member waited only for its id.
    fn leave_if_known(&mut self) -> bool {
        let leaving = matches!(self.phase, Phase::Leaving { .. });
        if leaving {
            self.phase = Phase::Out;
            self.depart();
        }
        leaving
    }
}
