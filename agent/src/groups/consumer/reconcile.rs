//! Reconciliation: moves one member towards its target. Partitions that it must give up come first;
//! those that it gets are free of all others.

use std::collections::HashSet;

use super::{
    ConsumerGroup, ConsumerMember, MemberId, MemberReconciliation,
    partitions::{PartitionEpochs, PartitionKey, PartitionSet},
};

/// What the heartbeat that a member is reconciled with has brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReconcileContext<'a> {
    /// The partitions that the member says it has; `None` if it does not say.
    pub(super) owned: Option<&'a PartitionSet>,
    /// The member has changed its subscription.
    pub(super) resubscribed: bool,
}

impl ReconcileContext<'_> {
    /// Returns whether the member may still have one of these partitions.
    fn may_own(&self, partitions: &PartitionEpochs) -> bool {
        match self.owned {
            None => true,
            Some(owned) => owned.iter().any(|partition| partitions.contains_key(partition)),
        }
    }
}

impl ConsumerGroup {
    /// Moves a member towards its target as far as possible. Returns whether it has changed.
    pub(super) fn reconcile(&mut self, now: i64, id: &MemberId, context: ReconcileContext<'_>) -> bool {
        let Some(entry) = self.members.get(id) else {
            return false;
        };
        let member = ConsumerMember::clone(&entry.member);
        let target_epoch = self.assignment_epoch;
        if member.is_reconciled_to(target_epoch) && !context.resubscribed {
            return false;
        }
        let next = match member.reconciliation {
            MemberReconciliation::Stable if member.epoch == target_epoch => {
                self.drop_unsubscribed(member, context)
            }
            MemberReconciliation::UnrevokedPartitions if context.may_own(&member.revoking) => {
                if !context.resubscribed {
                    return false;
                }
                self.drop_unsubscribed(member, context)
            }
            MemberReconciliation::UnrevokedPartitions => {
                // Partitions may also be given up for a new subscription, before its target is
                // known.
                let epoch = member.epoch.saturating_add(1).min(target_epoch);
                self.advance(id, with_epoch(member, epoch), context)
            }
            MemberReconciliation::Stable | MemberReconciliation::UnreleasedPartitions => {
                self.advance(id, member, context)
            }
        };
        if !self.set_member(id, next) {
            return false;
        }
        if let Some(entry) = self.members.get_mut(id) {
            let unrevoked = entry.member.reconciliation == MemberReconciliation::UnrevokedPartitions;
            entry.revoke_until = unrevoked.then(|| now.saturating_add(entry.member.rebalance_ms));
        }
        true
    }

    /// Gives up the partitions of topics that the member does not subscribe to any more.
    fn drop_unsubscribed(&self, mut member: ConsumerMember, context: ReconcileContext<'_>) -> ConsumerMember {
        let subscribed = self.subscribed_ids(&member);
        let is_subscribed = |partition: &PartitionKey| subscribed.binary_search(&partition.0).is_ok();
        let (kept, dropped): (PartitionEpochs, PartitionEpochs) = std::mem::take(&mut member.assigned)
            .into_iter()
            .partition(|(partition, _)| is_subscribed(partition));
        member.assigned = kept;
        if dropped.is_empty() {
            return member;
        }
        let mut revoking = member.revoking.clone();
        revoking.extend(dropped);
        if context.may_own(&revoking) {
            member.revoking = revoking;
            member.reconciliation = MemberReconciliation::UnrevokedPartitions;
        }
        member
    }

    /// Computes the next assignment of a member that has nothing left to give up.
    fn advance(
        &self,
        id: &MemberId,
        mut member: ConsumerMember,
        context: ReconcileContext<'_>,
    ) -> ConsumerMember {
        let subscribed = self.subscribed_ids(&member);
        let is_wanted = |partition: &PartitionKey| {
            member.target.contains(partition) && subscribed.binary_search(&partition.0).is_ok()
        };
        let (kept, revoking): (PartitionEpochs, PartitionEpochs) = std::mem::take(&mut member.assigned)
            .into_iter()
            .partition(|(partition, _)| is_wanted(partition));
        if !revoking.is_empty() && context.may_own(&revoking) {
            member.assigned = kept;
            member.revoking = revoking;
            member.reconciliation = MemberReconciliation::UnrevokedPartitions;
            return member;
        }
        let wanted: Vec<PartitionKey> = member
            .target
            .iter()
            .filter(|partition| is_wanted(partition) && !kept.contains_key(*partition))
            .copied()
            .collect();
        let taken = match wanted.is_empty() {
            true => HashSet::new(),
            false => self.partitions_of_others(id),
        };
        let (unreleased, free): (Vec<PartitionKey>, Vec<PartitionKey>) = wanted
            .into_iter()
            .partition(|partition| taken.contains(partition));
        let epoch = self.assignment_epoch;
        member = with_epoch(member, epoch);
        member.assigned = kept;
        member
            .assigned
            .extend(free.into_iter().map(|partition| (partition, epoch)));
        member.revoking = PartitionEpochs::new();
        member.reconciliation = match unreleased.is_empty() {
            true => MemberReconciliation::Stable,
            false => MemberReconciliation::UnreleasedPartitions,
        };
        member
    }

    /// Returns the partitions that other members have or still have to give up.
    fn partitions_of_others(&self, id: &MemberId) -> HashSet<PartitionKey> {
        let others = self.members.iter().filter(|(other, _)| *other != id);
        others
            .flat_map(|(_, entry)| entry.member.assigned.keys().chain(entry.member.revoking.keys()))
            .copied()
            .collect()
    }
}

fn with_epoch(mut member: ConsumerMember, epoch: i32) -> ConsumerMember {
    if member.epoch != epoch {
        member.previous_epoch = member.epoch;
        member.epoch = epoch;
    }
    member
}
