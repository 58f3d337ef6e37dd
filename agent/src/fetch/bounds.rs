//! What the metadata store says of a log, held against what the leader knows of it. A leader's memory may be behind the
//! store (a commit's answer is lost and the commit repeated), never ahead of it.

use streamhouse_core::{Error, ErrorCode, PartitionUid};
use streamhouse_metadata::LogBounds;

use crate::{invariant::Invariant, node::Node, partition::Partition};

/// The log as the metadata store has it now.
pub async fn stored_bounds(node: &Node, uid: PartitionUid) -> Result<LogBounds, Error> {
    let bounds = node.metadata.bounds(&[uid]).await?;
    bounds.first().map(|(_, bounds)| *bounds).ok_or_else(|| {
        Error::new(
            ErrorCode::UnknownTopicOrPartition,
            "the partition is gone; its topic was deleted",
        )
    })
}

/// Takes over what the store says of a log that this agent leads: all of it is committed, so readers may have it. `known` is
/// the high watermark as it was before the store was asked; a store that is behind it went back in time (INV-P2): this life
/// of the agent ends, since nothing that it knows of the log can be trusted.
pub fn learn(node: &Node, partition: &Partition, known: i64, bounds: &LogBounds) -> Result<(), Error> {
    if bounds.high_watermark < known {
        node.metrics.violated(Invariant::P2);
        tracing::error!(
            topic = &*partition.topic,
            partition = partition.index,
            known,
            stored = bounds.high_watermark,
            "the metadata store is behind what this agent has published; this life of the agent is over"
        );
        if let Some(life) = node
            .life()
            .filter(|life| life.incarnation == partition.lease.incarnation)
        {
            life.over.cancel();
        }
        return Err(Error::new(
            ErrorCode::MetadataUnavailable,
            "the metadata store is behind the log: it was restored, or lost commits; look at the agent's log",
        ));
    }
    partition.advance_high_watermark(bounds.high_watermark);
    partition.advance_log_start(bounds.log_start);
    Ok(())
}
