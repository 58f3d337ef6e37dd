//! What the application's side does for the membership, within `poll` and `close`: hear of partitions that are lost, give
//! partitions up, take partitions over. Each duty is given out again until it is reported done, because a caller may drop the
//! future of `poll` at any await.

use std::collections::BTreeSet;

use streamhouse_core::TopicPartition;

use super::{MemberMachine, Phase};

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::consumer) enum Duty {
    /// To tell the application that these are gone. [`MemberMachine::told_lost`] ends it.
    Lose(Vec<TopicPartition>),
    /// To give these up, with the last commits. [`MemberMachine::given_up`] ends it.
    Revoke(Vec<TopicPartition>),
    /// To take these over. They count as held from now on; [`MemberMachine::taken`] ends it.
    Assign(Vec<TopicPartition>),
}

impl MemberMachine {
    /// The next duty: losses first, so that nothing new is begun before the application heard of them.
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

    /// What has to be given up before anything else happens.
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

    /// These are read no more. Some may have been lost meanwhile: the application knows already.
    pub(in crate::consumer) fn given_up(&mut self, partitions: &[TopicPartition]) {
        for key in partitions {
            self.lost.remove(key);
            self.assigning.remove(key);
            if self.held.remove(key).is_some() {
                self.dropped.push(key.clone());
            }
        }
    }

    /// The application knows that it has these. Returns those that it still has.
    pub(in crate::consumer) fn taken(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let mut still = partitions.to_vec();
        still.retain(|key| self.assigning.remove(key));
        still
    }
}
