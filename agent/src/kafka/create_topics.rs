//! CreateTopics. Any number of replicas is accepted: the object store replicates.

use std::collections::{BTreeMap, HashMap};

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        CreateTopicsConfig, CreateTopicsConfigResult, CreateTopicsReplicaAssignment, CreateTopicsRequest,
        CreateTopicsResponse, CreateTopicsTopic, CreateTopicsTopicResult,
    },
    protocol::v1,
    security::{AclOperation, AclResourceType},
};
use uuid::Uuid;

use super::{
    access::TOPIC_AUTHORIZATION_FAILED,
    assignment, configs,
    error::{ErrorFamily, kafka_code},
    request::{RepeatedNames, RequestContext},
};
use crate::topics;

/// Partitions of a topic whose creator leaves the number to the cluster.
const DEFAULT_PARTITIONS: i32 = 1;
/// What stands for the cluster's number of partitions or replicas.
const CLUSTER_DEFAULT: i16 = -1;
/// Copies of a partition as clients are told: the object store keeps them.
const REPLICATION_FACTOR: i16 = 1;
/// The first version in which the topics that exceed a quota are refused.
const STRICT_QUOTA_VERSION: i16 = 6;

/// Serves CreateTopics.
pub(super) async fn create_topics(
    context: RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut names = RepeatedNames::new(request.topics.iter().map(|topic| topic.name.as_str()));
    for topic in request.topics {
        let name = topic.name.clone();
        let created = match names.take(&name) {
            None => continue,
            Some(Err(repeated)) => Err(repeated),
            Some(Ok(())) => create_topic(&context, topic, request.validate_only).await,
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
    context.access().check_creation(&topic.name)?;
    let deps = &context.client.deps;
    let request = v1::CreateTopicRequest {
        partitions: partition_count(context, &topic)?,
        config: settings(topic.configs)?,
        name: topic.name,
        validate_only,
    };
    if !validate_only {
        let partitions = usize::try_from(request.partitions).unwrap_or_default();
        context.check_mutation(partitions, STRICT_QUOTA_VERSION)?;
    }
    let created = topics::create(&deps.topics, request).await?;
    let result = CreateTopicsTopicResult {
        topic_id: created.topic_id.parse().unwrap_or(Uuid::nil()),
        name: created.name.clone(),
        ..CreateTopicsTopicResult::default()
    };
    let (operation, topic) = (AclOperation::DescribeConfigs, AclResourceType::Topic);
    if !context.access().allows(operation, topic, &created.name) {
        return Ok(CreateTopicsTopicResult {
            topic_config_error_code: TOPIC_AUTHORIZATION_FAILED,
            ..result
        });
    }
    let configs =
        configs::topic_settings(&created).map(|(name, value, config_source)| CreateTopicsConfigResult {
            name,
            value: Some(value),
            read_only: false,
            config_source,
            is_sensitive: false,
        });
    Ok(CreateTopicsTopicResult {
        num_partitions: i32::try_from(created.partitions.len()).unwrap_or(i32::MAX),
        replication_factor: REPLICATION_FACTOR,
        configs: Some(configs.collect()),
        ..result
    })
}

/// Returns the settings of a new topic; the last value of each counts.
fn settings(configs: Vec<CreateTopicsConfig>) -> Result<HashMap<String, String>, Error> {
    let configs = configs.into_iter().map(|config| match config.value {
        Some(value) => Ok((config.name, value)),
        None => {
            let message = format!("{}: a setting of a new topic has a value", config.name);
            Err(Error::new(ErrorCode::InvalidConfig, message))
        }
    });
    configs.collect()
}

/// Returns the number of partitions that a topic will have.
fn partition_count(context: &RequestContext, topic: &CreateTopicsTopic) -> Result<i32, Error> {
    let (partitions, replicas) = (topic.num_partitions, topic.replication_factor);
    if !topic.assignments.is_empty() {
        if partitions != i32::from(CLUSTER_DEFAULT) || replicas != CLUSTER_DEFAULT {
            let message = "with an assignment, the numbers of partitions and replicas are -1";
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        return assigned_partitions(context, &topic.assignments);
    }
    if replicas <= 0 && replicas != CLUSTER_DEFAULT {
        let message = "the replication factor is at least 1, or -1 for the default";
        return Err(Error::new(ErrorCode::InvalidReplicationFactor, message));
    }
    match partitions {
        -1 => Ok(DEFAULT_PARTITIONS),
        partitions => Ok(partitions),
    }
}

fn assigned_partitions(
    context: &RequestContext,
    assignments: &[CreateTopicsReplicaAssignment],
) -> Result<i32, Error> {
    let mut brokers = BTreeMap::new();
    for assigned in assignments {
        let index = assigned.partition_index;
        if brokers.insert(index, &assigned.broker_ids[..]).is_some() {
            return Err(assignment::invalid(format!(
                "partition {index} is assigned twice"
            )));
        }
    }
    let count = i32::try_from(brokers.len()).unwrap_or(i32::MAX);
    if !brokers.keys().copied().eq(0..count) {
        let problem = "the numbers of the partitions do not go up from 0 by 1";
        return Err(assignment::invalid(problem.to_owned()));
    }
    assignment::check(context, brokers.len(), brokers.into_values())?;
    Ok(count)
}
