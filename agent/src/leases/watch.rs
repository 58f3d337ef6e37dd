//! Keeps the directory fresh: one task per agent that runs for as long as the process, even without
//! a lease. Polls every [`POLL_INTERVAL`], and at once on request; concurrent requests share the
//! response.

use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::{health::ReadinessCondition, metrics::BackgroundJob, node::AgentNode};

/// Interval between polls of the metadata store.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum time between two polls, however many are requested.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout of one poll.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until dropped.
pub async fn run(node: &AgentNode) {
    let mut known = None;
    loop {
        let started = Instant::now();
        refresh_directory(node, &mut known).await;
        sleep_until(started + MIN_INTERVAL).await;
        tokio::select! {
            () = node.directory.refresh_requested() => {}
            () = sleep_until(started + POLL_INTERVAL) => {}
        }
    }
}

async fn refresh_directory(node: &AgentNode, known: &mut Option<u64>) {
    let problem = match timeout(SNAPSHOT_TIMEOUT, node.metadata.snapshot(*known)).await {
        Ok(Ok(snapshot)) => {
            match snapshot {
                Some(snapshot) => {
                    *known = Some(snapshot.version);
                    node.directory.replace(snapshot);
                }
                None => node.directory.confirm_newest(),
            }
            node.metrics
                .record_job_success(BackgroundJob::Directory, node.clock.now_ms());
            if node.health.set_met(ReadinessCondition::Metadata) {
                tracing::info!("the metadata store responds");
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {SNAPSHOT_TIMEOUT:?}"),
    };
    node.metrics.record_job_failure(BackgroundJob::Directory);
    if node
        .health
        .set_unmet(ReadinessCondition::Metadata, problem.clone())
    {
        tracing::warn!(problem, "the metadata store fails; waiting for it");
    }
}
