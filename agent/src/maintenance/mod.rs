//! The background jobs of an agent, off the path of records: marking the timeline, rolling WAL
//! ranges into segments, retention, garbage collection, and sweeping orphans. Each runs once per
//! maintenance interval, one after the other, and reports its last success.
//!
//! Every step is fenced or idempotent in the metadata store: a job that is killed halfway, or runs
//! on two agents at once, neither loses nor leaks anything.

pub mod delete;
pub mod retention;
pub mod roll;
pub mod sweep;
pub mod timeline;

use std::sync::Arc;

use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::{metrics::BackgroundJob, node::AgentNode, session::AgentSession};

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
pub async fn run(node: Arc<AgentNode>, every: Duration, stop: CancellationToken) {
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
        let Some(life) = node.session() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            () = life.ended.cancelled() => {}
            () = run_round(&node, &life, &mut roller, &mut marker, &mut sweeper) => {}
        }
    }
}

async fn run_round(
    node: &AgentNode,
    life: &AgentSession,
    roller: &mut roll::SegmentRoller,
    marker: &mut timeline::TimelineMarker,
    sweeper: &mut sweep::OrphanSweeper,
) {
    // First, so that changes of the other jobs are ahead of the bucket's timeline mark by one round
    // at most.
    report_outcome(node, BackgroundJob::Timeline, marker.run(node, life).await);
    report_outcome(node, BackgroundJob::Roll, roller.run(node, life).await);
    report_outcome(node, BackgroundJob::Retention, retention::run(node, life).await);
    report_outcome(node, BackgroundJob::Delete, delete::run(node).await);
    report_outcome(node, BackgroundJob::Sweep, sweeper.run(node, life).await);
}

fn report_outcome(node: &AgentNode, job: BackgroundJob, outcome: Result<(), JobError>) {
    match outcome {
        Ok(()) => node.metrics.record_job_success(job, node.clock.now_ms()),
        Err(error) => {
            node.metrics.record_job_failure(job);
            tracing::warn!(job = job.name(), %error, "a background job has to try again");
        }
    }
}
