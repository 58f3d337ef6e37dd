//! Garbage collection: deletes objects that have been unreferenced for longer than the longest read
//! (INV-G1, INV-G2). The metadata store decides which; this job deletes them and confirms the
//! deletion.

use streamhouse_metadata::{GarbagePolicy, PRODUCER_EXPIRY};
use tokio::time::Duration;

use super::{JobError, MaintenanceDeps};
use crate::failpoint::FailPoint;

/// Objects per batch: as many as one delete request takes.
const BATCH_SIZE: usize = 1000;
/// Maximum number of batches per round, so that the other jobs get their turn.
const MAX_BATCHES: usize = 50;
/// Consecutive failures after which the rest is left to the next round.
const MAX_CONSECUTIVE_FAILURES: usize = 3;
/// How long rows of ended incarnations are kept after their orphans were swept.
const INCARNATION_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs one round.
///
/// # Errors
/// The first failure of a store; what was deleted before it is confirmed.
pub async fn run(deps: &MaintenanceDeps) -> Result<(), JobError> {
    let policy = GarbagePolicy {
        object_grace: deps.limits.object_grace,
        producer_expiry: PRODUCER_EXPIRY,
        offsets_retention: deps.limits.offsets_retention,
        incarnation_retention: INCARNATION_RETENTION,
    };
    let mut outcome = Ok(());
    for _ in 0..MAX_BATCHES {
        let garbage = deps.metadata.collect_garbage(&policy, BATCH_SIZE).await?;
        deps.metrics
            .garbage_waiting
            .set(i64::try_from(garbage.waiting).unwrap_or(i64::MAX));
        if !garbage.keys.is_empty() {
            deps.failpoints.reach(FailPoint::BeforeDelete).await;
            let (deleted, failed) = delete_objects(deps, &garbage.keys).await;
            outcome = failed.and(outcome);
            if deleted.is_empty() {
                // The next batch would hold the same objects.
                break;
            }
            deps.failpoints.reach(FailPoint::AfterDelete).await;
            deps.metadata.confirm_deleted(&deleted).await?;
            tracing::debug!(objects = deleted.len(), "deleted unreferenced objects");
        }
        if !garbage.more {
            break;
        }
    }
    outcome
}

/// Deletes the objects with one request, and bisects failing ones, so that a single object that
/// cannot be deleted does not keep the others. Gives up after several consecutive failures of
/// single objects: then the store itself fails.
async fn delete_objects(deps: &MaintenanceDeps, keys: &[String]) -> (Vec<String>, Result<(), JobError>) {
    let (mut deleted, mut outcome) = (Vec::new(), Ok(()));
    let (mut left, mut in_a_row) = (vec![keys], 0);
    while let Some(keys) = left.pop() {
        let Err(error) = deps.store.delete(keys).await else {
            deleted.extend_from_slice(keys);
            in_a_row = 0;
            continue;
        };
        if let [key] = keys {
            tracing::debug!(key, %error, "an object could not be deleted");
            in_a_row += 1;
        } else {
            let (first, second) = keys.split_at(keys.len() / 2);
            left.extend([second, first]);
        }
        outcome = Err(error.into());
        if in_a_row == MAX_CONSECUTIVE_FAILURES {
            break;
        }
    }
    (deleted, outcome)
}
