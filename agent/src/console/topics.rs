//! Topics for the console: all of them with totals, sorted by name or size, and one with its
//! partitions and settings.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use serde::{Deserialize, Serialize};
use streamhouse_core::{Error, ErrorCode, PartitionUid, topic_config};
use streamhouse_metadata::{LogBounds, TopicOverview, TopicsOverview};

use super::{
    Console, SHARED,
    answer::{Answer, Part, asked, holds},
    kept::Kept,
    shared,
};
use crate::{directory::View, node::Node, topics::reached};

/// Rows in one response: the default and the maximum.
const ROWS: (usize, usize) = (50, 200);

/// Responses that concurrent requests share.
#[derive(Debug)]
pub(super) struct Shared {
    overview: Kept<(), TopicsOverview>,
    /// By topic id, partition count and range.
    bounds: Kept<(String, usize, Part), BTreeMap<PartitionUid, LogBounds>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            overview: shared(SHARED),
            bounds: shared(SHARED),
        }
    }
}

impl Shared {
    async fn overview(&self, node: &Node) -> Result<Arc<TopicsOverview>, Error> {
        let ask = async { node.metadata.topics_overview().await.map_err(Error::from) };
        self.overview.get(&(), ask).await
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Name,
    Partitions,
    Records,
    Size,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListAsked {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    sort: Order,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    /// Total number of topics.
    total: usize,
    /// Number of topics whose name contains the filter.
    matched: usize,
    #[serde(flatten)]
    part: Part,
    topics: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    partitions: i32,
    leaderless: usize,
    /// Records between the log start offsets and the high watermarks.
    records: i64,
    size_bytes: i64,
    /// The Kubernetes resource that manages the topic.
    managed_by: Option<String>,
}

pub(super) async fn list(State(console): State<Arc<Console>>, uri: Uri) -> Answer<List> {
    let wanted: ListAsked = asked(&uri)?;
    let part = Part::new(wanted.offset, wanted.limit, ROWS.0, ROWS.1);
    let all = console.topics.overview(&console.node).await?;
    let found = all.topics.iter().filter(|(name, _)| holds(name, &wanted.filter));
    let mut found: Vec<(&String, &TopicOverview)> = found.collect();
    // The map is ordered by name, and the sorts are stable.
    match wanted.sort {
        Order::Name => {}
        Order::Partitions => found.sort_by_key(|(_, topic)| Reverse(topic.partitions)),
        Order::Records => found.sort_by_key(|(_, topic)| Reverse(topic.high_watermark - topic.log_start)),
        Order::Size => found.sort_by_key(|(_, topic)| Reverse(topic.size_bytes)),
    }
    let view = console.node.directory.view();
    let rows = part.of(found.iter()).into_iter().map(|(name, topic)| Row {
        name: (*name).clone(),
        partitions: topic.partitions,
        leaderless: leaderless(&view, name),
        records: topic.high_watermark - topic.log_start,
        size_bytes: topic.size_bytes,
        managed_by: all.owners.get(*name).map(ToString::to_string),
    });
    Ok(Json(List {
        total: all.topics.len(),
        matched: found.len(),
        part,
        topics: rows.collect(),
    }))
}

fn leaderless(view: &View, name: &str) -> usize {
    view.topic(name).map_or(0, |topic| {
        let partitions = topic.record.partitions.iter();
        partitions.filter(|p| !view.is_led(p)).count()
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneAsked {
    name: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct One {
    name: String,
    topic_id: String,
    internal: bool,
    created_at_ms: i64,
    records: i64,
    size_bytes: i64,
    managed_by: Option<String>,
    config: Vec<Setting>,
    /// Total number of partitions.
    total: usize,
    #[serde(flatten)]
    part: Part,
    partitions: Vec<PartitionRow>,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: String,
    /// Whether the value is set for this topic and not a default.
    own: bool,
}

#[derive(Debug, Serialize)]
struct PartitionRow {
    partition: usize,
    /// Empty if the partition has no leader.
    leader: String,
    leader_epoch: i32,
    log_start_offset: i64,
    high_watermark: i64,
    size_bytes: i64,
}

pub(super) async fn one(State(console): State<Arc<Console>>, uri: Uri) -> Answer<One> {
    let wanted: OneAsked = asked(&uri)?;
    let part = Part::new(wanted.offset, wanted.limit, ROWS.0, ROWS.1);
    let node = &console.node;
    let view = reached(node).await?;
    let topic = view.topic(&wanted.name).ok_or_else(|| {
        let message = format!("topic {:?} does not exist; it may have been deleted", wanted.name);
        Error::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    let record = &topic.record;
    let shown = part.of(record.partitions.iter().enumerate());
    let ask = async {
        let uids: Vec<PartitionUid> = shown.iter().map(|(_, partition)| partition.uid).collect();
        let bounds = node.metadata.bounds(&uids).await?;
        Ok::<_, Error>(bounds.into_iter().collect())
    };
    let key = (record.topic_id.to_string(), record.partitions.len(), part);
    let bounds = console.topics.bounds.get(&key, ask).await?;
    let all = console.topics.overview(node).await?;
    let sums = all.topics.get(&record.name);
    let rows = shown.iter().map(|(number, partition)| {
        let bounds = bounds.get(&partition.uid).copied().unwrap_or_default();
        PartitionRow {
            partition: *number,
            leader: view.leader(partition).agent_id,
            leader_epoch: partition.epoch,
            log_start_offset: bounds.log_start,
            high_watermark: bounds.high_watermark,
            size_bytes: bounds.size_bytes,
        }
    });
    Ok(Json(One {
        name: record.name.clone(),
        topic_id: record.topic_id.to_string(),
        internal: record.internal,
        created_at_ms: record.created_at_ms,
        records: sums.map_or(0, |sums| sums.high_watermark - sums.log_start),
        size_bytes: sums.map_or(0, |sums| sums.size_bytes),
        managed_by: all.owners.get(&record.name).map(ToString::to_string),
        config: settings(&record.config),
        total: record.partitions.len(),
        part,
        partitions: rows.collect(),
    }))
}

fn settings(overrides: &BTreeMap<String, String>) -> Vec<Setting> {
    let effective = topic_config::effective(overrides).into_iter();
    effective
        .map(|(key, value)| Setting {
            own: overrides.contains_key(&key),
            key,
            value,
        })
        .collect()
}
