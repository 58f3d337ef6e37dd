//! Rolls a partition's WAL ranges into a segment object: intent, object, swap. Batches come from
//! the tail cache if they are still there, else from the WAL objects.
//!
//! A key is never overwritten. An object that an earlier, killed attempt left under the key is read
//! whole and adopted only if it is exactly the segment of this range: complete, of this partition,
//! and byte for byte the batches that the log holds at these offsets (INV-F1). Any other object,
//! damaged or of another history of the cluster, is left untouched, since it may not be this
//! cluster's to delete (INV-B1); the roll continues under another key (INV-K1).

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use streamhouse_core::{Error, PartitionUid, batch::BatchIter};
use streamhouse_metadata::{LogPosition, LogSpan, NewSegment, SegmentIntent, SpanLocation};
use tokio::time::{Duration, Instant};

use super::{JobError, MaintenanceDeps};
use crate::{
    directory::DirectoryTopic,
    failpoint::FailPoint,
    invariant::Invariant,
    log::SpanError,
    partition::LedPartition,
    segment::{SegmentError, SegmentIdentity, SegmentIndex, SegmentSummary, SegmentWriter, verify_segment},
    session::AgentSession,
    store::{GetRange, RetryPolicy, StoreErrorKind, put_settled},
};

/// Spans read at once.
const SPANS_PER_READ: usize = 1000;
/// Maximum number of keys that one roll tries before it leaves the rest to the next round.
const MAX_KEY_ATTEMPTS: usize = 4;

/// Rolls segments; tracks since when each partition has something to roll.
#[derive(Debug, Default)]
pub struct SegmentRoller {
    waiting: HashMap<PartitionUid, (i64, Instant)>,
}

impl SegmentRoller {
    /// Runs one round over the partitions that this incarnation leads: rolls what is large or old
    /// enough.
    ///
    /// # Errors
    /// The last failure; the other partitions are processed nevertheless.
    pub async fn run(&mut self, deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
        let view = deps.directory.view();
        let partitions = life.partitions.all();
        self.waiting.retain(|&uid, _| life.partitions.get(uid).is_some());
        let mut outcome = Ok(());
        for partition in partitions {
            let Some((topic, _)) = view.partition_name(partition.uid()) else {
                continue;
            };
            if let Err(error) = count_inherited(deps, &partition).await {
                outcome = Err(error);
                continue;
            }
            while self.is_due(&partition, topic) {
                let room = topic.config.segment_bytes;
                let rolled = roll_segment(deps, &view.cluster_id, topic, &partition, room).await;
                self.waiting.remove(&partition.uid());
                // A failure of one partition must not keep the others from being rolled.
                if rolled.is_err() {
                    outcome = rolled;
                    break;
                }
            }
        }
        outcome
    }

    fn is_due(&mut self, partition: &LedPartition, topic: &DirectoryTopic) -> bool {
        let rolled = partition.rolled_offset();
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

/// Counts the ranges that former leaders committed and did not roll, once per leadership.
async fn count_inherited(deps: &MaintenanceDeps, partition: &LedPartition) -> Result<(), JobError> {
    let Some(inherited) = partition.inherited_offsets() else {
        return Ok(());
    };
    let mut ranges = Vec::new();
    let mut next = inherited.start;
    while next < inherited.end {
        let from = LogPosition::Offset(next);
        let view = deps
            .metadata
            .read_log(partition.uid(), from, SPANS_PER_READ)
            .await?;
        let Some(last) = view.spans.last() else { break };
        next = last.end_offset;
        ranges.extend(view.spans.iter().filter_map(|span| match span.place {
            SpanLocation::Wal { length, .. } => {
                let length = i64::try_from(length).unwrap_or(i64::MAX);
                Some((span.base_offset, span.end_offset, length))
            }
            SpanLocation::Segment { .. } => None,
        }));
    }
    partition.count_inherited(&ranges);
    Ok(())
}

/// Rolls all partitions of this incarnation, whether due or not.
#[cfg(test)]
pub(crate) async fn roll_all(deps: &MaintenanceDeps, life: &AgentSession) -> Result<(), JobError> {
    for partition in life.partitions.all() {
        roll_partition(deps, &partition).await?;
    }
    Ok(())
}

/// Rolls a partition up to its high watermark.
#[cfg(test)]
pub(crate) async fn roll_partition(deps: &MaintenanceDeps, partition: &LedPartition) -> Result<(), JobError> {
    let view = deps.directory.view();
    let Some((topic, _)) = view.partition_name(partition.uid()) else {
        return Ok(());
    };
    while partition.rolled_offset() < partition.high_watermark() {
        roll_segment(
            deps,
            &view.cluster_id,
            topic,
            partition,
            topic.config.segment_bytes,
        )
        .await?;
    }
    Ok(())
}

/// Writes one segment of about `room` bytes from the rolled offset on.
async fn roll_segment(
    deps: &MaintenanceDeps,
    cluster_id: &str,
    topic: &DirectoryTopic,
    partition: &LedPartition,
    room: usize,
) -> Result<(), JobError> {
    // Retention and delete-records move the rolled offset as well.
    let known = partition.high_watermark();
    let bounds = deps.log.read_bounds(partition.uid()).await?;
    deps.log.adopt_bounds(partition, known, &bounds)?;
    partition.advance_rolled(bounds.rolled);
    partition.set_size(bounds.size_bytes);
    let base_offset = partition.rolled_offset();
    if base_offset >= partition.high_watermark() {
        return Ok(());
    }
    // The segment, and the current range three times: as read in blocks, joined, and stamped.
    let object = deps.limits.max_object_bytes;
    let _memory = deps.memory.acquire(room.saturating_add(object * 3)).await;
    let identity = SegmentIdentity {
        cluster_id: cluster_id.to_owned(),
        topic_id: topic.record.topic_id,
        partition: partition.index,
        partition_uid: partition.uid(),
        epoch: partition.lease.epoch,
        base_offset,
    };
    let intent = deps.metadata.begin_segment(partition.lease, base_offset).await?;
    let (key, summary) = store_segment(deps, intent, &identity, partition, room).await?;
    deps.failpoints.reach(FailPoint::BeforeSegmentSwap).await;
    let segment = NewSegment {
        key,
        base_offset,
        end_offset: summary.end_offset,
        max_timestamp: summary.max_timestamp,
        size_bytes: summary.size_bytes,
    };
    deps.metadata.finish_segment(partition.lease, &segment).await?;
    deps.failpoints.reach(FailPoint::AfterSegmentSwap).await;
    partition.advance_rolled(segment.end_offset);
    deps.metrics.segments_rolled.inc();
    tracing::debug!(
        key = segment.key,
        end_offset = segment.end_offset,
        bytes = segment.size_bytes,
        "rolled a segment"
    );
    Ok(())
}

/// Stores the segment, or adopts the one that is already stored; returns its key.
async fn store_segment(
    deps: &MaintenanceDeps,
    mut intent: SegmentIntent,
    identity: &SegmentIdentity,
    partition: &LedPartition,
    room: usize,
) -> Result<(String, SegmentSummary), JobError> {
    let mut may_exist = intent.inherited;
    for _ in 0..MAX_KEY_ATTEMPTS {
        if may_exist {
            match inspect_existing(deps, &intent.key, identity, partition).await? {
                ExistingObject::Missing => {}
                ExistingObject::SameSegment(summary) => return Ok((intent.key, summary)),
                ExistingObject::Different(why) => {
                    deps.metrics.record_violation(Invariant::K1);
                    tracing::error!(
                        key = intent.key,
                        why,
                        "a segment's key is taken by another object; rolling under another key"
                    );
                    intent = deps
                        .metadata
                        .reassign_segment_key(partition.lease, identity.base_offset, &intent.key)
                        .await?;
                }
            }
        }
        match write_segment(deps, &intent.key, identity, partition, room).await? {
            Some(summary) => return Ok((intent.key, summary)),
            None => may_exist = true,
        }
    }
    Err(JobError::Corrupt(format!(
        "object {} is still taken by another object after several attempts; the next round tries another key",
        intent.key
    )))
}

/// What is stored under the key of a segment.
enum ExistingObject {
    Missing,
    /// The segment itself, of an earlier attempt or a former leader.
    SameSegment(SegmentSummary),
    /// Another object, with the reason.
    Different(String),
}

async fn inspect_existing(
    deps: &MaintenanceDeps,
    key: &str,
    identity: &SegmentIdentity,
    partition: &LedPartition,
) -> Result<ExistingObject, JobError> {
    let object = match deps.store.get(key, GetRange::Full).await {
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(ExistingObject::Missing),
        object => object?,
    };
    let verified =
        verify_segment(&object, identity).and_then(|summary| Ok((summary, segment_data(&object)?)));
    let (summary, data) = match verified {
        Ok(verified) => verified,
        Err(error) => return Ok(ExistingObject::Different(error.to_string())),
    };
    if log_matches(deps, partition, &summary, data).await? {
        Ok(ExistingObject::SameSegment(summary))
    } else {
        Ok(ExistingObject::Different(format!(
            "its records {}..{} differ from those of the log",
            summary.base_offset, summary.end_offset
        )))
    }
}

/// Returns the batches of a whole segment.
fn segment_data(object: &Bytes) -> Result<Bytes, SegmentError> {
    let range = SegmentIndex::parse(object, object.len() as u64)?
        .footer()
        .data_range();
    let bounds = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok());
    match bounds {
        Some((start, end)) if start <= end && end <= object.len() => Ok(object.slice(start..end)),
        _ => Err(SegmentError::Truncated("a block is missing")),
    }
}

/// Returns whether the log holds exactly these batches, in whole WAL ranges.
async fn log_matches(
    deps: &MaintenanceDeps,
    partition: &LedPartition,
    summary: &SegmentSummary,
    mut batches: Bytes,
) -> Result<bool, JobError> {
    let mut next = summary.base_offset;
    while next < summary.end_offset {
        let view = deps
            .metadata
            .read_log(partition.uid(), LogPosition::Offset(next), SPANS_PER_READ)
            .await?;
        if view.spans.is_empty() {
            return Ok(false);
        }
        for span in &view.spans {
            let is_next = span.base_offset == next && matches!(span.place, SpanLocation::Wal { .. });
            if !is_next || span.end_offset > summary.end_offset {
                return Ok(false);
            }
            let logged = read_span(deps, partition, span).await?;
            if !batches.starts_with(&logged) {
                return Ok(false);
            }
            batches.advance(logged.len());
            next = span.end_offset;
            if next == summary.end_offset {
                break;
            }
        }
    }
    Ok(batches.is_empty())
}

/// Builds the segment from the spans after its base offset and stores it; returns `None` if the key
/// is taken.
async fn write_segment(
    deps: &MaintenanceDeps,
    key: &str,
    identity: &SegmentIdentity,
    partition: &LedPartition,
    room: usize,
) -> Result<Option<SegmentSummary>, JobError> {
    let mut writer = SegmentWriter::new(identity);
    let mut next = identity.base_offset;
    let mut bytes = 0;
    'spans: loop {
        let view = deps
            .metadata
            .read_log(partition.uid(), LogPosition::Offset(next), SPANS_PER_READ)
            .await?;
        for span in view
            .spans
            .iter()
            .filter(|span| matches!(span.place, SpanLocation::Wal { .. }))
        {
            if bytes >= room {
                break 'spans;
            }
            let batches = read_span(deps, partition, span).await?;
            bytes += batches.len();
            append_batches(&mut writer, &batches)?;
            next = span.end_offset;
        }
        if view.spans.len() < SPANS_PER_READ {
            break;
        }
    }
    let (body, summary) = writer
        .finish()
        .map_err(|error| JobError::Corrupt(error.to_string()))?;
    deps.failpoints.reach(FailPoint::BeforeSegmentPut).await;
    let retry =
        RetryPolicy::new(deps.entropy.clone()).with_deadline(Instant::now() + Duration::from_secs(120));
    match put_settled(deps.store.as_ref(), key, body, &retry).await {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => Ok(None),
        stored => Ok(stored.map(|()| Some(summary))?),
    }
}

/// Returns the stamped batches of a WAL range.
async fn read_span(
    deps: &MaintenanceDeps,
    partition: &LedPartition,
    span: &LogSpan,
) -> Result<Bytes, JobError> {
    let length = match span.place {
        SpanLocation::Wal { length, .. } => usize::try_from(length).unwrap_or(usize::MAX),
        SpanLocation::Segment { .. } => 0,
    };
    let in_memory = partition.tail.lock().runs(span.base_offset, length);
    let in_memory = in_memory.and_then(|runs| runs.into_iter().next());
    if let Some(run) =
        in_memory.filter(|run| run.base_offset == span.base_offset && run.end_offset == span.end_offset)
    {
        return Ok(run.bytes);
    }
    let run = match deps.log.wal_run(partition.uid(), span).await {
        Err(SpanError::Missing(error)) => {
            return Err(deps
                .log
                .confirm_missing(partition.uid(), span, error)
                .await?
                .into());
        }
        run => run.map_err(Error::from)?,
    };
    run.stamped()
        .map_err(|error| JobError::Corrupt(error.to_string()))
}

fn append_batches(writer: &mut SegmentWriter, batches: &Bytes) -> Result<(), JobError> {
    for batch in BatchIter::new(batches) {
        let (header, bytes) = batch.map_err(|error| JobError::Corrupt(error.to_string()))?;
        writer
            .append(&header, bytes)
            .map_err(|error| JobError::Corrupt(error.to_string()))?;
    }
    Ok(())
}
