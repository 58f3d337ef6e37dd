//! Gives leases to other agents: for balance while a life lasts, and all of them when the agent drains.
//!
//! A partition that moves stops taking batches, what it took is stored and committed, and then the lease moves to its new
//! holder in one transaction. This goes in batches, so that each partition stands still for one flush and one round trip.

use std::sync::Arc;

use streamhouse_metadata::{LeaseMove, MoveOutcome};
use tokio::time::{Duration, sleep, timeout};

use super::{
    plan::{Claims, candidates, plan},
    reconcile::CHUNK,
    tenure::Tenure,
};
use crate::{directory::View, metrics::LeaseChange, partition::Partition};

/// Partitions that stand still together, at least.
const SMALLEST_BATCH: usize = 64;
/// A hand-over goes in about so many batches.
const BATCHES: usize = 16;
/// How long a partition may stand still for balance's sake before it goes on here.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a hand-over that did not succeed.
const REST: Duration = Duration::from_secs(1);

impl Tenure {
    /// Gives away what the plan wants elsewhere; never returns.
    pub(super) async fn give_for_ever(&self) {
        let mut versions = self.node.directory.subscribe();
        let mut settled = None;
        loop {
            versions.mark_unchanged();
            let view = self.node.directory.view();
            if settled != Some(view.version) && !self.node.health.draining() {
                let moves = self.gifts(&view, false);
                if moves.is_empty() {
                    settled = Some(view.version);
                } else if !self
                    .hand_over(&moves, LeaseChange::Balanced, Some(PATIENCE))
                    .await
                {
                    sleep(REST).await;
                }
            }
            let _ = versions.changed().await;
        }
    }

    /// What the plan wants to go from us to others; everything when we drain.
    pub(super) fn gifts(&self, view: &View, draining: bool) -> Vec<LeaseMove> {
        let me = self.life.incarnation;
        let mut agents = candidates(&view.snapshot);
        for agent in agents.iter_mut().filter(|agent| agent.incarnation == me) {
            agent.draining |= draining;
        }
        let claims = Claims::of(&view.snapshot);
        let moves = plan(&agents, &claims.slots, me)
            .into_iter()
            .chain(plan(&agents, &claims.data, me));
        moves
            .filter(|planned| planned.from == Some(me) && !self.gave(planned.partition, planned.epoch))
            .collect()
    }

    /// Carries the moves out. `false` when it was given up: a drain began meanwhile, or storing what is in flight took
    /// longer than `patience`.
    pub(super) async fn hand_over(
        &self,
        moves: &[LeaseMove],
        why: LeaseChange,
        patience: Option<Duration>,
    ) -> bool {
        let _one_at_a_time = self.handing.lock().await;
        let batch = (moves.len() / BATCHES).clamp(SMALLEST_BATCH, CHUNK);
        for batch in moves.chunks(batch) {
            if why == LeaseChange::Balanced && self.node.health.draining() {
                return false;
            }
            if !self.hand_over_batch(batch, why, patience).await {
                return false;
            }
        }
        true
    }

    async fn hand_over_batch(
        &self,
        batch: &[LeaseMove],
        why: LeaseChange,
        patience: Option<Duration>,
    ) -> bool {
        let partitions: Vec<Arc<Partition>> = batch
            .iter()
            .filter_map(|planned| self.life.held.get(planned.partition))
            .collect();
        for partition in &partitions {
            partition.set_accepting(false);
        }
        let drained = match patience {
            Some(patience) => timeout(patience, self.life.writer.drain()).await.is_ok(),
            None => {
                self.life.writer.drain().await;
                true
            }
        };
        if !drained {
            tracing::warn!(
                partitions = partitions.len(),
                "leases stay here: what is in flight cannot be stored at the moment"
            );
            self.take_batches_again(&partitions);
            return false;
        }
        for planned in batch {
            self.give(planned.partition, planned.epoch);
        }
        self.release_slots(batch).await;
        let outcomes = self
            .insist("handing over leases", || self.node.metadata.move_leases(batch))
            .await;
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, "leases could not be handed over");
                vec![MoveOutcome::Lost; batch.len()]
            }
        };
        self.settle(batch, &outcomes, why);
        true
    }

    /// Coordinator slots among the leases are let go before they move.
    async fn release_slots(&self, batch: &[LeaseMove]) {
        let slots: Vec<i32> = {
            let mut slots = self.slots.lock();
            let moving = |uid| batch.iter().any(|planned| planned.partition == uid);
            slots
                .extract_if(|_, lease| moving(lease.partition))
                .map(|(slot, _)| slot)
                .collect()
        };
        self.release(&slots).await;
    }

    fn settle(&self, batch: &[LeaseMove], outcomes: &[MoveOutcome], why: LeaseChange) {
        let (mut moved, mut partitions) = (0, 0);
        let mut lost = Vec::new();
        for (planned, outcome) in batch.iter().zip(outcomes) {
            if matches!(outcome, MoveOutcome::Moved { .. }) {
                // Coordinator slots are not among the partitions held.
                partitions += usize::from(self.life.held.remove(planned.partition, planned.epoch).is_some());
                moved += 1;
            } else {
                // The taker is gone, or the lease is not ours: the next snapshot knows.
                self.keep(planned.partition);
                lost.extend(self.life.held.get(planned.partition));
            }
        }
        tracing::info!(moved, wanted = batch.len(), ?why, "handed leases over");
        self.node.metrics.lease_changed(why, partitions);
        self.take_batches_again(&lost);
        if moved < batch.len() {
            self.again.notify_one();
        }
        self.node.directory.want();
    }

    fn take_batches_again(&self, partitions: &[Arc<Partition>]) {
        for partition in partitions {
            partition.set_accepting(!self.node.health.draining());
        }
    }
}
