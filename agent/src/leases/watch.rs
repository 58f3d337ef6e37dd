//! Keeps the directory fresh: one task an agent, for as long as the process lives, also while no lease is held. It looks
//! every [`POLL`], and at once when somebody asks; everybody who asks while it looks shares the answer.

use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::{health::Condition, metrics::Job, node::Node};

/// How often the metadata store is asked whether something changed.
const POLL: Duration = Duration::from_millis(500);
/// The shortest time between two looks, however many ask.
const SHORTEST: Duration = Duration::from_millis(20);
/// How long one look may take before it counts as unanswered.
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
                tracing::info!("the metadata store answers");
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
