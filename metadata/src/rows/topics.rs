//! Rows of `topics`, `partitions` and `topic_owners`, and the rules for changes of topics.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::{
    Error, Incarnation, PartitionEntry, PartitionUid, Result, TopicChange, TopicEntry, TopicOwner,
    TopicSummary, TopicsOverview,
};

/// A topic without its partitions.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct TopicRow {
    topic_id: Uuid,
    name: String,
    folder: String,
    internal: bool,
    config: String,
    created_at_ms: i64,
}

/// A partition of a topic. `incarnation` is its holder, unless that is sealed.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct TopicPartitionRow {
    topic_id: Uuid,
    id: i64,
    incarnation: Option<i64>,
    epoch: i32,
}

/// Adds the partitions, sorted by number, to their topics.
pub(crate) fn assemble_topics(topics: Vec<TopicRow>, partitions: Vec<TopicPartitionRow>) -> Vec<TopicEntry> {
    let mut by_topic: HashMap<Uuid, Vec<PartitionEntry>> = HashMap::new();
    for row in partitions {
        by_topic.entry(row.topic_id).or_default().push(PartitionEntry {
            uid: PartitionUid(row.id),
            holder: row.incarnation.map(Incarnation),
            epoch: row.epoch,
        });
    }
    let entries = topics.into_iter().map(|row| TopicEntry {
        topic_id: row.topic_id,
        folder: row.folder,
        internal: row.internal,
        config: readable_config(&row.name, &row.config),
        name: row.name,
        created_at_ms: row.created_at_ms,
        partitions: by_topic.remove(&row.topic_id).unwrap_or_default(),
    });
    entries.collect()
}

/// What a change does to a topic.
#[derive(Debug)]
pub(crate) struct TopicChangePlan {
    /// The number of partitions before.
    pub(crate) present: usize,
    /// The number of partitions to add.
    pub(crate) added: usize,
    /// The settings to store.
    pub(crate) config: String,
}

/// Plans a change of a topic with `present` partitions and these stored settings.
pub(crate) fn plan_topic_change(stored: &str, present: i64, change: &TopicChange) -> Result<TopicChangePlan> {
    let present = usize::try_from(present).unwrap_or_default();
    Ok(TopicChangePlan {
        present,
        added: added_partition_count(present, change)?,
        config: config_json(&apply_config_change(parse_config(stored)?, change))?,
    })
}

/// Returns the id of the topic to mark as deleted; `None` if a repeated call finds that the
/// deletion is in progress. `found` is the last topic of this name, and whether it is marked.
pub(crate) fn topic_to_delete(name: &str, found: Option<(Uuid, bool)>) -> Result<Option<Uuid>> {
    let (topic_id, deleted) = found.ok_or_else(|| Error::UnknownTopic(name.to_owned()))?;
    Ok((!deleted).then_some(topic_id))
}

/// Parses the stored settings of a topic.
fn parse_config(json: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(json)
        .map_err(|error| Error::Inconsistent(format!("invalid settings of a topic: {error}")))
}

/// Parses the settings of topic `name` as far as possible, so that one damaged row does not hide
/// all other topics. If nothing can be parsed, returns settings that keep every record.
fn readable_config(name: &str, json: &str) -> BTreeMap<String, String> {
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
fn apply_config_change(
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
fn added_partition_count(present: usize, change: &TopicChange) -> Result<usize> {
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
