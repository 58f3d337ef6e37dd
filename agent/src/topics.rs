//! Creates, describes, alters and deletes topics, and deletes records. Called by the admin service;
//! validates every request before the metadata store is asked, and answers once this agent's own
//! view shows the change.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    ids::topic_name_problem,
    protocol::v1,
    topic_config::{self, TopicConfig},
};
use streamhouse_metadata::{LogBounds, MetadataStore, NewTopic, TopicChange, TopicEntry};
use tokio::time::{Duration, Instant};

use crate::{
    directory::{ClusterDirectory, ClusterView, DirectoryTopic},
    log::LogReader,
    session::CurrentSession,
};

/// Maximum number of partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
/// Maximum number of partitions of all topics together.
pub const MAX_CLUSTER_PARTITIONS: usize = 50_000;
/// How long to wait for this agent's view to show a change before the response is sent anyway.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(5);

/// Dependencies of the topic calls.
#[derive(Debug, Clone)]
pub struct TopicDeps {
    /// Where topics are created, changed and deleted.
    pub metadata: Arc<dyn MetadataStore>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// The active session, which must lead a partition whose records are deleted.
    pub session: Arc<CurrentSession>,
    /// Reads the bounds of a log.
    pub log: LogReader,
}

/// Creates a topic, or with `validate_only` only checks whether it could be created.
///
/// # Errors
/// If the name, the partitions or the settings are invalid, the topic exists, or the metadata store
/// fails.
pub async fn create(
    deps: &TopicDeps,
    request: v1::CreateTopicRequest,
) -> Result<v1::TopicDescription, Error> {
    let v1::CreateTopicRequest {
        name,
        partitions,
        config,
        validate_only,
    } = request;
    if let Some(problem) = topic_name_problem(&name) {
        return Err(Error::new(ErrorCode::InvalidTopic, problem));
    }
    let view = require_view(&deps.directory).await?;
    let config: BTreeMap<String, String> = config.into_iter().collect();
    TopicConfig::from_overrides(&config)?;
    check_partitions(&view, partitions, partitions)?;
    if validate_only {
        if deps.directory.refresh().await.topic(&name).is_some() {
            return Err(streamhouse_metadata::Error::TopicAlreadyExists(name).into());
        }
        return Ok(planned_description(name, partitions, &config));
    }
    let record = deps
        .metadata
        .create_topic(&NewTopic {
            name,
            partitions,
            config,
        })
        .await?;
    tracing::info!(topic = record.name, partitions, "topic created");
    let view = wait_until_visible(deps, |view| {
        let topic = view
            .topic(&record.name)
            .filter(|topic| topic.record.topic_id == record.topic_id);
        topic.is_some_and(|topic| is_fully_led(deps, view, topic))
    });
    view.await;
    describe_record(deps, &record).await
}

/// Returns whether every partition has a leader, as far as agents are available, and this agent has
/// taken up those that it leads.
fn is_fully_led(deps: &TopicDeps, view: &ClusterView, topic: &DirectoryTopic) -> bool {
    let anybody = view.agents().any(|agent| !agent.draining);
    let session = deps.session.get();
    topic
        .record
        .partitions
        .iter()
        .all(|record| match (record.holder, &session) {
            (None, _) => !anybody,
            (Some(holder), Some(session)) if holder == session.incarnation => {
                session.partitions.get(record.uid).is_some()
            }
            (Some(_), _) => true,
        })
}

/// Lists the topics by name.
///
/// # Errors
/// `MetadataUnavailable` if this agent has not reached the metadata store.
pub async fn list(deps: &TopicDeps, include_internal: bool) -> Result<v1::ListTopicsResponse, Error> {
    let view = require_view(&deps.directory).await?;
    let shown = view
        .topics()
        .filter(|topic| include_internal || !topic.record.internal);
    let mut topics: Vec<v1::TopicListing> = shown.map(|topic| listing(&topic.record)).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(v1::ListTopicsResponse { topics })
}

fn listing(record: &TopicEntry) -> v1::TopicListing {
    v1::TopicListing {
        name: record.name.clone(),
        topic_id: record.topic_id.to_string(),
        partitions: partition_count(record),
        internal: record.internal,
    }
}

/// Describes a topic with its settings, leaders and sizes.
///
/// # Errors
/// If the topic does not exist, or the metadata store fails.
pub async fn describe(deps: &TopicDeps, name: &str) -> Result<v1::TopicDescription, Error> {
    let topic = find_topic(deps, name).await?;
    describe_record(deps, &topic.record).await
}

/// Describes a topic's settings, and none of its partitions: nothing is read of their logs.
///
/// # Errors
/// If the topic does not exist.
pub async fn describe_settings(deps: &TopicDeps, name: &str) -> Result<v1::TopicDescription, Error> {
    let topic = find_topic(deps, name).await?;
    Ok(planned_description(name.to_owned(), 0, &topic.record.config))
}

/// Returns the number of partitions of a topic.
///
/// # Errors
/// If the topic does not exist.
pub async fn count_partitions(deps: &TopicDeps, name: &str) -> Result<usize, Error> {
    Ok(find_topic(deps, name).await?.record.partitions.len())
}

/// Adds partitions to a topic or changes its settings, or with `validate_only` only checks whether
/// it could.
///
/// # Errors
/// If the topic does not exist or is internal, the change is invalid, or the metadata store fails.
pub async fn alter(deps: &TopicDeps, request: v1::AlterTopicRequest) -> Result<v1::TopicDescription, Error> {
    let v1::AlterTopicRequest {
        name,
        partitions,
        set_config,
        reset_config,
        validate_only,
    } = request;
    let topic = find_topic(deps, &name).await?;
    refuse_internal(&topic.record)?;
    // Only the new values are validated: an existing value that is no longer valid must not block
    // changes of others.
    TopicConfig::from_overrides(&set_config.clone().into_iter().collect())?;
    let (overrides, changes) = merged_config(&topic.record, set_config, reset_config)?;
    if changes.keys().any(|key| key.ends_with(".compaction.lag.ms")) {
        topic_config::check_compaction_lags(&overrides)?;
    }
    let old = partition_count(&topic.record);
    if partitions != 0 {
        if partitions < old {
            let message = format!("topic {name:?} has {old} partitions; the count can only grow");
            return Err(Error::new(ErrorCode::InvalidPartitions, message));
        }
        check_partitions(&deps.directory.view(), partitions, partitions - old)?;
    }
    if validate_only {
        let partitions = if partitions == 0 { old } else { partitions };
        return Ok(planned_description(name, partitions, &overrides));
    }
    let change = TopicChange {
        partitions: (partitions > old).then_some(partitions),
        config: changes,
    };
    let record = deps.metadata.alter_topic(&name, &change).await?;
    tracing::info!(
        topic = name,
        partitions = partition_count(&record),
        "topic altered"
    );
    wait_until_visible(deps, |view| {
        view.topic(&name).is_none_or(|topic| {
            let newer = topic.record.topic_id != record.topic_id;
            newer
                || (topic.record.config == record.config
                    && is_fully_led(deps, view, topic)
                    && partition_count(&topic.record) >= partitions)
        })
    })
    .await;
    describe_record(deps, &record).await
}

/// Deletes a topic. Its name can be reused at once; its objects are deleted later.
///
/// # Errors
/// If the topic does not exist or is internal, or the metadata store fails.
pub async fn delete(deps: &TopicDeps, name: &str) -> Result<(), Error> {
    let topic = find_topic(deps, name).await?;
    refuse_internal(&topic.record)?;
    deps.metadata.delete_topic(name).await?;
    tracing::info!(topic = name, "topic deleted");
    let id = topic.record.topic_id;
    wait_until_visible(deps, |view| {
        view.topic(name).is_none_or(|topic| topic.record.topic_id != id)
    })
    .await;
    Ok(())
}

/// Advances a partition's log start offset to `before_offset`, or to the high watermark with -1.
/// Returns the new log start offset.
///
/// # Errors
/// `NotLeader` on any other agent, `OffsetOutOfRange` beyond the end, and errors of the metadata
/// store.
pub async fn delete_records(deps: &TopicDeps, request: v1::DeleteRecordsRequest) -> Result<i64, Error> {
    let v1::DeleteRecordsRequest {
        topic,
        partition: index,
        before_offset,
    } = request;
    let found = find_topic(deps, &topic).await?;
    refuse_internal(&found.record)?;
    let uid = deps
        .directory
        .view()
        .partition(&topic, index)
        .map(|record| record.uid)
        .ok_or_else(|| {
            Error::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("there is no partition {topic}-{index}"),
            )
        })?;
    let partition = deps
        .session
        .get()
        .and_then(|life| life.partitions.get(uid))
        .ok_or_else(|| {
            Error::new(
                ErrorCode::NotLeader,
                format!("this agent does not lead {topic}-{index}; send the request to its leader"),
            )
        })?;
    // The store is asked because memory may be behind the last commit.
    let known = partition.high_watermark();
    let bounds = deps.log.read_bounds(uid).await?;
    deps.log.adopt_bounds(&partition, known, &bounds)?;
    let end = bounds.high_watermark;
    let before = if before_offset == -1 { end } else { before_offset };
    if !(0..=end).contains(&before) {
        let message =
            format!("offset {before} is not in {topic}-{index}, which ends at {end}; use -1 for all records");
        return Err(Error::new(ErrorCode::OffsetOutOfRange, message));
    }
    let log_start = deps.metadata.advance_log_start(partition.lease, before).await?;
    partition.advance_log_start(log_start);
    tracing::info!(topic, partition = index, log_start, "records deleted");
    Ok(log_start)
}

/// Returns the view, once the metadata store was reached.
///
/// # Errors
/// `MetadataUnavailable` if it was not.
pub async fn require_view(directory: &ClusterDirectory) -> Result<Arc<ClusterView>, Error> {
    let mut view = directory.view();
    if view.version == 0 {
        view = directory.refresh().await;
    }
    if view.version == 0 {
        let error = Error::new(
            ErrorCode::MetadataUnavailable,
            "this agent has not reached the metadata store yet",
        );
        return Err(error.with_retry_after_ms(500));
    }
    Ok(view)
}

async fn find_topic(deps: &TopicDeps, name: &str) -> Result<Arc<DirectoryTopic>, Error> {
    let mut view = require_view(&deps.directory).await?;
    if view.topic(name).is_none() {
        view = deps.directory.refresh().await;
    }
    view.topic(name)
        .cloned()
        .ok_or_else(|| streamhouse_metadata::Error::UnknownTopic(name.to_owned()).into())
}

fn refuse_internal(record: &TopicEntry) -> Result<(), Error> {
    if record.internal {
        let message = format!("topic {:?} is internal and cannot be changed", record.name);
        return Err(Error::new(ErrorCode::PolicyViolation, message));
    }
    Ok(())
}

fn check_partitions(view: &ClusterView, wanted: i32, added: i32) -> Result<(), Error> {
    if !(1..=MAX_PARTITIONS_PER_TOPIC).contains(&wanted) {
        let message =
            format!("a topic has between 1 and {MAX_PARTITIONS_PER_TOPIC} partitions, not {wanted}");
        return Err(Error::new(ErrorCode::InvalidPartitions, message));
    }
    let there: usize = view.topics().map(|topic| topic.record.partitions.len()).sum();
    if there.saturating_add(added.unsigned_abs() as usize) > MAX_CLUSTER_PARTITIONS {
        let message = format!(
            "the cluster has {there} partitions and supports at most {MAX_CLUSTER_PARTITIONS}; use fewer"
        );
        return Err(Error::new(ErrorCode::PolicyViolation, message));
    }
    Ok(())
}

/// Returns a topic's overrides after a change, and the change itself.
#[allow(clippy::type_complexity)]
fn merged_config(
    record: &TopicEntry,
    set: impl IntoIterator<Item = (String, String)>,
    reset: Vec<String>,
) -> Result<(BTreeMap<String, String>, BTreeMap<String, Option<String>>), Error> {
    let mut overrides = record.config.clone();
    let mut changes = BTreeMap::new();
    for (key, value) in set {
        overrides.insert(key.clone(), value.clone());
        changes.insert(key, Some(value));
    }
    for key in reset {
        topic_config::find_definition(&key)?;
        if changes.contains_key(&key) {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!("{key:?} cannot be both set and reset"),
            ));
        }
        overrides.remove(&key);
        changes.insert(key, None);
    }
    Ok((overrides, changes))
}

/// Waits until this agent's view shows a change that is in the metadata store.
async fn wait_until_visible(deps: &TopicDeps, shown: impl Fn(&ClusterView) -> bool) {
    let until = Instant::now() + VISIBILITY_TIMEOUT;
    while !shown(&deps.directory.view()) && Instant::now() < until {
        deps.directory.refresh().await;
    }
}

fn partition_count(record: &TopicEntry) -> i32 {
    i32::try_from(record.partitions.len()).unwrap_or(i32::MAX)
}

/// Returns the description of a topic that does not exist yet.
fn planned_description(
    name: String,
    partitions: i32,
    overrides: &BTreeMap<String, String>,
) -> v1::TopicDescription {
    let partitions = (0..partitions).map(|partition| v1::PartitionDescription {
        partition,
        ..v1::PartitionDescription::default()
    });
    v1::TopicDescription {
        name,
        topic_id: String::new(),
        config: topic_config::effective_config(overrides).into_iter().collect(),
        overridden: overrides.keys().cloned().collect(),
        partitions: partitions.collect(),
        created_at_ms: 0,
    }
}

async fn describe_record(deps: &TopicDeps, record: &TopicEntry) -> Result<v1::TopicDescription, Error> {
    let view = deps.directory.view();
    // The view has newer leaders than the result of the change.
    let newer = view
        .topic(&record.name)
        .filter(|topic| topic.record.topic_id == record.topic_id);
    let record = newer.map_or(record, |topic| &topic.record);
    let uids: Vec<PartitionUid> = record.partitions.iter().map(|partition| partition.uid).collect();
    let bounds: BTreeMap<PartitionUid, LogBounds> = deps.metadata.bounds(&uids).await?.into_iter().collect();
    let mut description = planned_description(record.name.clone(), 0, &record.config);
    for (partition, found) in (0_i32..).zip(&record.partitions) {
        let bounds = bounds.get(&found.uid).copied().unwrap_or_default();
        description.partitions.push(v1::PartitionDescription {
            partition,
            leader: Some(view.leader(found)),
            log_start_offset: bounds.log_start,
            high_watermark: bounds.high_watermark,
            size_bytes: bounds.size_bytes,
        });
    }
    description.topic_id = record.topic_id.to_string();
    description.created_at_ms = record.created_at_ms;
    Ok(description)
}
