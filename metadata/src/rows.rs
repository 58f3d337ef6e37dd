//! Types of the rows of both stores, and the rules that depend only on these rows: lease checks,
//! segment checks, and the assembly of topics. No SQL and no I/O.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use crate::{
    Error, GROUP_SLOT_TOPIC, GroupLag, Incarnation, Lease, LogBounds, NewSegment, PartitionEntry,
    PartitionUid, Result, TopicChange, TopicEntry, TopicOwner, TopicSummary, TopicsOverview,
};

/// The maximum number of spans that one read returns, whatever the caller requests.
pub(crate) const MAX_SPANS: usize = 10_000;
/// The longest duration that is stored, in milliseconds: a hundred years.
const MAX_DURATION_MS: i64 = 100 * 365 * 86_400_000;

/// Converts a duration to whole milliseconds, limited so that adding it to a time cannot overflow.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(MAX_DURATION_MS)
        .min(MAX_DURATION_MS)
}

/// Converts a number for the database.
pub(crate) fn to_signed(what: &str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is too large to store")))
}

/// Converts a number of the database back; the inverse of [`to_signed`].
pub(crate) fn to_unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::Inconsistent(format!("{what} {number} is negative")))
}

/// Converts a row with the sums of a group in a topic.
pub(crate) fn group_lag((group_id, topic, committed, lag): (String, String, i64, i64)) -> GroupLag {
    GroupLag {
        group_id,
        topic,
        committed,
        lag,
    }
}

/// The locked row of a partition with its topic.
#[derive(Debug, Clone)]
pub(crate) struct LeasedPartitionRow {
    pub(crate) holder: Option<Incarnation>,
    pub(crate) epoch: i32,
    pub(crate) deleted: bool,
    pub(crate) bounds: LogBounds,
    pub(crate) partition: i32,
    pub(crate) topic_id: Uuid,
    pub(crate) topic: String,
    pub(crate) folder: String,
}

/// Checks that `lease` is in force. `sealed` is `None` if the incarnation is unknown.
pub(crate) fn check_lease(
    lease: Lease,
    sealed: Option<bool>,
    row: Option<LeasedPartitionRow>,
) -> Result<LeasedPartitionRow> {
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
pub(crate) fn check_slot(lease: Lease, row: &LeasedPartitionRow, slot: i32) -> Result<()> {
    if row.topic != GROUP_SLOT_TOPIC || row.partition != slot {
        return Err(Error::Fenced(lease.partition));
    }
    Ok(())
}

/// A stored segment intent.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct SegmentIntentRow {
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

impl SegmentIntentRow {
    /// Converts the intent to a segment that its writer may still upload.
    pub(crate) fn into_abandoned(self, partition: PartitionUid) -> AbandonedSegmentRow {
        AbandonedSegmentRow {
            partition_id: partition.0,
            base_offset: self.base_offset,
            key: self.key,
            incarnation: self.incarnation,
        }
    }
}

/// A segment that its writer can no longer finish but may still upload.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct AbandonedSegmentRow {
    pub(crate) partition_id: i64,
    pub(crate) base_offset: i64,
    pub(crate) key: String,
    pub(crate) incarnation: i64,
}

/// Checks that the segment continues the previous one and that its intent belongs to the lease
/// holder.
pub(crate) fn check_segment(
    lease: Lease,
    row: &LeasedPartitionRow,
    intent: Option<SegmentIntentRow>,
    segment: &NewSegment,
) -> Result<()> {
    let bounds = row.bounds;
    if segment.base_offset != bounds.rolled {
        let message = format!(
            "it begins at offset {}, but {} is the first offset without a segment",
            segment.base_offset, bounds.rolled
        );
        return Err(Error::SegmentConflict(message));
    }
    if segment.end_offset <= segment.base_offset || segment.end_offset > bounds.high_watermark {
        let message = format!(
            "it ends at offset {}, but the high watermark is {}",
            segment.end_offset, bounds.high_watermark
        );
        return Err(Error::SegmentConflict(message));
    }
    match intent {
        Some(intent) if intent.key == segment.key && intent.incarnation == lease.incarnation.0 => Ok(()),
        Some(_) => Err(Error::SegmentConflict("another agent owns the intent".to_owned())),
        None => Err(Error::SegmentConflict(
            "there is no segment intent; begin the segment first".to_owned(),
        )),
    }
}

/// A deleted WAL range.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct DeletedRangeRow {
    pub(crate) end_offset: i64,
    pub(crate) incarnation: i64,
    pub(crate) sequence: i64,
    pub(crate) length: i64,
}

/// The sums over deleted ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeletedRanges {
    /// The number of stored bytes.
    pub(crate) bytes: i64,
    /// The greatest end offset, if there was a range.
    pub(crate) end_offset: Option<i64>,
    /// (incarnation, sequence, number of ranges) in the order in which rows are locked.
    pub(crate) objects: Vec<(i64, i64, i32)>,
}

/// Sums deleted ranges.
pub(crate) fn sum_deleted_ranges(ranges: &[DeletedRangeRow]) -> DeletedRanges {
    let mut objects: BTreeMap<(i64, i64), i32> = BTreeMap::new();
    let mut freed = DeletedRanges::default();
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

/// Adds partitions, sorted by number, to their topics.
pub(crate) fn group_partitions_by_topic(
    mut topics: Vec<TopicEntry>,
    partitions: Vec<(Uuid, PartitionEntry)>,
) -> Vec<TopicEntry> {
    let mut by_topic: std::collections::HashMap<Uuid, Vec<PartitionEntry>> = std::collections::HashMap::new();
    for (topic_id, partition) in partitions {
        by_topic.entry(topic_id).or_default().push(partition);
    }
    for topic in &mut topics {
        topic.partitions = by_topic.remove(&topic.topic_id).unwrap_or_default();
    }
    topics
}

/// Converts the columns of a partition.
pub(crate) fn partition_entry(uid: i64, holder: Option<i64>, epoch: i32) -> PartitionEntry {
    PartitionEntry {
        uid: PartitionUid(uid),
        holder: holder.map(Incarnation),
        epoch,
    }
}

/// Parses the stored settings of a topic.
pub(crate) fn parse_config(json: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(json)
        .map_err(|error| Error::Inconsistent(format!("invalid settings of a topic: {error}")))
}

/// Parses the settings of topic `name` as far as possible, so that one damaged row does not hide
/// all other topics. If nothing can be parsed, returns settings that keep every record.
pub(crate) fn readable_config(name: &str, json: &str) -> BTreeMap<String, String> {
    parse_config(json).unwrap_or_else(|error| {
        tracing::error!(topic = name, %error, "a row of the table topics is damaged: only its readable settings apply");
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

/// Encodes the settings of a topic for storage.
pub(crate) fn config_json(config: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(config)
        .map_err(|error| Error::Inconsistent(format!("invalid settings of a topic: {error}")))
}

/// Applies a change to settings.
pub(crate) fn apply_config_change(
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

/// Converts the columns of an owner.
pub(crate) fn topic_owner((uid, namespace, resource): (String, String, String)) -> TopicOwner {
    TopicOwner {
        uid,
        namespace,
        resource,
    }
}

/// A topic name with its topic, its owner, or both.
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

/// Splits the rows into topics and owners.
pub(crate) fn build_overview(rows: Vec<OverviewRow>) -> Result<TopicsOverview> {
    let mut overview = TopicsOverview::default();
    for row in rows {
        if let (Some(uid), Some(namespace), Some(resource)) = (row.uid, row.namespace, row.resource) {
            let owner = topic_owner((uid, namespace, resource));
            overview.owners.insert(row.name.clone(), owner);
        }
        if let (Some(topic_id), Some(config)) = (row.topic_id, row.config) {
            let topic = TopicSummary {
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

/// Returns how many partitions a change adds to `present` ones.
pub(crate) fn added_partition_count(present: usize, change: &TopicChange) -> Result<usize> {
    let Some(wanted) = change.partitions else {
        return Ok(0);
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    wanted.checked_sub(present).ok_or_else(|| {
        Error::InvalidPartitions(format!(
            "a topic cannot shrink: it has {present} partitions, but {wanted} were requested"
        ))
    })
}

/// Returns how many partitions a new topic gets.
pub(crate) fn initial_partition_count(partitions: i32) -> Result<usize> {
    match usize::try_from(partitions) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::InvalidPartitions(format!(
            "a topic needs at least 1 partition, but {partitions} were requested"
        ))),
    }
}
