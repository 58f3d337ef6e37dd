//! The actions of a rebalance that involve the application, performed within `poll` and `close`:
//! report lost partitions, revoke partitions, assign partitions. Each is returned again until it is
//! completed, because a caller may drop the future of `poll` at any await.

use std::collections::BTreeSet;

use streamhouse_core::TopicPartition;

use super::{MemberMachine, Phase};

/// The next action to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) enum Duty {
    /// Report these partitions as lost; ended by [`MemberMachine::told_lost`].
    Lose(Vec<TopicPartition>),
    /// Revoke these partitions after their last commits; ended by [`MemberMachine::given_up`].
    Revoke(Vec<TopicPartition>),
    /// Assign these partitions. They are owned from now on; ended by [`MemberMachine::taken`].
    Assign(Vec<TopicPartition>),
}

impl MemberMachine {
    /// Returns the next action: losses first, so that nothing new starts before they are reported.
    pub(in crate::consumer) fn duty(&mut self) -> Option<Duty> {
        if !self.due {
            return None;
        }
        if !self.lost.is_empty() {
            return Some(Duty::Lose(self.lost.iter().cloned().collect()));
        }
        let revoked = self.first_to_go();
        if !revoked.is_empty() {
            return Some(Duty::Revoke(revoked));
        }
        self.start_assigning();
        if !self.assigning.is_empty() {
            return Some(Duty::Assign(self.assigning.iter().cloned().collect()));
        }
        self.due = false;
        None
    }

    /// Returns the partitions that must be revoked before anything else.
    pub(super) fn first_to_go(&self) -> Vec<TopicPartition> {
        let is_unwanted = |key: &TopicPartition| match &self.phase {
            _ if self.closing => true,
            Phase::Preparing { .. } => !self.rules.cooperative || !self.topics().contains(&key.topic),
            Phase::Stable { target, .. } => !target.contains(key),
            _ => false,
        };
        let unwanted = self.held.keys().filter(|key| is_unwanted(key));
        unwanted.cloned().collect()
    }

    fn start_assigning(&mut self) {
        let Phase::Stable { target, .. } = &self.phase else {
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
            self.last_tenure += 1;
            self.held.insert(key.clone(), self.last_tenure);
            self.assigning.insert(key);
        }
    }

    pub(in crate::consumer) fn told_lost(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.lost.remove(key);
        }
    }

    /// Completes a revocation. Partitions that were lost meanwhile are not reported again.
    pub(in crate::consumer) fn given_up(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.lost.remove(key);
            self.assigning.remove(key);
            if self.held.remove(key).is_some() {
                self.dropped.push(key.clone());
            }
        }
    }

    /// Completes an assignment. Returns the partitions that are still owned.
    pub(in crate::consumer) fn taken(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let mut still = partitions.to_vec();
        still.retain(|key| self.assigning.remove(key));
        still
    }
}
