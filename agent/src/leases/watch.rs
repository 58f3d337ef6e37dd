//! Keeps the directory fresh: one task per agent that runs for as long as the process, even without
//! a lease. Polls every [`POLL_INTERVAL`], and at once on request; concurrent requests share the
//! response.

use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::LeaseDeps;
use crate::{health::ReadinessCondition, metrics::BackgroundJob};

/// Interval between polls of the metadata store.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum time between two polls, however many are requested.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout of one poll.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until dropped.
pub async fn run(deps: &LeaseDeps) {
    let mut known = None;
    loop {
        let started = Instant::now();
        refresh_directory(deps, &mut known).await;
        sleep_until(started + MIN_INTERVAL).await;
        tokio::select! {
            () = deps.directory.refresh_requested() => {}
            () = sleep_until(started + POLL_INTERVAL) => {}
        }
    }
}

async fn refresh_directory(deps: &LeaseDeps, known: &mut Option<u64>) {
    let problem = match timeout(SNAPSHOT_TIMEOUT, deps.metadata.snapshot(*known)).await {
        Ok(Ok(snapshot)) => {
            match snapshot {
                Some(snapshot) => {
                    *known = Some(snapshot.version);
                    deps.directory.replace(snapshot);
                }
                None => deps.directory.confirm_newest(),
            }
            deps.metrics
                .record_job_success(BackgroundJob::Directory, deps.clock.now_ms());
            if deps.health.set_met(ReadinessCondition::Metadata) {
                tracing::info!("the metadata store responds");
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {SNAPSHOT_TIMEOUT:?}"),
    };
    deps.metrics.record_job_failure(BackgroundJob::Directory);
    if deps
        .health
        .set_unmet(ReadinessCondition::Metadata, problem.clone())
    {
        tracing::warn!(problem, "the metadata store fails; waiting for it");
    }
}
