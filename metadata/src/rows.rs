//! What both stores read from their rows, and the rules that need nothing but these rows: lease checks, what a segment must
//! fit, how topics are put together. No SQL and no I/O here.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use crate::{
    Error, GROUP_SLOT_TOPIC, GroupLag, Incarnation, Lease, LogBounds, NewSegment, PartitionRecord,
    PartitionUid, Result, TopicChange, TopicOverview, TopicOwner, TopicRecord, TopicsOverview,
};

/// How many spans one read returns at most, whatever is asked.
pub(crate) const MAX_SPANS: usize = 10_000;
/// The longest time that is kept in a row, in milliseconds: a hundred years.
const LONGEST_MS: i64 = 100 * 365 * 86_400_000;

/// Whole milliseconds, bounded so that adding them to a time cannot overflow.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(LONGEST_MS)
        .min(LONGEST_MS)
}

/// The number as the databases store it.
pub(crate) fn signed(what: &str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is too large to store")))
}

/// The number as it was before [`signed`].
pub(crate) fn unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is negative")))
}

/// A group's sums in a topic.
pub(crate) fn group_lag((group_id, topic, committed, lag): (String, String, i64, i64)) -> GroupLag {
    GroupLag {
        group_id,
        topic,
        committed,
        lag,
    }
}

/// A partition's row, locked, with its topic.
#[derive(Debug, Clone)]
pub(crate) struct LeasedRow {
    pub(crate) holder: Option<Incarnation>,
    pub(crate) epoch: i32,
    pub(crate) deleted: bool,
    pub(crate) bounds: LogBounds,
    pub(crate) partition: i32,
    pub(crate) topic_id: Uuid,
    pub(crate) topic: String,
    pub(crate) folder: String,
}

/// Lets a write in that is fenced by `lease`. `sealed` is `None` when the incarnation was never given.
pub(crate) fn check_lease(lease: Lease, sealed: Option<bool>, row: Option<LeasedRow>) -> Result<LeasedRow> {
    if sealed != Some(false) {
        return Err(Error::Sealed(lease.incarnation));
    }
    let row = row
        .filter(|row| !row.deleted)
        .ok_or(Error::UnknownPartition(lease.partition))?;
    if row.holder != Some(lease.incarnation) || row.epoch != lease.epoch {
        return Err(Error::Fenced(lease.partition));
    }
    Ok(row)
}

/// Checks that the lease is that of the coordinator slot `slot`.
pub(crate) fn check_slot(lease: Lease, row: &LeasedRow, slot: i32) -> Result<()> {
    if row.topic != GROUP_SLOT_TOPIC || row.partition != slot {
        return Err(Error::Fenced(lease.partition));
    }
    Ok(())
}

/// A stored intent.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct IntentRow {
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

impl IntentRow {
    /// The same, as a segment that its writer may still put.
    pub(crate) fn of(self, partition: PartitionUid) -> AbandonedRow {
        AbandonedRow {
            partition_id: partition.0,
            base_offset: self.base_offset,
            key: self.key,
            incarnation: self.incarnation,
        }
    }
}

/// A segment that its writer cannot finish any more, but may still put.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct AbandonedRow {
    pub(crate) partition_id: i64,
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

/// Checks that the segment continues where the last one ended and that its intent is the lease holder's.
pub(crate) fn check_finish(
    lease: Lease,
    row: &LeasedRow,
    intent: Option<IntentRow>,
    segment: &NewSegment,
) -> Result<()> {
    let bounds = row.bounds;
    if segment.base_offset != bounds.rolled {
        let message = format!(
            "it begins at {}, but {} is the first offset without a segment",
            segment.base_offset, bounds.rolled
        );
        return Err(Error::SegmentConflict(message));
    }
    if segment.end_offset <= segment.base_offset || segment.end_offset > bounds.high_watermark {
        let message = format!(
            "it ends at {}, the high watermark is {}",
            segment.end_offset, bounds.high_watermark
        );
        return Err(Error::SegmentConflict(message));
    }
    match intent {
        Some(intent) if intent.key == segment.key && intent.incarnation == lease.incarnation.0 => Ok(()),
        Some(_) => Err(Error::SegmentConflict("the intent is another agent's".to_owned())),
        None => Err(Error::SegmentConflict(
            "there is no intent; begin the segment first".to_owned(),
        )),
    }
}

/// A WAL range that was deleted.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct FreedRange {
    pub(crate) end_offset: i64,
    pub(crate) incarnation: i64,
    pub(crate) sequence: i64,
    pub(crate) length: i64,
}

/// What the deletion of ranges comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    /// Stored bytes.
    pub(crate) bytes: i64,
    /// The greatest end offset, when there was a range.
    pub(crate) end_offset: Option<i64>,
    /// (incarnation, sequence, how many ranges), in order: rows are locked in this order.
    pub(crate) objects: Vec<(i64, i64, i32)>,
}

/// Adds up deleted ranges.
pub(crate) fn freed(ranges: &[FreedRange]) -> Freed {
    let mut objects: BTreeMap<(i64, i64), i32> = BTreeMap::new();
    let mut freed = Freed::default();
    for range in ranges {
        freed.bytes += range.length;
        freed.end_offset = freed.end_offset.max(Some(range.end_offset));
        *objects.entry((range.incarnation, range.sequence)).or_default() += 1;
    }
    freed.objects = objects
        .into_iter()
        .map(|((incarnation, sequence), count)| (incarnation, sequence, count))
        .collect();
    freed
}

/// Puts partitions, which come by partition number, into their topics.
pub(crate) fn assemble(
    mut topics: Vec<TopicRecord>,
    partitions: Vec<(Uuid, PartitionRecord)>,
) -> Vec<TopicRecord> {
    let mut by_topic: std::collections::HashMap<Uuid, Vec<PartitionRecord>> =
        std::collections::HashMap::new();
    for (topic_id, partition) in partitions {
        by_topic.entry(topic_id).or_default().push(partition);
    }
    for topic in &mut topics {
        topic.partitions = by_topic.remove(&topic.topic_id).unwrap_or_default();
    }
    topics
}

/// A partition record from its columns.
pub(crate) fn partition_record(uid: i64, holder: Option<i64>, epoch: i32) -> PartitionRecord {
    PartitionRecord {
        uid: PartitionUid(uid),
        holder: holder.map(Incarnation),
        epoch,
    }
}

/// The settings of a topic, from the text that is stored.
pub(crate) fn parse_config(json: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(json)
        .map_err(|error| Error::Inconsistent(format!("the settings of a topic: {error}")))
}

/// The settings of topic `name` as far as they can be read: one topic's damaged row must not hide all the others. Of settings that
/// cannot be read at all, the answer keeps every record.
pub(crate) fn readable_config(name: &str, json: &str) -> BTreeMap<String, String> {
    parse_config(json).unwrap_or_else(|error| {
        tracing::error!(topic = name, %error, "a row of topics is damaged: what can be read of it is in force");
        let Ok(serde_json::Value::Object(entries)) = serde_json::from_str(json) else {
            let keep = ["retention.ms", "retention.bytes"];
            return keep.map(|key| (key.to_owned(), "-1".to_owned())).into();
        };
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        entries
            .into_iter()
            .map(|(key, value)| (key, text(value)))
            .collect()
    })
}

/// The settings of a topic, as the text to store.
pub(crate) fn config_json(config: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(config)
        .map_err(|error| Error::Inconsistent(format!("the settings of a topic: {error}")))
}

/// The settings after a change.
pub(crate) fn changed_config(
    mut config: BTreeMap<String, String>,
    change: &TopicChange,
) -> BTreeMap<String, String> {
    for (name, value) in &change.config {
        match value {
            Some(value) => config.insert(name.clone(), value.clone()),
            None => config.remove(name),
        };
    }
    config
}

/// An owner from its columns.
pub(crate) fn owner((uid, namespace, resource): (String, String, String)) -> TopicOwner {
    TopicOwner {
        uid,
        namespace,
        resource,
    }
}

/// A name with its topic, its owner, or both.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct OverviewRow {
    name: String,
    topic_id: Option<Uuid>,
    config: Option<String>,
    partitions: i32,
    high_watermark: i64,
    log_start: i64,
    size_bytes: i64,
    uid: Option<String>,
    namespace: Option<String>,
    resource: Option<String>,
}

/// Sorts the rows into topics and owners.
pub(crate) fn overview(rows: Vec<OverviewRow>) -> Result<TopicsOverview> {
    let mut overview = TopicsOverview::default();
    for row in rows {
        if let (Some(uid), Some(namespace), Some(resource)) = (row.uid, row.namespace, row.resource) {
            let owner = owner((uid, namespace, resource));
            overview.owners.insert(row.name.clone(), owner);
        }
        if let (Some(topic_id), Some(config)) = (row.topic_id, row.config) {
            let topic = TopicOverview {
                topic_id,
                config: readable_config(&row.name, &config),
                partitions: row.partitions,
                high_watermark: row.high_watermark,
                log_start: row.log_start,
                size_bytes: row.size_bytes,
            };
            overview.topics.insert(row.name, topic);
        }
    }
    Ok(overview)
}

/// How many partitions a change adds to `present`.
pub(crate) fn added_partitions(present: usize, change: &TopicChange) -> Result<usize> {
    let Some(wanted) = change.partitions else {
        return Ok(0);
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    wanted.checked_sub(present).ok_or_else(|| {
        Error::InvalidPartitions(format!(
            "a topic cannot shrink: it has {present} partitions, {wanted} were asked for"
        ))
    })
}

/// How many partitions a new topic gets.
pub(crate) fn new_partitions(partitions: i32) -> Result<usize> {
    match usize::try_from(partitions) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::InvalidPartitions(format!(
            "a topic needs at least 1 partition, {partitions} were asked for"
        ))),
    }
}
