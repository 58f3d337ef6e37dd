//! Finds WAL objects that were stored but never committed: the leftovers of an agent that died between PUT and commit
//! (INV-G2). Looks only below incarnations that are sealed, for longer than the grace: no commit of theirs can come any
//! more, and no upload of theirs is still on its way.

use streamhouse_core::Incarnation;
use streamhouse_metadata::keys;

use super::JobError;
use crate::{
    failpoint::FailPoint,
    node::{Life, Node},
};

/// Objects listed at once.
const PAGE: usize = 1000;

/// One round; the agent with the oldest life sweeps for all.
pub async fn run(node: &Node, life: &Life) -> Result<(), JobError> {
    let view = node.directory.view();
    if view.agents().any(|agent| agent.incarnation < life.incarnation) {
        return Ok(());
    }
    for &(incarnation, sealed_for) in &view.snapshot.unswept {
        // The snapshot's ages are as old as the snapshot, so this errs towards waiting.
        if sealed_for + view.age() >= node.settings.object_grace {
            sweep(node, incarnation).await?;
        }
    }
    Ok(())
}

async fn sweep(node: &Node, incarnation: Incarnation) -> Result<(), JobError> {
    let prefix = keys::wal_prefix(incarnation);
    let mut after: Option<String> = None;
    let mut swept = 0;
    loop {
        let page = node.store.list(&prefix, after.as_deref(), PAGE).await?;
        let sequences: Vec<u64> = page
            .iter()
            .filter_map(|object| keys::parse_wal_key(&object.key))
            .filter(|(of, _)| *of == incarnation)
            .map(|(_, sequence)| sequence)
            .collect();
        let orphans = node.metadata.orphans(incarnation, &sequences).await?;
        if !orphans.is_empty() {
            let keys: Vec<String> = orphans
                .iter()
                .map(|&sequence| keys::wal_key(incarnation, sequence))
                .collect();
            node.failpoints.reach(FailPoint::BeforeSweep).await;
            node.store.delete(&keys).await?;
            swept += keys.len();
        }
        if page.len() < PAGE {
            break;
        }
        after = page.last().map(|object| object.key.clone());
    }
    node.failpoints.reach(FailPoint::AfterSweep).await;
    node.metadata.mark_swept(incarnation).await?;
    node.metrics.orphans_deleted.inc_by(swept as u64);
    tracing::info!(%incarnation, orphans = swept, "swept the objects of an agent's former life");
    Ok(())
}
