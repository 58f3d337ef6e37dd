//! Where a group's coordinator is, and the offsets that groups commit.

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        FindCoordinatorRequest, FindCoordinatorResponse, FindCoordinatorResult, OffsetCommitRequest,
        OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic, OffsetFetchRequest,
        OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse, OffsetFetchResponseGroup,
        OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
        OffsetFetchResponseTopics,
    },
    protocol::v1,
    security::AclOperation,
};
use uuid::Uuid;

use super::{
    access::{topic_refusal, when_allowed},
    brokers::{self, KafkaBroker},
    error::{ErrorFamily, UNSUPPORTED_VERSION, kafka_code},
    metadata::{NamedTopic, UNKNOWN_TOPIC_ID, named_topic, partition_code},
    produce::NO_TRANSACTIONS,
    request::{RequestContext, each_once},
};
use crate::groups::limits;

/// Kafka's numbers for coordinators of a group and of a transaction; there are none of the latter
/// kind.
const GROUP_KEY: i8 = 0;
const TRANSACTION_KEY: i8 = 1;

/// Serves FindCoordinator.
pub(super) async fn find_coordinator(
    context: RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut lookup = CoordinatorLookup::default();
    // Version 3 and before name one group, later ones name several.
    if context.version <= 3 {
        let found = lookup.locate(&context, request.key_type, request.key).await;
        return FindCoordinatorResponse {
            error_code: found.error_code,
            error_message: found.error_message,
            node_id: found.node_id,
            host: found.host,
            port: found.port,
            ..FindCoordinatorResponse::default()
        };
    }
    let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
    for key in request.coordinator_keys {
        coordinators.push(lookup.locate(&context, request.key_type, key).await);
    }
    FindCoordinatorResponse {
        coordinators,
        ..FindCoordinatorResponse::default()
    }
}

/// Looks up the coordinators of one request.
#[derive(Default)]
struct CoordinatorLookup {
    /// Whether the view was refreshed, which happens once for all keys.
    refreshed: bool,
}

impl CoordinatorLookup {
    async fn locate(&mut self, context: &RequestContext, kind: i8, key: String) -> FindCoordinatorResult {
        let mut result = FindCoordinatorResult {
            node_id: -1,
            port: -1,
            ..FindCoordinatorResult::default()
        };
        match self.find(context, kind, &key).await {
            Ok(broker) => {
                (result.node_id, result.host, result.port) = (broker.node_id, broker.host, broker.port);
            }
            Err(error) => {
                result.error_code = match kind {
                    TRANSACTION_KEY => NO_TRANSACTIONS,
                    _ => kafka_code(ErrorFamily::Group, &error),
                };
                result.error_message = Some(error.message().to_owned());
            }
        }
        result.key = key;
        result
    }

    async fn find(&mut self, context: &RequestContext, kind: i8, key: &str) -> Result<KafkaBroker, Error> {
        if kind != GROUP_KEY {
            let message = "transactions and share groups are not served";
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        context.access().check_group(AclOperation::Describe, key)?;
        limits::check_group_id(key)?;
        let deps = &context.client.deps;
        let cluster = &deps.groups.deps().cluster;
        let mut leader = cluster.coordinator(key);
        if leader.is_none() && !self.refreshed {
            self.refreshed = true;
            cluster.refresh().await;
            leader = cluster.coordinator(key);
        }
        let view = deps.directory.view();
        let addresses = &context.client.addresses;
        let broker = leader.and_then(|leader| brokers::by_agent_id(&view, addresses, &leader));
        broker.ok_or_else(|| {
            let message = "no agent with an address on this Kafka listener coordinates the group; try again";
            Error::new(ErrorCode::CoordinatorNotAvailable, message)
        })
    }
}

/// Serves OffsetCommit.
pub(super) async fn offset_commit(
    context: RequestContext,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let access = context.access();
    let allowed = access.check_group(AclOperation::Read, &request.group_id);
    let view = context.client.deps.directory.view();
    // Each once, in one view: what is committed is what was checked.
    let named = request.topics.iter().map(|topic| {
        let named = named_topic(&view, topic.name.clone(), topic.topic_id);
        let refusal = match allowed {
            Ok(()) => topic_refusal(access, AclOperation::Read, (&named.name, topic.topic_id)),
            Err(_) => None,
        };
        (named, refusal)
    });
    let named: Vec<(NamedTopic, Option<i16>)> = named.collect();
    let committed = when_allowed(allowed, commit(&context, &request, &named)).await;
    let mut results = match &committed {
        Ok(response) => response.offsets.iter(),
        Err(_) => [].iter(),
    };
    let failure = committed.as_ref().err();
    let version = context.version;
    let topics = request.topics.into_iter().zip(named);
    let topics = topics.map(|(topic, (_, refusal))| {
        let topic_id = topic.topic_id;
        let partitions = topic.partitions.into_iter().map(|part| {
            if let Some(error_code) = refusal {
                return OffsetCommitResponsePartition {
                    partition_index: part.partition_index,
                    error_code,
                };
            }
            let result = results
                .next()
                .and_then(|result| result.error.clone())
                .map(Error::from);
            let error = failure.or(result.as_ref());
            OffsetCommitResponsePartition {
                partition_index: part.partition_index,
                error_code: error.map_or(0, |error| commit_code(version, error, topic_id)),
            }
        });
        OffsetCommitResponseTopic {
            partitions: partitions.collect(),
            name: topic.name,
            topic_id,
        }
    });
    OffsetCommitResponse {
        topics: topics.collect(),
        ..OffsetCommitResponse::default()
    }
}

/// Commits the offsets of the topics that are not refused; `named` has what each of them is.
async fn commit(
    context: &RequestContext,
    request: &OffsetCommitRequest,
    named: &[(NamedTopic, Option<i16>)],
) -> Result<v1::CommitOffsetsResponse, Error> {
    let deps = &context.client.deps;
    // Before the names of topics are copied for each partition.
    let count = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    deps.groups.deps().limits.check_offset_count(count)?;
    let mut offsets = Vec::with_capacity(count);
    for (topic, (named, refusal)) in request.topics.iter().zip(named) {
        if refusal.is_some() {
            continue;
        }
        offsets.extend(topic.partitions.iter().map(|part| v1::CommitOffset {
            topic: named.name.clone(),
            partition: part.partition_index,
            offset: part.committed_offset,
            leader_epoch: part.committed_leader_epoch,
            metadata: part.committed_metadata.clone().unwrap_or_default(),
            topic_id: named.topic_id.clone(),
        }));
    }
    if offsets.is_empty() && named.iter().any(|(_, refusal)| refusal.is_some()) {
        return Ok(v1::CommitOffsetsResponse::default());
    }
    let commit = v1::CommitOffsetsRequest {
        group_id: request.group_id.clone(),
        generation: request.generation_id_or_member_epoch,
        member_id: request.member_id.clone(),
        group_instance_id: request.group_instance_id.clone().unwrap_or_default(),
        offsets,
    };
    deps.groups.commit_offsets(commit).await
}

/// Returns Kafka's code for an offset that was not committed.
fn commit_code(version: i16, error: &Error, topic_id: Uuid) -> i16 {
    match error.code() {
        // Members of the consumer protocol use later versions.
        ErrorCode::StaleMemberEpoch if version < 9 => UNSUPPORTED_VERSION,
        _ => partition_code(ErrorFamily::Group, error, topic_id),
    }
}

/// Serves OffsetFetch.
pub(super) async fn offset_fetch(
    context: RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if context.version >= 8 {
        let wanted = each_once(request.groups, |group| group.group_id.clone());
        let mut groups = Vec::with_capacity(wanted.len());
        for group in &wanted {
            groups.push(fetch_group(&context, group).await);
        }
        return OffsetFetchResponse {
            groups,
            ..OffsetFetchResponse::default()
        };
    }
    // Before version 2 there is no null; a list without topics asks for none.
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            topic_id: Uuid::nil(),
            partition_indexes: topic.partition_indexes,
        });
        topics.collect()
    });
    let group = OffsetFetchRequestGroup {
        group_id: request.group_id,
        topics,
        ..OffsetFetchRequestGroup::default()
    };
    let fetched = fetch_group(&context, &group).await;
    let failed = match context.version {
        // Later versions have a code for all topics.
        ..2 if fetched.error_code != 0 => group.topics.unwrap_or_default(),
        _ => Vec::new(),
    };
    let failed = failed.iter().map(|topic| failed_topic(topic, fetched.error_code));
    let topics = failed.chain(fetched.topics);
    let topics = topics.map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(old_partition).collect(),
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: fetched.error_code,
        ..OffsetFetchResponse::default()
    }
}

fn old_partition(part: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index: part.partition_index,
        committed_offset: part.committed_offset,
        committed_leader_epoch: part.committed_leader_epoch,
        metadata: part.metadata,
        error_code: part.error_code,
    }
}

async fn fetch_group(context: &RequestContext, group: &OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let mut response = OffsetFetchResponseGroup {
        group_id: group.group_id.clone(),
        ..OffsetFetchResponseGroup::default()
    };
    match fetched_topics(context, group).await {
        Ok(topics) => response.topics = topics,
        Err(error) => response.error_code = kafka_code(ErrorFamily::Group, &error),
    }
    response
}

async fn fetched_topics(
    context: &RequestContext,
    group: &OffsetFetchRequestGroup,
) -> Result<Vec<OffsetFetchResponseTopics>, Error> {
    let access = context.access();
    access.check_group(AclOperation::Describe, &group.group_id)?;
    let groups = &context.client.deps.groups;
    if group.member_id.is_some() || group.member_epoch >= 0 {
        let member_id = group.member_id.as_deref().unwrap_or_default();
        groups
            .check_offset_fetch(&group.group_id, member_id, group.member_epoch)
            .await?;
    }
    let wanted = group.topics.iter().flatten();
    // Before the names of topics are copied for each partition.
    let count = wanted.clone().map(|topic| topic.partition_indexes.len()).sum();
    groups.deps().limits.check_offset_count(count)?;
    let view = context.client.deps.directory.view();
    let mut topics = Vec::new();
    let mut partitions = Vec::with_capacity(count);
    for topic in wanted {
        let NamedTopic { name, topic_id } = named_topic(&view, topic.name.clone(), topic.topic_id);
        let named = (name.as_str(), topic.topic_id);
        if let Some(code) = topic_refusal(access, AclOperation::Describe, named) {
            topics.push(failed_topic(topic, code));
            continue;
        }
        if name.is_empty() && !topic.topic_id.is_nil() {
            topics.push(failed_topic(topic, UNKNOWN_TOPIC_ID));
            continue;
        }
        let indexes = topic.partition_indexes.iter();
        partitions.extend(indexes.map(|partition| v1::TopicPartition {
            topic: name.clone(),
            partition: *partition,
            topic_id: topic_id.clone(),
        }));
    }
    if group.topics.is_some() && partitions.is_empty() {
        return Ok(topics);
    }
    let request = v1::FetchOffsetsRequest {
        group_id: group.group_id.clone(),
        partitions,
    };
    let fetched = groups.fetch_offsets(&request).await?.offsets.into_iter();
    // Those that are named are checked by now.
    let is_checked = group.topics.is_some();
    for offset in fetched.filter(|offset| is_checked || access.can_see_topic(&offset.topic)) {
        let topic_id = view
            .topic(&offset.topic)
            .map_or(Uuid::nil(), |topic| topic.record.topic_id);
        let name = offset.topic.clone();
        let part = fetched_partition(offset, topic_id);
        match topics.last_mut() {
            Some(topic) if topic.name == name => topic.partitions.push(part),
            _ => topics.push(OffsetFetchResponseTopics {
                name,
                topic_id,
                partitions: vec![part],
            }),
        }
    }
    Ok(topics)
}

/// Returns the answer for a topic of which no offset may be read, or whose id is that of none.
fn failed_topic(topic: &OffsetFetchRequestTopics, error_code: i16) -> OffsetFetchResponseTopics {
    let partitions = topic
        .partition_indexes
        .iter()
        .map(|partition| OffsetFetchResponsePartitions {
            partition_index: *partition,
            committed_offset: -1,
            metadata: Some(String::new()),
            error_code,
            ..OffsetFetchResponsePartitions::default()
        });
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

fn fetched_partition(offset: v1::CommittedOffset, topic_id: Uuid) -> OffsetFetchResponsePartitions {
    let error = offset.error.map(Error::from);
    OffsetFetchResponsePartitions {
        partition_index: offset.partition,
        committed_offset: offset.offset,
        committed_leader_epoch: offset.leader_epoch,
        metadata: Some(offset.metadata),
        error_code: error.map_or(0, |error| partition_code(ErrorFamily::Group, &error, topic_id)),
    }
}
