//! DescribeTopicPartitions: topics and their partitions, page by page.

use std::collections::BTreeSet;

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        DescribeTopicPartitionsCursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        MetadataResponsePartition,
    },
    security::{AclOperation, AclResourceType},
};
use uuid::Uuid;

use super::{
    access::{OPERATIONS_NOT_ASKED, TOPIC_AUTHORIZATION_FAILED, authorized_operations, refused_topics},
    error::{ErrorFamily, kafka_code},
    metadata::{DescribedCluster, LISTENER_NOT_FOUND, missing_topic_code},
    request::RequestContext,
};
use crate::directory::{ClusterView, DirectoryTopic};

/// The most partitions of one answer: Kafka's `max.request.partition.size.limit`.
const MAX_PARTITIONS: i32 = 2_000;

/// Serves DescribeTopicPartitions.
pub(super) async fn describe_topic_partitions(
    context: RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let deps = &context.client.deps;
    let mut view = deps.directory.view();
    let named = request.topics.iter().map(|topic| topic.name.as_str());
    let refused = refused_topics(context.access(), AclOperation::Describe, named.clone());
    let mut visible = named.filter(|name| !refused.contains(name));
    let unknown = visible.any(|name| view.topic(name).is_none());
    if view.version == 0 || unknown {
        view = deps.directory.refresh().await;
    }
    match wanted_topics(&context, &view, &request) {
        Ok(wanted) => {
            let is_refused = |name: &String| refused.contains(name.as_str());
            let (refused, wanted) = wanted.into_iter().partition(is_refused);
            let mut page = describe_page(&context, &view, wanted, &request);
            page.topics.extend(refused_descriptions(refused));
            page
        }
        Err(error) => DescribeTopicPartitionsResponse {
            topics: request
                .topics
                .into_iter()
                .map(|topic| DescribeTopicPartitionsResponseTopic {
                    error_code: kafka_code(ErrorFamily::Admin, &error),
                    name: Some(topic.name),
                    topic_authorized_operations: OPERATIONS_NOT_ASKED,
                    ..DescribeTopicPartitionsResponseTopic::default()
                })
                .collect(),
            ..DescribeTopicPartitionsResponse::default()
        },
    }
}

/// Returns the names of the topics that are asked for, from the cursor on.
fn wanted_topics(
    context: &RequestContext,
    view: &ClusterView,
    request: &DescribeTopicPartitionsRequest,
) -> Result<BTreeSet<String>, Error> {
    let from = request.cursor.as_ref().map_or("", |cursor| &cursor.topic_name);
    if request
        .cursor
        .as_ref()
        .is_some_and(|cursor| cursor.partition_index < 0)
    {
        let message = "the partition of the cursor is negative";
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    if request.topics.is_empty() {
        let topics = view.topics().filter(|topic| !topic.record.internal);
        let topics = topics.filter(|topic| context.access().can_see_topic(&topic.record.name));
        let names = topics.map(|topic| topic.record.name.clone());
        return Ok(names.filter(|name| name.as_str() >= from).collect());
    }
    let names = request.topics.iter().map(|topic| topic.name.clone());
    let names: BTreeSet<String> = names.filter(|name| name.as_str() >= from).collect();
    if !from.is_empty() && !names.contains(from) {
        let message = format!("the topic of the cursor, {from:?}, is not one of those that are asked for");
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    Ok(names)
}

fn describe_page(
    context: &RequestContext,
    view: &ClusterView,
    wanted: BTreeSet<String>,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let cluster = DescribedCluster::new(view, context, LISTENER_NOT_FOUND);
    let limit = request.response_partition_limit.clamp(1, MAX_PARTITIONS);
    let mut left = usize::try_from(limit).unwrap_or(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in wanted {
        let first = first_partition(&name, request.cursor.as_ref());
        let found = view.topic(&name).filter(|topic| !topic.record.internal);
        let Some(topic) = found else {
            response.topics.push(missing_topic(context, name));
            continue;
        };
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let partitions = described_partitions(&cluster, topic, first, left);
        left -= partitions.len();
        let next = first.saturating_add(partitions.len());
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.clone()),
            topic_id: topic.record.topic_id,
            partitions,
            topic_authorized_operations: topic_operations(context, &name),
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        if next < topic.record.partitions.len() {
            response.next_cursor = Some(cursor(name, next));
            break;
        }
    }
    response
}

fn first_partition(topic: &str, cursor: Option<&DescribeTopicPartitionsCursor>) -> usize {
    let cursor = cursor.filter(|cursor| cursor.topic_name == topic);
    cursor.map_or(0, |cursor| {
        usize::try_from(cursor.partition_index).unwrap_or_default()
    })
}

fn cursor(topic_name: String, partition: usize) -> DescribeTopicPartitionsCursor {
    DescribeTopicPartitionsCursor {
        topic_name,
        partition_index: i32::try_from(partition).unwrap_or(i32::MAX),
    }
}

fn topic_operations(context: &RequestContext, name: &str) -> i32 {
    authorized_operations(context.access(), AclResourceType::Topic, name)
}

/// Returns the answers for topics of which the client may not know whether they exist.
fn refused_descriptions(
    names: BTreeSet<String>,
) -> impl Iterator<Item = DescribeTopicPartitionsResponseTopic> {
    names
        .into_iter()
        .map(|name| DescribeTopicPartitionsResponseTopic {
            error_code: TOPIC_AUTHORIZATION_FAILED,
            name: Some(name),
            topic_authorized_operations: OPERATIONS_NOT_ASKED,
            ..DescribeTopicPartitionsResponseTopic::default()
        })
}

fn missing_topic(context: &RequestContext, name: String) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: missing_topic_code(Some(&name), Uuid::nil()),
        topic_authorized_operations: topic_operations(context, &name),
        name: Some(name),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn described_partitions(
    cluster: &DescribedCluster<'_>,
    topic: &DirectoryTopic,
    first: usize,
    limit: usize,
) -> Vec<DescribeTopicPartitionsResponsePartition> {
    let partitions = (0_i32..).zip(&topic.record.partitions).skip(first).take(limit);
    let partitions = partitions.map(|(index, record)| {
        let MetadataResponsePartition {
            error_code,
            partition_index,
            leader_id,
            leader_epoch,
            replica_nodes,
            isr_nodes,
            offline_replicas,
        } = cluster.partition(index, record);
        DescribeTopicPartitionsResponsePartition {
            error_code,
            partition_index,
            leader_id,
            leader_epoch,
            replica_nodes,
            isr_nodes,
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            offline_replicas,
        }
    });
    partitions.collect()
}
