//! Compares the log bounds in the metadata store with what the leader knows. A leader's memory may
//! be behind the store (when a commit's answer is lost and the commit repeated), never ahead of it.

use streamhouse_core::{Error, ErrorCode, PartitionUid};
use streamhouse_metadata::LogBounds;

use super::LogReader;
use crate::{invariant::Invariant, partition::LedPartition};

impl LogReader {
    /// Returns the bounds of a log as the metadata store has them now.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition` if the partition does not exist, and any error of the metadata
    /// store.
    pub async fn read_bounds(&self, uid: PartitionUid) -> Result<LogBounds, Error> {
        let bounds = self.metadata.bounds(&[uid]).await?;
        bounds.first().map(|(_, bounds)| *bounds).ok_or_else(|| {
            Error::new(
                ErrorCode::UnknownTopicOrPartition,
                "the partition does not exist any more; its topic was deleted",
            )
        })
    }

    /// Adopts the stored bounds of a log that this agent leads: everything in them is committed and
    /// may be read. `known` is the high watermark from before the store was asked; a store that is
    /// behind it went back in time (INV-P2): this incarnation ends, since nothing it knows of the
    /// log can be trusted.
    ///
    /// # Errors
    /// `MetadataUnavailable` if the store is behind `known`.
    pub fn adopt_bounds(
        &self,
        partition: &LedPartition,
        known: i64,
        bounds: &LogBounds,
    ) -> Result<(), Error> {
        if bounds.high_watermark < known {
            self.metrics.record_violation(Invariant::P2);
            tracing::error!(
                topic = &*partition.topic,
                partition = partition.index,
                known,
                stored = bounds.high_watermark,
                "the metadata store is behind what this agent has published; this incarnation ends"
            );
            if let Some(session) = self
                .session
                .get()
                .filter(|session| session.incarnation == partition.lease.incarnation)
            {
                session.ended.cancel();
            }
            return Err(Error::new(
                ErrorCode::MetadataUnavailable,
                "the metadata store is behind the log: it was restored, or lost commits; see the agent's log",
            ));
        }
        partition.advance_high_watermark(bounds.high_watermark);
        partition.advance_log_start(bounds.log_start);
        Ok(())
    }
}
