//! Hands leases over to other agents: for balance, and all of them during a drain.
//!
//! A moving partition stops accepting batches, its accepted ones are stored and committed, and then
//! the lease moves to its new holder in one transaction. Moves go in batches, so that each
//! partition is unavailable for one flush and one round trip only.

use std::sync::Arc;

use streamhouse_metadata::{LeaseMove, MoveOutcome};
use tokio::time::{Duration, sleep, timeout};

use super::{
    plan::{Claims, candidates, plan},
    reconcile::CHUNK,
    tenure::Tenure,
};
use crate::{directory::View, metrics::LeaseChange, partition::Partition};

/// Minimum number of partitions that move together.
const SMALLEST_BATCH: usize = 64;
/// Approximate number of batches of one handover.
const BATCHES: usize = 16;
/// Maximum time that a partition may be unavailable for the sake of balance.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failed handover.
const REST: Duration = Duration::from_secs(1);

impl Tenure {
    /// Hands over leases that the plan assigns to other agents; never returns.
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

    /// Returns the planned moves from this agent to others; all leases if this agent is draining.
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

    /// Carries the moves out. Returns `false` if it gave up: a drain began meanwhile, or storing
    /// what is in flight took longer than `patience`.
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
                "handover given up: batches in flight cannot be stored now"
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

    /// Releases the coordinator slots among the moving leases.
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
                // Coordinator slots are not among the held partitions.
                partitions += usize::from(self.life.held.remove(planned.partition, planned.epoch).is_some());
                moved += 1;
            } else {
                // The new holder is gone, or the lease was lost: the next snapshot says which.
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
