//! Rolls a partition's WAL ranges into a segment of its own: intent, object, swap. Bytes come from the tail when they are
//! still there, else from the WAL objects.
//!
//! A segment's key follows from its base offset, and a key is never overwritten. When the object of an earlier, killed
//! attempt is there, it is read and checked whole: a sound one is adopted (offsets never change their bytes, INV-F1). A
//! damaged one is left alone and reported: puts are atomic, so only the store itself can have damaged it, and deleting it
//! here could race with a later holder's segment of the same key (INV-G1). The records stay readable in the WAL objects.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use streamhouse_core::{PartitionUid, batch::Batches};
use streamhouse_metadata::{LogPosition, LogSpan, NewSegment, Place};
use tokio::time::{Duration, Instant};

use super::JobError;
use crate::{
    directory::Topic,
    failpoint::FailPoint,
    fetch::{cold, tail::copy_stamped},
    node::{Life, Node},
    partition::Partition,
    segment::{Identity, SegmentSummary, SegmentWriter, verify},
    store::{GetRange, Retry, StoreErrorKind, put_settled},
};

/// Spans looked up at once.
const SPANS: usize = 1000;

/// Remembers since when each partition has something to roll.
#[derive(Debug, Default)]
pub struct Roller {
    waiting: HashMap<PartitionUid, (i64, Instant)>,
}

impl Roller {
    /// One round over everything this life leads: rolls what is large or old enough.
    pub async fn run(&mut self, node: &Node, life: &Life) -> Result<(), JobError> {
        let view = node.directory.view();
        let partitions = life.held.all();
        self.waiting.retain(|&uid, _| life.held.get(uid).is_some());
        let mut outcome = Ok(());
        for partition in partitions {
            let Some((topic, _)) = view.name(partition.uid()) else {
                continue;
            };
            while self.due(&partition, topic) {
                let room = topic.config.segment_bytes;
                let rolled = roll(node, &view.cluster_id, topic, &partition, room).await;
                self.waiting.remove(&partition.uid());
                // One partition's trouble must not keep the others from being rolled.
                if rolled.is_err() {
                    outcome = rolled;
                    break;
                }
            }
        }
        outcome
    }

    fn due(&mut self, partition: &Partition, topic: &Topic) -> bool {
        let rolled = partition.rolled();
        if rolled >= partition.high_watermark() {
            self.waiting.remove(&partition.uid());
            return false;
        }
        let since = self
            .waiting
            .entry(partition.uid())
            .or_insert_with(|| (rolled, Instant::now()));
        if since.0 != rolled {
            *since = (rolled, Instant::now());
        }
        let old = since.1.elapsed() >= Duration::from_millis(topic.config.segment_ms);
        old || partition.unrolled_bytes() >= i64::try_from(topic.config.segment_bytes).unwrap_or(i64::MAX)
    }
}

/// Writes one segment of about `room` bytes from the rolled offset on.
async fn roll(
    node: &Node,
    cluster_id: &str,
    topic: &Topic,
    partition: &Partition,
    room: usize,
) -> Result<(), JobError> {
    // Retention and delete-records move the rolled offset, too.
    if let Some((_, bounds)) = node.metadata.bounds(&[partition.uid()]).await?.first() {
        partition.rolled_to(bounds.rolled, 0);
        partition.set_size(bounds.size_bytes);
    }
    let base_offset = partition.rolled();
    if base_offset >= partition.high_watermark() {
        return Ok(());
    }
    // The segment, and the range that goes into it: as it was read, in blocks and in one piece, and stamped.
    let object = node.settings.flush_bytes.as_usize() + node.settings.max_request_bytes.as_usize();
    let _memory = node.memory.roll.take(room.saturating_add(object * 3)).await;
    let identity = Identity {
        cluster_id: cluster_id.to_owned(),
        topic_id: topic.record.topic_id,
        partition: partition.index,
        partition_uid: partition.uid(),
        epoch: partition.lease.epoch,
        base_offset,
    };
    let intent = node.metadata.begin_segment(partition.lease, base_offset).await?;
    let left_behind = if intent.inherited {
        adopt(node, &intent.key, &identity, partition).await?
    } else {
        None
    };
    let summary = match left_behind {
        Some(summary) => summary,
        None => write(node, &intent.key, identity, partition, room).await?,
    };
    node.failpoints.reach(FailPoint::BeforeSegmentSwap).await;
    let segment = NewSegment {
        key: intent.key,
        base_offset,
        end_offset: summary.end_offset,
        max_timestamp: summary.max_timestamp,
        size_bytes: summary.size_bytes,
    };
    node.metadata.finish_segment(partition.lease, &segment).await?;
    partition.rolled_to(segment.end_offset, segment.size_bytes);
    node.metrics.segments_rolled.inc();
    tracing::debug!(
        key = segment.key,
        end_offset = segment.end_offset,
        bytes = segment.size_bytes,
        "rolled a segment"
    );
    Ok(())
}

/// Looks at the object that an earlier attempt may have left: takes it when it is sound, else makes room.
async fn adopt(
    node: &Node,
    key: &str,
    identity: &Identity,
    partition: &Partition,
) -> Result<Option<SegmentSummary>, JobError> {
    let bytes = match node.store.get(key, GetRange::Full).await {
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    match verify(&bytes, identity) {
        Ok(summary) if summary.end_offset <= partition.high_watermark() => Ok(Some(summary)),
        Ok(summary) => {
            let end = summary.end_offset;
            Err(JobError::Corrupt(format!(
                "object {key} ends at {end}, beyond the high watermark; it is left alone"
            )))
        }
        Err(error) => Err(JobError::Corrupt(format!(
            "object {key}, left behind by an earlier attempt, is damaged ({error}); its records are still in the WAL: \
             look at the object and remove it by hand"
        ))),
    }
}

/// Builds the segment from the spans after its base offset and stores it.
async fn write(
    node: &Node,
    key: &str,
    identity: Identity,
    partition: &Partition,
    room: usize,
) -> Result<SegmentSummary, JobError> {
    let mut writer = SegmentWriter::new(&identity);
    let mut next = identity.base_offset;
    let mut bytes = 0;
    'spans: loop {
        let view = node
            .metadata
            .read_log(partition.uid(), LogPosition::Offset(next), SPANS)
            .await?;
        for span in view
            .spans
            .iter()
            .filter(|span| matches!(span.place, Place::Wal { .. }))
        {
            if bytes >= room {
                break 'spans;
            }
            let batches = span_bytes(node, partition, span).await?;
            bytes += batches.len();
            append(&mut writer, &batches)?;
            next = span.end_offset;
        }
        if view.spans.len() < SPANS {
            break;
        }
    }
    let (body, summary) = writer
        .finish()
        .map_err(|error| JobError::Corrupt(error.to_string()))?;
    node.failpoints.reach(FailPoint::BeforeSegmentPut).await;
    let retry = Retry::new(node.entropy.clone()).until(Instant::now() + Duration::from_secs(120));
    match put_settled(node.store.as_ref(), key, body, &retry).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {
            // A former holder was still at it. Whoever's it is, it holds the same records, if it is sound.
            let theirs = adopt(node, key, &identity, partition).await?;
            theirs.ok_or_else(|| {
                JobError::Corrupt(format!("object {key} was damaged and is gone; trying again"))
            })
        }
        stored => Ok(stored.map(|()| summary)?),
    }
}

/// A WAL range's batches, stamped.
async fn span_bytes(node: &Node, partition: &Partition, span: &LogSpan) -> Result<Bytes, JobError> {
    let length = match span.place {
        Place::Wal { length, .. } => usize::try_from(length).unwrap_or(usize::MAX),
        Place::Segment { .. } => 0,
    };
    let in_memory = partition.tail.lock().runs(span.base_offset, length);
    let in_memory = in_memory.and_then(|runs| runs.into_iter().next());
    let run = match in_memory
        .filter(|run| run.base_offset == span.base_offset && run.end_offset == span.end_offset)
    {
        Some(run) => run,
        None => cold::wal_run(node, partition.uid(), span).await?,
    };
    let mut out = BytesMut::with_capacity(run.bytes.len());
    copy_stamped(&run, span.base_offset, usize::MAX, &mut out)
        .map_err(|error| JobError::Corrupt(error.to_string()))?;
    Ok(out.freeze())
}

fn append(writer: &mut SegmentWriter, batches: &Bytes) -> Result<(), JobError> {
    for batch in Batches::new(batches) {
        let (header, bytes) = batch.map_err(|error| JobError::Corrupt(error.to_string()))?;
        writer
            .append(&header, bytes)
            .map_err(|error| JobError::Corrupt(error.to_string()))?;
    }
    Ok(())
}
