//! Topics and the cluster: delete, add partitions, describe.

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
        CreatePartitionsTopicResult, DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicsResult,
        DeleteTopicsTopic, DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
        ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
    },
    protocol::v1,
    security::AclOperation,
};
use uuid::Uuid;

use super::{
    access::{OPERATIONS_NOT_ASKED, TOPIC_AUTHORIZATION_FAILED, cluster_operations, topic_refusal},
    assignment, brokers,
    error::{ErrorFamily, kafka_code, result_code},
    metadata::{NamedTopic, UNKNOWN_TOPIC_ID, named_topic, partition_code},
    request::{RepeatedNames, RequestContext},
};
use crate::topics;

/// The endpoints that DescribeCluster lists, and those that it has a code for.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;
const MISMATCHED_ENDPOINT_TYPE: i16 = 114;
const UNSUPPORTED_ENDPOINT_TYPE: i16 = 115;
/// The first versions in which the topics that exceed a quota are refused.
const STRICT_DELETION_VERSION: i16 = 5;
const STRICT_EXTENSION_VERSION: i16 = 3;

/// Serves DeleteTopics.
pub(super) async fn delete_topics(
    context: RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = request.topic_names.into_iter().map(|name| DeleteTopicsTopic {
        name: Some(name),
        topic_id: Uuid::nil(),
    });
    let named: Vec<_> = by_name.chain(request.topics).collect();
    let by_name = named.iter().filter(|topic| topic.topic_id.is_nil());
    let mut names = RepeatedNames::new(by_name.filter_map(|topic| topic.name.as_deref()));
    let mut responses = Vec::with_capacity(named.len());
    for topic in named {
        let invalid = |problem| Err(Error::new(ErrorCode::InvalidRequest, problem));
        let checked = match &topic.name {
            Some(_) if !topic.topic_id.is_nil() => invalid("a topic has either a name or an id"),
            None if topic.topic_id.is_nil() => invalid("a topic needs a name or an id"),
            Some(name) => match names.take(name) {
                None => continue,
                Some(checked) => checked,
            },
            None => Ok(()),
        };
        responses.push(match checked {
            Err(error) => DeleteTopicsResult {
                error_code: kafka_code(ErrorFamily::Admin, &error),
                error_message: Some(error.message().to_owned()),
                topic_id: topic.topic_id,
                name: topic.name,
            },
            Ok(()) => delete_topic(&context, topic).await,
        });
    }
    DeleteTopicsResponse {
        responses,
        ..DeleteTopicsResponse::default()
    }
}

async fn delete_topic(context: &RequestContext, topic: DeleteTopicsTopic) -> DeleteTopicsResult {
    let deps = &context.client.deps;
    let topic_id = topic.topic_id;
    let view = deps.directory.view();
    let topic = named_topic(&view, topic.name.unwrap_or_default(), topic_id);
    if let Some(refused) = refused_deletion(context, &topic, topic_id) {
        return refused;
    }
    let partitions = view
        .topic(&topic.name)
        .map_or(0, |topic| topic.record.partitions.len());
    let deleted = match context.check_mutation(partitions, STRICT_DELETION_VERSION) {
        Ok(()) => topics::delete(&deps.topics, &topic.name).await,
        refused => refused,
    };
    let error = deleted.err();
    DeleteTopicsResult {
        error_code: error
            .as_ref()
            .map_or(0, |error| partition_code(ErrorFamily::Admin, error, topic_id)),
        error_message: error.map(|error| error.message().to_owned()),
        topic_id: view
            .topic(&topic.name)
            .map_or(topic_id, |found| found.record.topic_id),
        name: Some(topic.name).filter(|name| !name.is_empty()),
    }
}

/// Returns the answer for a topic that the client may not delete. Who has named it by its id does
/// not learn its name, and that it exists, unless it may describe the topic.
fn refused_deletion(
    context: &RequestContext,
    topic: &NamedTopic,
    topic_id: Uuid,
) -> Option<DeleteTopicsResult> {
    let access = context.access();
    if access.allows_cluster(AclOperation::Delete) {
        return None;
    }
    topic_refusal(access, AclOperation::Delete, (&topic.name, topic_id))?;
    let is_named = topic_id.is_nil() || access.can_see_topic(&topic.name);
    Some(DeleteTopicsResult {
        error_code: match is_named {
            true => TOPIC_AUTHORIZATION_FAILED,
            false => UNKNOWN_TOPIC_ID,
        },
        topic_id,
        name: is_named.then(|| topic.name.clone()),
        ..DeleteTopicsResult::default()
    })
}

/// Serves CreatePartitions.
pub(super) async fn create_partitions(
    context: RequestContext,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    let mut names = RepeatedNames::new(request.topics.iter().map(|topic| topic.name.as_str()));
    for topic in request.topics {
        let name = topic.name.clone();
        let added = match names.take(&name) {
            None => continue,
            Some(Err(repeated)) => Err(repeated),
            Some(Ok(())) => add_partitions(&context, topic, request.validate_only).await,
        };
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
    context.access().check_topic(AclOperation::Alter, &topic.name)?;
    let deps = &context.client.deps;
    let existing = topics::count_partitions(&deps.topics, &topic.name).await?;
    let existing = i32::try_from(existing).unwrap_or(i32::MAX);
    if topic.count <= existing {
        let message = format!("the topic has {existing} partitions; the count can only grow");
        return Err(Error::new(ErrorCode::InvalidPartitions, message));
    }
    if let Some(assignments) = &topic.assignments {
        let new = usize::try_from(topic.count - existing).unwrap_or_default();
        let brokers = assignments.iter().map(|assignment| &assignment.broker_ids[..]);
        assignment::check(context, new, brokers)?;
    }
    if !validate_only {
        let new = usize::try_from(topic.count - existing).unwrap_or_default();
        context.check_mutation(new, STRICT_EXTENSION_VERSION)?;
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
            true => cluster_operations(context.access()),
            false => OPERATIONS_NOT_ASKED,
        },
        ..DescribeClusterResponse::default()
    };
    if request.endpoint_type != BROKERS {
        response.error_code = match request.endpoint_type {
            CONTROLLERS => MISMATCHED_ENDPOINT_TYPE,
            _ => UNSUPPORTED_ENDPOINT_TYPE,
        };
        response.error_message = Some("there are no controllers apart from the brokers".to_owned());
        response.endpoint_type = BROKERS;
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

/// Serves ListPartitionReassignments: leases move at once, so no partition is ever on its way.
pub(super) async fn list_partition_reassignments(
    context: RequestContext,
    _: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let allowed = context.access().check_cluster(AclOperation::Describe);
    ListPartitionReassignmentsResponse {
        error_code: result_code(ErrorFamily::Admin, &allowed),
        error_message: allowed.err().map(|error| error.message().to_owned()),
        ..ListPartitionReassignmentsResponse::default()
    }
}
