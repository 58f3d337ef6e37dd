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
/// Producer state is kept this long after the producer's last batch.
const PRODUCER_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Offsets of a group without members are kept this long.
const OFFSETS_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows of agents' former lives are kept this long after their orphans were swept.
const LIVES_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// One round.
pub async fn run(node: &Node) -> Result<(), JobError> {
    let policy = GarbagePolicy {
        object_grace: node.settings.object_grace,
        producer_expiry: PRODUCER_EXPIRY,
        offsets_retention: OFFSETS_RETENTION,
        lives_retention: LIVES_RETENTION,
    };
    for _ in 0..STEPS {
        let garbage = node.metadata.garbage(&policy, STEP).await?;
        node.metrics
            .garbage_waiting
            .set(i64::try_from(garbage.waiting).unwrap_or(i64::MAX));
        if !garbage.keys.is_empty() {
            node.failpoints.reach(FailPoint::BeforeDelete).await;
            node.store.delete(&garbage.keys).await?;
            node.failpoints.reach(FailPoint::AfterDelete).await;
            node.metadata.confirm_deleted(&garbage.keys).await?;
            tracing::debug!(
                objects = garbage.keys.len(),
                "deleted objects that nothing references"
            );
        }
        if !garbage.more {
            break;
        }
    }
    Ok(())
}
