//! Sweeps orphans: WAL objects that were stored but never committed, because an agent died between
//! PUT and commit (INV-G2). Considers only incarnations that have been sealed for longer than the
//! grace period: they can commit no more, and none of their uploads is still under way.

use std::collections::HashSet;

use streamhouse_core::Incarnation;
use streamhouse_metadata::keys;
use tokio::time::Duration;

use super::{JobError, MaintenanceDeps};
use crate::{failpoint::FailPoint, invariant::Invariant, session::AgentSession};

/// Objects per listing.
const LIST_PAGE_SIZE: usize = 1000;

/// How long an incarnation may be overdue for sweeping before it counts as a leak (INV-G2).
const LEAK_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Sweeps orphans; remembers the incarnations that leak, so that each is counted once.
#[derive(Debug, Default)]
pub struct OrphanSweeper {
    overdue: HashSet<Incarnation>,
}

impl OrphanSweeper {
    /// Runs one round; the agent with the oldest incarnation sweeps for all.
    ///
    /// # Errors
    /// The first failure; the other incarnations are swept nevertheless.
    pub async fn run(&mut self, deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
        let view = deps.directory.view();
        if view.agents().any(|agent| agent.incarnation < life.incarnation) {
            return Ok(());
        }
        let mut outcome = Ok(());
        for &(incarnation, sealed_for) in &view.snapshot.unswept {
            // The ages are as old as the snapshot, so this errs towards waiting.
            let waited = sealed_for + view.age();
            if waited < deps.limits.object_grace {
                continue;
            }
            // A failure for one incarnation must not keep the orphans of the others.
            let swept = sweep_incarnation(deps, incarnation).await;
            if swept.is_err()
                && waited >= deps.limits.object_grace + LEAK_AFTER
                && self.overdue.insert(incarnation)
            {
                deps.metrics.record_violation(Invariant::G2);
            }
            outcome = swept.and(outcome);
        }
        outcome
    }
}

/// Runs one round without memory of former ones.
#[cfg(test)]
pub(crate) async fn run(deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
    OrphanSweeper::default().run(deps, life).await
}

async fn sweep_incarnation(deps: &MaintenanceDeps, incarnation: Incarnation) -> Result<(), JobError> {
    let prefix = keys::wal_prefix(incarnation);
    let mut after: Option<String> = None;
    let mut swept = 0;
    loop {
        let page = deps.store.list(&prefix, after.as_deref(), LIST_PAGE_SIZE).await?;
        let sequences: Vec<u64> = page
            .iter()
            .filter_map(|object| keys::parse_wal_key(&object.key))
            .filter(|(of, _)| *of == incarnation)
            .map(|(_, sequence)| sequence)
            .collect();
        let orphans = deps.metadata.orphans(incarnation, &sequences).await?;
        if !orphans.is_empty() {
            let keys: Vec<String> = orphans
                .iter()
                .map(|&sequence| keys::wal_key(incarnation, sequence))
                .collect();
            deps.failpoints.reach(FailPoint::BeforeSweep).await;
            deps.store.delete(&keys).await?;
            swept += keys.len();
        }
        if page.len() < LIST_PAGE_SIZE {
            break;
        }
        after = page.last().map(|object| object.key.clone());
    }
    deps.failpoints.reach(FailPoint::AfterSweep).await;
    deps.metadata.mark_swept(incarnation).await?;
    deps.metrics.orphans_deleted.inc_by(swept as u64);
    tracing::info!(%incarnation, orphans = swept, "swept the orphans of an ended incarnation");
    Ok(())
}
