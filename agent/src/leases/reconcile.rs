//! Makes the led partitions and coordinator slots follow the snapshot: starts leading what this
//! agent received, drops what it lost, and takes unowned leases that the plan assigns to it. Runs
//! for as long as the incarnation lasts.
//!
//! The set of led partitions changes only by what a snapshot says, never ahead of one, so that
//! snapshots of different age cannot be mixed up. Taking a lease costs one more round trip for
//! that.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use streamhouse_metadata::{Lease, LeaseMove, LeaseMoveOutcome, PartitionUid, Result};
use tokio::time::{Duration, Instant, sleep};

use super::{
    lease_set::LeaseSet,
    plan::{ClaimsByKind, fair_share, lease_candidates, plan_moves},
};
use crate::{
    directory::{ClusterView, DirectoryTopic},
    health::ReadinessCondition,
    metrics::LeaseChange,
    partition::LedPartition,
};

/// Maximum number of leases moved in one transaction.
pub(super) const MOVES_PER_TRANSACTION: usize = 500;
/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The leases that a snapshot assigns to this agent.
struct OwnLeases {
    partitions: Vec<(Lease, Arc<DirectoryTopic>, i32)>,
    slots: HashMap<i32, Lease>,
    epochs: HashMap<PartitionUid, i32>,
}

impl LeaseSet {
    /// Follows the directory; never returns. After `patience` the agent counts as ready even with
    /// less than its share: other agents may be unable to hand leases over.
    pub(super) async fn run_reconciliation(&self, patience: Duration) {
        let ready_at = Instant::now() + patience;
        let mut versions = self.deps.directory.subscribe();
        let mut settled = None;
        loop {
            versions.mark_unchanged();
            let view = self.deps.directory.view();
            // Snapshots from before the registration say nothing about this incarnation.
            if settled != Some(view.version) && view.agent(self.session.incarnation).is_some() {
                match self.reconcile(&view).await {
                    Ok(()) => settled = Some(view.version),
                    Err(error) => {
                        tracing::warn!(%error, "could not take up leases; retrying");
                        sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
            }
            if settled == Some(view.version) {
                self.report_readiness(&view, Instant::now() >= ready_at);
            }
            tokio::select! {
                _ = versions.changed() => {}
                () = self.recheck.notified() => settled = None,
            }
        }
    }

    async fn reconcile(&self, view: &ClusterView) -> Result<()> {
        let ours = self.own_leases(view);
        self.drop_lost(&ours);
        self.start_leading(&ours).await?;
        if !self.deps.health.is_draining() {
            self.take_unowned(view).await?;
        }
        // Last: a slot whose groups cannot be loaded must not keep partitions without a leader.
        self.reconcile_slots(&ours).await
    }

    fn own_leases(&self, view: &ClusterView) -> OwnLeases {
        let me = self.session.incarnation;
        let mut ours = OwnLeases {
            partitions: Vec::new(),
            slots: HashMap::new(),
            epochs: HashMap::new(),
        };
        for topic in view.topics() {
            for (index, record) in (0_i32..).zip(&topic.record.partitions) {
                if record.holder != Some(me) {
                    continue;
                }
                ours.epochs.insert(record.uid, record.epoch);
                if self.is_given(record.uid, record.epoch) {
                    continue;
                }
                let lease = Lease {
                    partition: record.uid,
                    incarnation: me,
                    epoch: record.epoch,
                };
                if topic.record.internal {
                    ours.slots.insert(index, lease);
                } else {
                    ours.partitions.push((lease, topic.clone(), index));
                }
            }
        }
        self.prune_given(&ours.epochs);
        ours
    }

    /// Drops partitions that another agent took or whose topic was deleted. The writer answers what
    /// is in flight for them: its commit is refused.
    fn drop_lost(&self, ours: &OwnLeases) {
        let held = self.session.partitions.all();
        let lost = held
            .iter()
            .filter(|partition| ours.epochs.get(&partition.uid()) != Some(&partition.lease.epoch));
        let mut count = 0;
        for partition in lost {
            if self
                .session
                .partitions
                .remove(partition.uid(), partition.lease.epoch)
                .is_some()
                && !self.is_given(partition.uid(), partition.lease.epoch)
            {
                tracing::debug!(topic = %partition.topic, partition = partition.index, "lease lost");
                count += 1;
            }
        }
        self.deps.metrics.record_lease_change(LeaseChange::Lost, count);
    }

    /// Starts leading the received partitions, with their logs as the metadata store has them now:
    /// no other agent can change them any more.
    async fn start_leading(&self, ours: &OwnLeases) -> Result<()> {
        let new = ours
            .partitions
            .iter()
            .filter(|(lease, ..)| self.session.partitions.get(lease.partition).is_none());
        let new: Vec<&(Lease, Arc<DirectoryTopic>, i32)> = new.collect();
        let mut names: HashMap<&str, Arc<str>> = HashMap::new();
        for chunk in new.chunks(MOVES_PER_TRANSACTION) {
            let uids: Vec<PartitionUid> = chunk.iter().map(|(lease, ..)| lease.partition).collect();
            let bounds: HashMap<_, _> = self
                .call_metadata(self.deps.metadata.bounds(&uids))
                .await?
                .into_iter()
                .collect();
            for (lease, topic, index) in chunk {
                // Given away or deleted during the call.
                let Some(bounds) = bounds.get(&lease.partition) else {
                    continue;
                };
                if self.is_given(lease.partition, lease.epoch) {
                    continue;
                }
                let name = names
                    .entry(&topic.record.name)
                    .or_insert_with(|| topic.record.name.as_str().into());
                let partition = LedPartition::new(*lease, name.clone(), *index, *bounds);
                partition.set_accepting(!self.deps.health.is_draining());
                self.session.partitions.insert(Arc::new(partition));
                let taken = self.taken.lock().remove(&lease.partition);
                self.deps.metrics.record_lease_change(
                    if taken {
                        LeaseChange::Taken
                    } else {
                        LeaseChange::Received
                    },
                    1,
                );
            }
        }
        Ok(())
    }

    /// Makes the coordinator's slots follow the snapshot.
    async fn reconcile_slots(&self, ours: &OwnLeases) -> Result<()> {
        let held = self.slots.lock().clone();
        for (slot, _) in held
            .iter()
            .filter(|(slot, lease)| ours.slots.get(slot) != Some(lease))
        {
            self.slots.lock().remove(slot);
            self.deps.groups.release(*slot).await;
        }
        let mut outcome = Ok(());
        for (&slot, &lease) in ours
            .slots
            .iter()
            .filter(|(slot, lease)| held.get(slot) != Some(lease))
        {
            // A slot whose groups cannot be loaded must not keep the others without a coordinator.
            match self.call_metadata(self.deps.groups.acquire(slot, lease)).await {
                Ok(()) => drop(self.slots.lock().insert(slot, lease)),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Takes unowned leases that the plan assigns to this agent.
    async fn take_unowned(&self, view: &ClusterView) -> Result<()> {
        let moves = planned_takes(view, self);
        for chunk in moves.chunks(MOVES_PER_TRANSACTION) {
            let outcomes = self.call_metadata(self.deps.metadata.move_leases(chunk)).await?;
            let moved = chunk
                .iter()
                .zip(&outcomes)
                .filter(|(_, outcome)| matches!(outcome, LeaseMoveOutcome::Moved { .. }));
            let moved: HashSet<PartitionUid> = moved.map(|(wish, _)| wish.partition).collect();
            tracing::info!(taken = moved.len(), wanted = chunk.len(), "took unowned leases");
            self.taken.lock().extend(moved);
        }
        if !moves.is_empty() {
            self.deps.directory.request_refresh();
        }
        Ok(())
    }

    /// Reports whether this agent leads its share.
    fn report_readiness(&self, view: &ClusterView, patience_is_over: bool) {
        let (held, slots) = (self.session.partitions.len(), self.slots.lock().len());
        self.deps
            .metrics
            .active_partitions
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        self.deps
            .metrics
            .coordinator_slots
            .set(i64::try_from(slots).unwrap_or(i64::MAX));
        if self.deps.health.is_ready() {
            return;
        }
        let (agents, claims) = (
            lease_candidates(&view.snapshot),
            ClaimsByKind::from_snapshot(&view.snapshot),
        );
        let share = fair_share(&agents, &claims.data);
        let slot_share = fair_share(&agents, &claims.slots);
        if (held >= share && slots >= slot_share) || patience_is_over {
            self.deps.health.set_met(ReadinessCondition::Leases);
        } else if !self.deps.health.is_ready() {
            // Once ready, a new topic or an agent that left does not make this agent unready.
            let why =
                format!("leads {held} of {share} partitions and {slots} of {slot_share} coordinator slots");
            self.deps.health.set_unmet(ReadinessCondition::Leases, why);
        }
    }
}

fn planned_takes(view: &ClusterView, tenure: &LeaseSet) -> Vec<LeaseMove> {
    let (agents, claims) = (
        lease_candidates(&view.snapshot),
        ClaimsByKind::from_snapshot(&view.snapshot),
    );
    let me = tenure.session.incarnation;
    let moves = plan_moves(&agents, &claims.slots, me)
        .into_iter()
        .chain(plan_moves(&agents, &claims.data, me));
    moves.filter(|planned| planned.from.is_none()).collect()
}
