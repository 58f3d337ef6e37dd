//! Hands leases over to other agents: for balance, and all of them during a drain.
//!
//! A moving partition stops accepting batches, its accepted ones are stored and committed, and then
//! the lease moves to its new holder in one transaction. Moves go in batches, so that each
//! partition is unavailable for one flush and one round trip only.

use std::sync::Arc;

use streamhouse_metadata::{LeaseMove, LeaseMoveOutcome};
use tokio::time::{Duration, sleep, timeout};

use super::{
    lease_set::LeaseSet,
    plan::{ClaimsByKind, lease_candidates, plan_moves},
    reconcile::MOVES_PER_TRANSACTION,
};
use crate::{directory::ClusterView, metrics::LeaseChange, partition::LedPartition};

/// Minimum number of partitions that move together.
const MIN_BATCH: usize = 64;
/// Approximate number of batches of one handover.
const TARGET_BATCHES: usize = 16;
/// Maximum time that a partition may be unavailable for the sake of balance.
const BALANCE_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed handover.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl LeaseSet {
    /// Hands over leases that the plan assigns to other agents; never returns.
    pub(super) async fn run_balancing(&self) {
        let mut versions = self.deps.directory.subscribe();
        let mut settled = None;
        loop {
            versions.mark_unchanged();
            let view = self.deps.directory.view();
            if settled != Some(view.version) && !self.deps.health.is_draining() {
                let moves = self.planned_handovers(&view, false);
                if moves.is_empty() {
                    settled = Some(view.version);
                } else if !self
                    .hand_over(&moves, LeaseChange::Balanced, Some(BALANCE_DRAIN_TIMEOUT))
                    .await
                {
                    sleep(RETRY_PAUSE).await;
                }
            }
            let _ = versions.changed().await;
        }
    }

    /// Returns the planned moves from this agent to others; all leases if this agent is draining.
    pub(super) fn planned_handovers(&self, view: &ClusterView, draining: bool) -> Vec<LeaseMove> {
        let me = self.session.incarnation;
        let mut agents = lease_candidates(&view.snapshot);
        for agent in agents.iter_mut().filter(|agent| agent.incarnation == me) {
            agent.draining |= draining;
        }
        let claims = ClaimsByKind::from_snapshot(&view.snapshot);
        let moves = plan_moves(&agents, &claims.slots, me)
            .into_iter()
            .chain(plan_moves(&agents, &claims.data, me));
        moves
            .filter(|planned| planned.from == Some(me) && !self.is_given(planned.partition, planned.epoch))
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
        let _one_at_a_time = self.handover_lock.lock().await;
        let batch = (moves.len() / TARGET_BATCHES).clamp(MIN_BATCH, MOVES_PER_TRANSACTION);
        for batch in moves.chunks(batch) {
            if why == LeaseChange::Balanced && self.deps.health.is_draining() {
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
        let partitions: Vec<Arc<LedPartition>> = batch
            .iter()
            .filter_map(|planned| self.session.partitions.get(planned.partition))
            .collect();
        for partition in &partitions {
            partition.set_accepting(false);
        }
        let drained = match patience {
            Some(patience) => timeout(patience, self.writer.drain()).await.is_ok(),
            None => {
                self.writer.drain().await;
                true
            }
        };
        if !drained {
            tracing::warn!(
                partitions = partitions.len(),
                "handover given up: batches in flight cannot be stored now"
            );
            self.resume_accepting(&partitions);
            return false;
        }
        for planned in batch {
            self.mark_given(planned.partition, planned.epoch);
        }
        self.release_moving_slots(batch).await;
        let outcomes = self
            .retry_until_answered("handing over leases", || self.deps.metadata.move_leases(batch))
            .await;
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, "leases could not be handed over");
                vec![LeaseMoveOutcome::Lost; batch.len()]
            }
        };
        self.apply_outcomes(batch, &outcomes, why);
        true
    }

    /// Releases the coordinator slots among the moving leases.
    async fn release_moving_slots(&self, batch: &[LeaseMove]) {
        let slots: Vec<i32> = {
            let mut slots = self.slots.lock();
            let moving = |uid| batch.iter().any(|planned| planned.partition == uid);
            slots
                .extract_if(|_, lease| moving(lease.partition))
                .map(|(slot, _)| slot)
                .collect()
        };
        self.release_slots(&slots).await;
    }

    fn apply_outcomes(&self, batch: &[LeaseMove], outcomes: &[LeaseMoveOutcome], why: LeaseChange) {
        let (mut moved, mut partitions) = (0, 0);
        let mut lost = Vec::new();
        for (planned, outcome) in batch.iter().zip(outcomes) {
            if matches!(outcome, LeaseMoveOutcome::Moved { .. }) {
                // Coordinator slots are not among the held partitions.
                partitions += usize::from(
                    self.session
                        .partitions
                        .remove(planned.partition, planned.epoch)
                        .is_some(),
                );
                moved += 1;
            } else {
                // The new holder is gone, or the lease was lost: the next snapshot says which.
                self.unmark_given(planned.partition);
                lost.extend(self.session.partitions.get(planned.partition));
            }
        }
        tracing::info!(moved, wanted = batch.len(), ?why, "handed leases over");
        self.deps.metrics.record_lease_change(why, partitions);
        self.resume_accepting(&lost);
        if moved < batch.len() {
            self.recheck.notify_one();
        }
        self.deps.directory.request_refresh();
    }

    fn resume_accepting(&self, partitions: &[Arc<LedPartition>]) {
        for partition in partitions {
            partition.set_accepting(!self.deps.health.is_draining());
        }
    }
}
