//! Topics and the cluster: create, delete, add partitions, describe.

use std::collections::HashMap;

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
        CreatePartitionsTopicResult, CreateTopicsConfigResult, CreateTopicsRequest, CreateTopicsResponse,
        CreateTopicsTopic, CreateTopicsTopicResult, DeleteTopicsRequest, DeleteTopicsResponse,
        DeleteTopicsResult, DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
    },
    protocol::v1,
};
use uuid::Uuid;

use super::{
    brokers, configs,
    error::{ErrorFamily, UNSUPPORTED_VERSION, kafka_code, result_code},
    metadata::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, named_topic, partition_code},
    request::RequestContext,
};
use crate::topics;

/// Partitions of a topic whose creator leaves the number to the cluster.
const DEFAULT_PARTITIONS: i32 = 1;
/// Copies of a partition as clients are told: the object store keeps them.
const REPLICATION_FACTOR: i16 = 1;
/// The endpoints that DescribeCluster lists.
const BROKERS: i8 = 1;

/// Serves CreateTopics. Any number of replicas is accepted: the object store replicates.
pub(super) async fn create_topics(
    context: RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut names = HashMap::<String, usize>::new();
    for topic in &request.topics {
        *names.entry(topic.name.clone()).or_default() += 1;
    }
    for topic in request.topics {
        let name = topic.name.clone();
        let created = if names.get(&name) > Some(&1) {
            let message = "the request names the topic more than once";
            Err(Error::new(ErrorCode::InvalidRequest, message))
        } else {
            create_topic(&context, topic, request.validate_only).await
        };
        topics.push(created.unwrap_or_else(|error| CreateTopicsTopicResult {
            name,
            error_code: kafka_code(ErrorFamily::Admin, &error),
            error_message: Some(error.message().to_owned()),
            ..CreateTopicsTopicResult::default()
        }));
    }
    CreateTopicsResponse {
        topics,
        ..CreateTopicsResponse::default()
    }
}

async fn create_topic(
    context: &RequestContext,
    topic: CreateTopicsTopic,
    validate_only: bool,
) -> Result<CreateTopicsTopicResult, Error> {
    let deps = &context.client.deps;
    let partitions = match topic.num_partitions {
        // Brokers named by the client are not kept: agents share the partitions among them.
        -1 if !topic.assignments.is_empty() => i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX),
        -1 => DEFAULT_PARTITIONS,
        partitions => partitions,
    };
    let config = topic.configs.into_iter();
    let request = v1::CreateTopicRequest {
        name: topic.name,
        partitions,
        config: config
            .filter_map(|config| Some((config.name, config.value?)))
            .collect(),
        validate_only,
    };
    let created = topics::create(&deps.topics, request).await?;
    let configs = configs::topic_settings(&created).map(|setting| CreateTopicsConfigResult {
        name: setting.name,
        value: Some(setting.value),
        read_only: false,
        config_source: setting.source,
        is_sensitive: false,
    });
    Ok(CreateTopicsTopicResult {
        topic_id: created.topic_id.parse().unwrap_or(Uuid::nil()),
        num_partitions: i32::try_from(created.partitions.len()).unwrap_or(i32::MAX),
        replication_factor: REPLICATION_FACTOR,
        configs: Some(configs.collect()),
        name: created.name,
        ..CreateTopicsTopicResult::default()
    })
}

/// Serves DeleteTopics.
pub(super) async fn delete_topics(
    context: RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let deps = &context.client.deps;
    let by_name = request.topic_names.into_iter().map(|name| (name, Uuid::nil()));
    let by_either = request
        .topics
        .into_iter()
        .map(|topic| (topic.name.unwrap_or_default(), topic.topic_id));
    let mut responses = Vec::new();
    for (name, topic_id) in by_name.chain(by_either) {
        let view = deps.directory.view();
        let topic = named_topic(&view, name, topic_id);
        let deleted = topics::delete(&deps.topics, &topic.name).await;
        let error = deleted.err();
        responses.push(DeleteTopicsResult {
            error_code: error
                .as_ref()
                .map_or(0, |error| partition_code(ErrorFamily::Admin, error, topic_id)),
            error_message: error.map(|error| error.message().to_owned()),
            topic_id: view
                .topic(&topic.name)
                .map_or(topic_id, |found| found.record.topic_id),
            name: Some(topic.name).filter(|name| !name.is_empty()),
        });
    }
    DeleteTopicsResponse {
        responses,
        ..DeleteTopicsResponse::default()
    }
}

/// Serves CreatePartitions.
pub(super) async fn create_partitions(
    context: RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = topic.name.clone();
        let added = add_partitions(&context, topic, request.validate_only).await;
        results.push(CreatePartitionsTopicResult {
            name,
            error_code: result_code(ErrorFamily::Admin, &added),
            error_message: added.err().map(|error| error.message().to_owned()),
        });
    }
    CreatePartitionsResponse {
        results,
        ..CreatePartitionsResponse::default()
    }
}

async fn add_partitions(
    context: &RequestContext,
    topic: CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Error> {
    let deps = &context.client.deps;
    let described = topics::describe(&deps.topics, &topic.name).await?;
    let existing = i32::try_from(described.partitions.len()).unwrap_or(i32::MAX);
    if topic.count <= existing {
        let message = format!("the topic has {existing} partitions; the count can only grow");
        return Err(Error::new(ErrorCode::InvalidPartitions, message));
    }
    let request = v1::AlterTopicRequest {
        name: topic.name,
        partitions: topic.count,
        validate_only,
        ..v1::AlterTopicRequest::default()
    };
    topics::alter(&deps.topics, request).await.map(drop)
}

/// Serves DescribeCluster.
pub(super) async fn describe_cluster(
    context: RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let view = context.client.deps.directory.view();
    let brokers = brokers::all(&view, &context.client.addresses);
    let mut response = DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id: view.cluster_id.clone(),
        controller_id: brokers.first().map_or(-1, |broker| broker.node_id),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        },
        ..DescribeClusterResponse::default()
    };
    if request.endpoint_type != BROKERS {
        response.error_code = UNSUPPORTED_VERSION;
        response.error_message = Some("there are no controllers apart from the brokers".to_owned());
        return response;
    }
    let brokers = brokers.into_iter().map(|broker| DescribeClusterBroker {
        broker_id: broker.node_id,
        host: broker.host,
        port: broker.port,
        rack: broker.rack,
        is_fenced: false,
    });
    response.brokers = brokers.collect();
    response
}
