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

use streamhouse_metadata::{Lease, LeaseMove, MoveOutcome, PartitionUid, Result};
use tokio::time::{Duration, Instant, sleep};

use super::{
    plan::{Claims, candidates, fair_share, plan},
    tenure::Tenure,
};
use crate::{
    directory::{Topic, View},
    health::Condition,
    metrics::LeaseChange,
    partition::Partition,
};

/// Maximum number of leases moved in one transaction.
pub(super) const CHUNK: usize = 500;
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(200);

/// The leases that a snapshot assigns to this agent.
struct Ours {
    partitions: Vec<(Lease, Arc<Topic>, i32)>,
    slots: HashMap<i32, Lease>,
    epochs: HashMap<PartitionUid, i32>,
}

impl Tenure {
    /// Follows the directory; never returns. After `patience` the agent counts as ready even with
    /// less than its share: other agents may be unable to hand leases over.
    pub(super) async fn reconcile_for_ever(&self, patience: Duration) {
        let ready_at = Instant::now() + patience;
        let mut versions = self.node.directory.subscribe();
        let mut settled = None;
        loop {
            versions.mark_unchanged();
            let view = self.node.directory.view();
            // Snapshots from before the registration say nothing about this incarnation.
            if settled != Some(view.version) && view.agent(self.life.incarnation).is_some() {
                match self.reconcile(&view).await {
                    Ok(()) => settled = Some(view.version),
                    Err(error) => {
                        tracing::warn!(%error, "could not take up leases; retrying");
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if settled == Some(view.version) {
                self.report(&view, Instant::now() >= ready_at);
            }
            tokio::select! {
                _ = versions.changed() => {}
                () = self.again.notified() => settled = None,
            }
        }
    }

    async fn reconcile(&self, view: &View) -> Result<()> {
        let ours = self.ours(view);
        self.let_go(&ours);
        self.take_up(&ours).await?;
        if !self.node.health.draining() {
            self.take(view).await?;
        }
        // Last: a slot whose groups cannot be loaded must not keep partitions without a leader.
        self.follow_slots(&ours).await
    }

    fn ours(&self, view: &View) -> Ours {
        let me = self.life.incarnation;
        let mut ours = Ours {
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
                if self.gave(record.uid, record.epoch) {
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
        self.retain_given(&ours.epochs);
        ours
    }

    /// Drops partitions that another agent took or whose topic was deleted. The writer answers what
    /// is in flight for them: its commit is refused.
    fn let_go(&self, ours: &Ours) {
        let held = self.life.held.all();
        let lost = held
            .iter()
            .filter(|partition| ours.epochs.get(&partition.uid()) != Some(&partition.lease.epoch));
        let mut count = 0;
        for partition in lost {
            if self
                .life
                .held
                .remove(partition.uid(), partition.lease.epoch)
                .is_some()
                && !self.gave(partition.uid(), partition.lease.epoch)
            {
                tracing::debug!(topic = %partition.topic, partition = partition.index, "lease lost");
                count += 1;
            }
        }
        self.node.metrics.lease_changed(LeaseChange::Lost, count);
    }

    /// Starts leading the received partitions, with their logs as the metadata store has them now:
    /// no other agent can change them any more.
    async fn take_up(&self, ours: &Ours) -> Result<()> {
        let new = ours
            .partitions
            .iter()
            .filter(|(lease, ..)| self.life.held.get(lease.partition).is_none());
        let new: Vec<&(Lease, Arc<Topic>, i32)> = new.collect();
        let mut names: HashMap<&str, Arc<str>> = HashMap::new();
        for chunk in new.chunks(CHUNK) {
            let uids: Vec<PartitionUid> = chunk.iter().map(|(lease, ..)| lease.partition).collect();
            let bounds: HashMap<_, _> = self
                .ask(self.node.metadata.bounds(&uids))
                .await?
                .into_iter()
                .collect();
            for (lease, topic, index) in chunk {
                // Given away or deleted during the call.
                let Some(bounds) = bounds.get(&lease.partition) else {
                    continue;
                };
                if self.gave(lease.partition, lease.epoch) {
                    continue;
                }
                let name = names
                    .entry(&topic.record.name)
                    .or_insert_with(|| topic.record.name.as_str().into());
                let partition = Partition::new(*lease, name.clone(), *index, *bounds);
                partition.set_accepting(!self.node.health.draining());
                self.life.held.insert(Arc::new(partition));
                let taken = self.taken.lock().remove(&lease.partition);
                self.node.metrics.lease_changed(
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
    async fn follow_slots(&self, ours: &Ours) -> Result<()> {
        let held = self.slots.lock().clone();
        for (slot, _) in held
            .iter()
            .filter(|(slot, lease)| ours.slots.get(slot) != Some(lease))
        {
            self.slots.lock().remove(slot);
            self.groups.release(*slot).await;
        }
        let mut outcome = Ok(());
        for (&slot, &lease) in ours
            .slots
            .iter()
            .filter(|(slot, lease)| held.get(slot) != Some(lease))
        {
            // A slot whose groups cannot be loaded must not keep the others without a coordinator.
            match self.ask(self.groups.acquire(slot, lease)).await {
                Ok(()) => drop(self.slots.lock().insert(slot, lease)),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Takes unowned leases that the plan assigns to this agent.
    async fn take(&self, view: &View) -> Result<()> {
        let moves = takes(view, self);
        for chunk in moves.chunks(CHUNK) {
            let outcomes = self.ask(self.node.metadata.move_leases(chunk)).await?;
            let moved = chunk
                .iter()
                .zip(&outcomes)
                .filter(|(_, outcome)| matches!(outcome, MoveOutcome::Moved { .. }));
            let moved: HashSet<PartitionUid> = moved.map(|(wish, _)| wish.partition).collect();
            tracing::info!(taken = moved.len(), wanted = chunk.len(), "took unowned leases");
            self.taken.lock().extend(moved);
        }
        if !moves.is_empty() {
            self.node.directory.want();
        }
        Ok(())
    }

    /// Reports whether this agent leads its share.
    fn report(&self, view: &View, patience_is_over: bool) {
        let (held, slots) = (self.life.held.len(), self.slots.lock().len());
        self.node
            .metrics
            .active_partitions
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        self.node
            .metrics
            .coordinator_slots
            .set(i64::try_from(slots).unwrap_or(i64::MAX));
        if self.node.health.is_ready() {
            return;
        }
        let (agents, claims) = (candidates(&view.snapshot), Claims::of(&view.snapshot));
        let share = fair_share(&agents, &claims.data);
        let slot_share = fair_share(&agents, &claims.slots);
        if (held >= share && slots >= slot_share) || patience_is_over {
            self.node.health.met(Condition::Leases);
        } else if !self.node.health.is_ready() {
            // Once ready, a new topic or an agent that left does not make this agent unready.
            let why =
                format!("leads {held} of {share} partitions and {slots} of {slot_share} coordinator slots");
            self.node.health.unmet(Condition::Leases, why);
        }
    }
}

fn takes(view: &View, tenure: &Tenure) -> Vec<LeaseMove> {
    let (agents, claims) = (candidates(&view.snapshot), Claims::of(&view.snapshot));
    let me = tenure.life.incarnation;
    let moves = plan(&agents, &claims.slots, me)
        .into_iter()
        .chain(plan(&agents, &claims.data, me));
    moves.filter(|planned| planned.from.is_none()).collect()
}
