//! The background jobs of an agent, off the path of records: marking the timeline, rolling WAL
//! ranges into segments, retention, garbage collection, and sweeping orphans. Each runs once per
//! maintenance interval, one after the other, and reports its last success.
//!
//! Every step is fenced or idempotent in the metadata store: a job that is killed halfway, or runs
//! on two agents at once, neither loses nor leaks anything.

pub mod delete;
mod deps;
pub mod retention;
pub mod roll;
pub mod sweep;
pub mod timeline;

use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

pub use self::deps::{MaintenanceDeps, MaintenanceLimits};
use crate::{metrics::BackgroundJob, session::AgentSession};

/// Why a job failed; it runs again in the next round.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The metadata store refused the call or is unavailable.
    #[error(transparent)]
    Metadata(#[from] streamhouse_metadata::Error),
    /// The object store refused the call or is unavailable.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Stored bytes are damaged.
    #[error("stored bytes are damaged: {0}")]
    Corrupt(String),
    /// The two stores do not belong together, or it cannot be determined.
    #[error("{0}")]
    Foreign(String),
    /// Reading stored records failed.
    #[error(transparent)]
    Read(#[from] streamhouse_core::Error),
}

/// Runs the jobs until `stop` is cancelled.
pub async fn run(deps: MaintenanceDeps, every: Duration, stop: CancellationToken) {
    let (mut roller, mut marker) = (
        roll::SegmentRoller::default(),
        timeline::TimelineMarker::default(),
    );
    let mut sweeper = sweep::OrphanSweeper::default();
    // No immediate first tick: whether an incarnation exists at the start would depend on timing.
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(life) = deps.session.get() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            () = life.ended.cancelled() => {}
            () = run_round(&deps, &life, &mut roller, &mut marker, &mut sweeper) => {}
        }
    }
}

async fn run_round(
    deps: &MaintenanceDeps,
    life: &AgentSession,
    roller: &mut roll::SegmentRoller,
    marker: &mut timeline::TimelineMarker,
    sweeper: &mut sweep::OrphanSweeper,
) {
    // First, so that changes of the other jobs are ahead of the bucket's timeline mark by one round
    // at most.
    report_outcome(deps, BackgroundJob::Timeline, marker.run(deps, life).await);
    report_outcome(deps, BackgroundJob::Roll, roller.run(deps, life).await);
    report_outcome(deps, BackgroundJob::Retention, retention::run(deps, life).await);
    report_outcome(deps, BackgroundJob::Delete, delete::run(deps).await);
    report_outcome(deps, BackgroundJob::Sweep, sweeper.run(deps, life).await);
}

fn report_outcome(deps: &MaintenanceDeps, job: BackgroundJob, outcome: Result<(), JobError>) {
    match outcome {
        Ok(()) => deps.metrics.record_job_success(job, deps.clock.now_ms()),
        Err(error) => {
            deps.metrics.record_job_failure(job);
            tracing::warn!(job = job.name(), %error, "a background job has to try again");
        }
    }
}
