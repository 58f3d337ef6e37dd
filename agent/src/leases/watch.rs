//! Keeps the directory fresh: one task per agent that runs for as long as the process, even without
//! a lease. Polls every [`POLL`], and at once on request; concurrent requests share the response.

use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::{health::Condition, metrics::Job, node::Node};

/// Interval between polls of the metadata store.
const POLL: Duration = Duration::from_millis(500);
/// Minimum time between two polls, however many are requested.
const SHORTEST: Duration = Duration::from_millis(20);
/// Timeout of one poll.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until dropped.
pub async fn run(node: &Node) {
    let mut known = None;
    loop {
        let started = Instant::now();
        look(node, &mut known).await;
        sleep_until(started + SHORTEST).await;
        tokio::select! {
            () = node.directory.refresh_wanted() => {}
            () = sleep_until(started + POLL) => {}
        }
    }
}

async fn look(node: &Node, known: &mut Option<u64>) {
    let problem = match timeout(PATIENCE, node.metadata.snapshot(*known)).await {
        Ok(Ok(snapshot)) => {
            match snapshot {
                Some(snapshot) => {
                    *known = Some(snapshot.version);
                    node.directory.replace(snapshot);
                }
                None => node.directory.confirm(),
            }
            node.metrics.job_succeeded(Job::Directory, node.clock.now_ms());
            if node.health.met(Condition::Metadata) {
                tracing::info!("the metadata store responds");
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    node.metrics.job_failed(Job::Directory);
    if node.health.unmet(Condition::Metadata, problem.clone()) {
        tracing::warn!(problem, "the metadata store fails; waiting for it");
    }
}
