//! Marks the bucket with the position on the metadata store's timeline while records arrive, so
//! that an older copy of the store is detected by its lower position (INV-B1). A copy can be behind
//! unnoticed only by what happened since the last mark: one round.

use super::{JobError, MaintenanceDeps};
use crate::session::AgentSession;

/// A fingerprint of the led logs; equal fingerprints mean that nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogActivity {
    incarnation: i64,
    version: u64,
    offsets: i64,
}

impl LogActivity {
    fn observe(deps: &MaintenanceDeps, life: &AgentSession) -> Self {
        let sum = |sum: i64, offset: i64| sum.wrapping_add(offset);
        let offsets = life.partitions.all().into_iter().fold(0, |total, partition| {
            [
                partition.log_start(),
                partition.rolled_offset(),
                partition.high_watermark(),
            ]
            .into_iter()
            .fold(total, sum)
        });
        Self {
            incarnation: life.incarnation.0,
            version: deps.directory.view().version,
            offsets,
        }
    }
}

/// Remembers up to where the bucket is marked.
#[derive(Debug, Default)]
pub struct TimelineMarker {
    marked: Option<LogActivity>,
}

impl TimelineMarker {
    /// Runs one round: marks the bucket if something happened since the last mark. Ends the
    /// incarnation if the store turns out to be an older copy.
    ///
    /// # Errors
    /// Fails if the mark cannot be written, or if the stores do not belong together.
    pub async fn run(&mut self, deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
        let now = LogActivity::observe(deps, life);
        if self.marked == Some(now) {
            return Ok(());
        }
        match deps.ownership.advance().await {
            Ok(()) => {
                self.marked = Some(now);
                Ok(())
            }
            Err(error) if error.is_refusal() => {
                // Other agents need not wait for the lease of an incarnation that ends now.
                if let Err(unsealed) = deps.metadata.seal(life.incarnation).await {
                    tracing::warn!(%unsealed, "could not seal this incarnation; it ends when its lease expires");
                }
                let outcome = deps
                    .ownership
                    .report_outcome(Err(error))
                    .map_err(JobError::Foreign);
                life.ended.cancel();
                outcome
            }
            Err(error) => Err(JobError::Foreign(error.to_string())),
        }
    }
}
