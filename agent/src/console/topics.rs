//! Topics for the console: all of them with totals, sorted by name or size, and one with its
//! partitions and settings.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use serde::{Deserialize, Serialize};
use streamhouse_core::{Error, ErrorCode, PartitionUid, topic_config};
use streamhouse_metadata::{LogBounds, TopicSummary, TopicsOverview};

use super::{
    CACHE_TTL, ConsoleDeps, ConsoleState,
    api::{ApiResult, PageRange, name_contains, parse_query},
    new_cache,
    ttl_cache::TtlCache,
};
use crate::{directory::ClusterView, topics::require_view};

/// Rows in one response: the default and the maximum.
const PAGE_ROWS: (usize, usize) = (50, 200);

/// Responses that concurrent requests share.
#[derive(Debug)]
pub(super) struct TopicPageCache {
    overview: TtlCache<(), TopicsOverview>,
    /// By topic id, partition count and range.
    bounds: TtlCache<(String, usize, PageRange), BTreeMap<PartitionUid, LogBounds>>,
}

impl Default for TopicPageCache {
    fn default() -> Self {
        Self {
            overview: new_cache(CACHE_TTL),
            bounds: new_cache(CACHE_TTL),
        }
    }
}

impl TopicPageCache {
    async fn overview(&self, deps: &ConsoleDeps) -> Result<Arc<TopicsOverview>, Error> {
        let ask = async { deps.metadata.topics_overview().await.map_err(Error::from) };
        self.overview.get_or_fetch(&(), ask).await
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TopicOrder {
    #[default]
    Name,
    Partitions,
    Records,
    Size,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicListQuery {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    sort: TopicOrder,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicListPage {
    /// Total number of topics.
    total: usize,
    /// Number of topics whose name contains the filter.
    matched: usize,
    #[serde(flatten)]
    part: PageRange,
    topics: Vec<TopicRow>,
}

#[derive(Debug, Serialize)]
struct TopicRow {
    name: String,
    partitions: i32,
    leaderless: usize,
    /// Records between the log start offsets and the high watermarks.
    records: i64,
    size_bytes: i64,
    /// The Kubernetes resource that manages the topic.
    managed_by: Option<String>,
}

pub(super) async fn list_topics(
    State(console): State<Arc<ConsoleState>>,
    uri: Uri,
) -> ApiResult<TopicListPage> {
    let wanted: TopicListQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, PAGE_ROWS.0, PAGE_ROWS.1);
    let all = console.topics.overview(&console.deps).await?;
    let found = all
        .topics
        .iter()
        .filter(|(name, _)| name_contains(name, &wanted.filter));
    let mut found: Vec<(&String, &TopicSummary)> = found.collect();
    // The map is ordered by name, and the sorts are stable.
    match wanted.sort {
        TopicOrder::Name => {}
        TopicOrder::Partitions => found.sort_by_key(|(_, topic)| Reverse(topic.partitions)),
        TopicOrder::Records => {
            found.sort_by_key(|(_, topic)| Reverse(topic.high_watermark - topic.log_start))
        }
        TopicOrder::Size => found.sort_by_key(|(_, topic)| Reverse(topic.size_bytes)),
    }
    let view = console.deps.directory.view();
    let rows = part
        .select(found.iter())
        .into_iter()
        .map(|(name, topic)| TopicRow {
            name: (*name).clone(),
            partitions: topic.partitions,
            leaderless: count_leaderless(&view, name),
            records: topic.high_watermark - topic.log_start,
            size_bytes: topic.size_bytes,
            managed_by: all.owners.get(*name).map(ToString::to_string),
        });
    Ok(Json(TopicListPage {
        total: all.topics.len(),
        matched: found.len(),
        part,
        topics: rows.collect(),
    }))
}

fn count_leaderless(view: &ClusterView, name: &str) -> usize {
    view.topic(name).map_or(0, |topic| {
        let partitions = topic.record.partitions.iter();
        partitions.filter(|p| !view.is_led(p)).count()
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicDetailsQuery {
    name: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicDetails {
    name: String,
    topic_id: String,
    internal: bool,
    created_at_ms: i64,
    records: i64,
    size_bytes: i64,
    managed_by: Option<String>,
    config: Vec<TopicSetting>,
    /// Total number of partitions.
    total: usize,
    #[serde(flatten)]
    part: PageRange,
    partitions: Vec<PartitionRow>,
}

#[derive(Debug, Serialize)]
struct TopicSetting {
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

pub(super) async fn get_topic(State(console): State<Arc<ConsoleState>>, uri: Uri) -> ApiResult<TopicDetails> {
    let wanted: TopicDetailsQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, PAGE_ROWS.0, PAGE_ROWS.1);
    let deps = &console.deps;
    let view = require_view(&deps.directory).await?;
    let topic = view.topic(&wanted.name).ok_or_else(|| {
        let message = format!("topic {:?} does not exist; it may have been deleted", wanted.name);
        Error::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    let record = &topic.record;
    let shown = part.select(record.partitions.iter().enumerate());
    let ask = async {
        let uids: Vec<PartitionUid> = shown.iter().map(|(_, partition)| partition.uid).collect();
        let bounds = deps.metadata.bounds(&uids).await?;
        Ok::<_, Error>(bounds.into_iter().collect())
    };
    let key = (record.topic_id.to_string(), record.partitions.len(), part);
    let bounds = console.topics.bounds.get_or_fetch(&key, ask).await?;
    let all = console.topics.overview(deps).await?;
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
    Ok(Json(TopicDetails {
        name: record.name.clone(),
        topic_id: record.topic_id.to_string(),
        internal: record.internal,
        created_at_ms: record.created_at_ms,
        records: sums.map_or(0, |sums| sums.high_watermark - sums.log_start),
        size_bytes: sums.map_or(0, |sums| sums.size_bytes),
        managed_by: all.owners.get(&record.name).map(ToString::to_string),
        config: topic_settings(&record.config),
        total: record.partitions.len(),
        part,
        partitions: rows.collect(),
    }))
}

fn topic_settings(overrides: &BTreeMap<String, String>) -> Vec<TopicSetting> {
    let effective = topic_config::effective_config(overrides).into_iter();
    effective
        .map(|(key, value)| TopicSetting {
            own: overrides.contains_key(&key),
            key,
            value,
        })
        .collect()
}
