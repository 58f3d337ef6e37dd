//! The actions of a rebalance that involve the application, performed within `poll` and `close`:
//! report lost partitions, revoke partitions, assign partitions. Each is returned again until it is
//! completed, because a caller may drop the future of `poll` at any await.

use std::collections::BTreeSet;

use streamhouse_core::TopicPartition;

use super::{MemberState, MemberStateMachine};

/// The next action to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) enum RebalanceAction {
    /// Report these partitions as lost; ended by [`MemberStateMachine::complete_lose`].
    Lose(Vec<TopicPartition>),
    /// Revoke these partitions after their last commits; ended by
    /// [`MemberStateMachine::complete_revoke`].
    Revoke(Vec<TopicPartition>),
    /// Assign these partitions. They are owned from now on; ended by
    /// [`MemberStateMachine::complete_assign`].
    Assign(Vec<TopicPartition>),
}

impl MemberStateMachine {
    /// Returns the next action: losses first, so that nothing new starts before they are reported.
    pub(in crate::consumer) fn next_action(&mut self) -> Option<RebalanceAction> {
        if !self.may_have_action {
            return None;
        }
        if !self.lost.is_empty() {
            return Some(RebalanceAction::Lose(self.lost.iter().cloned().collect()));
        }
        let revoked = self.partitions_to_revoke();
        if !revoked.is_empty() {
            return Some(RebalanceAction::Revoke(revoked));
        }
        self.start_assigning();
        if !self.assigning.is_empty() {
            return Some(RebalanceAction::Assign(self.assigning.iter().cloned().collect()));
        }
        self.may_have_action = false;
        None
    }

    /// Returns the partitions that must be revoked before anything else.
    pub(super) fn partitions_to_revoke(&self) -> Vec<TopicPartition> {
        let is_unwanted = |key: &TopicPartition| match &self.state {
            _ if self.closing => true,
            MemberState::Preparing { .. } => !self.rules.cooperative || !self.topics().contains(&key.topic),
            MemberState::Stable { target, .. } => !target.contains(key),
            _ => false,
        };
        let unwanted = self.held.keys().filter(|key| is_unwanted(key));
        unwanted.cloned().collect()
    }

    fn start_assigning(&mut self) {
        let MemberState::Stable { target, .. } = &self.state else {
            return;
        };
        if self.closing {
            return;
        }
        let new: BTreeSet<_> = target
            .iter()
            .filter(|key| !self.held.contains_key(key))
            .cloned()
            .collect();
        for key in new {
            self.last_ownership_epoch += 1;
            self.held.insert(key.clone(), self.last_ownership_epoch);
            self.assigning.insert(key);
        }
    }

    pub(in crate::consumer) fn complete_lose(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.lost.remove(key);
        }
    }

    /// Completes a revocation. Partitions that were lost meanwhile are not reported again.
    pub(in crate::consumer) fn complete_revoke(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.lost.remove(key);
            self.assigning.remove(key);
            if self.held.remove(key).is_some() {
                self.dropped.push(key.clone());
            }
        }
    }

    /// Completes an assignment. Returns the partitions that are still owned.
    pub(in crate::consumer) fn complete_assign(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Vec<TopicPartition> {
        let mut still = partitions.to_vec();
        still.retain(|key| self.assigning.remove(key));
        still
    }
}
