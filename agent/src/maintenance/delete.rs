//! Deletes objects that nothing has referenced for longer than the longest read (INV-G1, INV-G2). The metadata store
//! decides which; this job only carries it out, and says so.

use streamhouse_metadata::GarbagePolicy;
use tokio::time::Duration;

use super::JobError;
use crate::{failpoint::FailPoint, node::Node};

/// Objects a step; as many as one delete request carries.
const STEP: usize = 1000;
/// Steps a round, so that the other jobs have their turn.
const STEPS: usize = 50;
/// Objects that may fail one after the other before the rest is left for the next round.
const FAILURES: usize = 3;
/// Producer state is kept this long after the producer's last batch.
const PRODUCER_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows of agents' former lives are kept this long after their orphans were swept.
const LIVES_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// One round.
pub async fn run(node: &Node) -> Result<(), JobError> {
    let policy = GarbagePolicy {
        object_grace: node.settings.object_grace,
        producer_expiry: PRODUCER_EXPIRY,
        offsets_retention: node.settings.offsets_retention,
        lives_retention: LIVES_RETENTION,
    };
    let mut outcome = Ok(());
    for _ in 0..STEPS {
        let garbage = node.metadata.garbage(&policy, STEP).await?;
        node.metrics
            .garbage_waiting
            .set(i64::try_from(garbage.waiting).unwrap_or(i64::MAX));
        if !garbage.keys.is_empty() {
            node.failpoints.reach(FailPoint::BeforeDelete).await;
            let (deleted, failed) = delete(node, &garbage.keys).await;
            outcome = failed.and(outcome);
            if deleted.is_empty() {
                // The same objects would come again.
                break;
            }
            node.failpoints.reach(FailPoint::AfterDelete).await;
            node.metadata.confirm_deleted(&deleted).await?;
            tracing::debug!(objects = deleted.len(), "deleted objects that nothing references");
        }
        if !garbage.more {
            break;
        }
    }
    outcome
}

/// Deletes what can be deleted: together, and what fails in halves, so that one object that the store does not let go of
/// does not keep all the others. Gives up when several objects fail in a row: then it is the store.
async fn delete(node: &Node, keys: &[String]) -> (Vec<String>, Result<(), JobError>) {
    let (mut deleted, mut outcome) = (Vec::new(), Ok(()));
    let (mut left, mut in_a_row) = (vec![keys], 0);
    while let Some(keys) = left.pop() {
        let Err(error) = node.store.delete(keys).await else {
            deleted.extend_from_slice(keys);
            in_a_row = 0;
            continue;
        };
        if let [key] = keys {
            tracing::debug!(key, %error, "an object cannot be deleted at the moment");
            in_a_row += 1;
        } else {
            let (first, second) = keys.split_at(keys.len() / 2);
            left.extend([second, first]);
        }
        outcome = Err(error.into());
        if in_a_row == FAILURES {
            break;
        }
    }
    (deleted, outcome)
}
