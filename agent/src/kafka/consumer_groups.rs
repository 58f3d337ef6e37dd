//! Groups of the consumer protocol (KIP-848): heartbeats of members, and descriptions.

use std::sync::Arc;

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        ConsumerGroupDescribeAssignment, ConsumerGroupDescribeGroup, ConsumerGroupDescribeMember,
        ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupDescribeTopicPartitions,
        ConsumerGroupHeartbeatAssignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
        ConsumerGroupHeartbeatTopicPartitions,
    },
    security::AclOperation,
};

use super::{
    access::{check_all_topics, group_operations, when_allowed},
    error::{ErrorFamily, kafka_code},
    groups::kafka_host,
    request::{RequestContext, each_once},
};
use crate::groups::consumer::{
    ConsumerGroupView, ConsumerMemberView, HeartbeatReply, JOIN_EPOCH, LEAVE_EPOCH, MemberHeartbeat,
    PartitionSet, STATIC_LEAVE_EPOCH, ServerAssignor, TopicCatalog, partitions_by_topic,
};

/// Kafka's number for members of the consumer protocol.
const CONSUMER_MEMBER: i8 = 1;
/// The first version in which members make their own ids.
const OWN_MEMBER_IDS: i16 = 1;

/// Maximum number of topics that a member subscribes to by name.
const MAX_TOPICS: usize = 20_000;
/// Maximum number of partitions that a member says it has.
const MAX_OWNED_PARTITIONS: usize = 100_000;

/// Serves ConsumerGroupHeartbeat.
pub(super) async fn consumer_group_heartbeat(
    context: RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    match answer_heartbeat(&context, request).await {
        Ok(response) => response,
        Err(error) => ConsumerGroupHeartbeatResponse {
            error_code: kafka_code(ErrorFamily::Group, &error),
            error_message: Some(error.message().to_owned()),
            ..ConsumerGroupHeartbeatResponse::default()
        },
    }
}

async fn answer_heartbeat(
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<ConsumerGroupHeartbeatResponse, Error> {
    check_access(context, &request)?;
    check_request(context.version, &request)?;
    let groups = &context.client.deps.groups;
    let group_id = request.group_id.clone();
    let beat = to_heartbeat(context, request)?;
    let reply = groups.consumer_heartbeat(&group_id, beat).await?;
    let interval = groups.consumer_heartbeat_ms();
    Ok(to_response(reply, interval))
}

/// Checks that the client may be a member of the group, and know of the topics that it wants. What
/// an expression finds is the same for all members of a group, so it needs the right to all topics.
fn check_access(context: &RequestContext, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Error> {
    let access = context.access();
    access.check_group(AclOperation::Read, &request.group_id)?;
    let mut names = request.subscribed_topic_names.iter().flatten();
    names.try_for_each(|name| access.check_topic(AclOperation::Describe, name))?;
    let expression = request.subscribed_topic_regex.as_deref().unwrap_or_default();
    match expression.is_empty() {
        true => Ok(()),
        false => check_all_topics(access, &context.client.deps.directory.view()),
    }
}

/// Checks what a request of this version must have.
fn check_request(version: i16, request: &ConsumerGroupHeartbeatRequest) -> Result<(), Error> {
    let epoch = request.member_epoch;
    let needs_id = version >= OWN_MEMBER_IDS || epoch > 0 || epoch == LEAVE_EPOCH;
    let is_empty = |text: &Option<String>| text.as_deref() == Some("");
    let joins = epoch == JOIN_EPOCH;
    let owns_nothing = request.topic_partitions.as_ref().is_some_and(Vec::is_empty);
    let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
    let problem = if needs_id && request.member_id.is_empty() {
        "MemberId can't be empty."
    } else if request.group_id.is_empty() {
        "GroupId can't be empty."
    } else if is_empty(&request.instance_id) {
        "InstanceId can't be empty."
    } else if is_empty(&request.rack_id) {
        "RackId can't be empty."
    } else if joins && request.rebalance_timeout_ms == -1 {
        "RebalanceTimeoutMs must be provided in first request."
    } else if joins && !owns_nothing {
        "TopicPartitions must be empty when (re-)joining."
    } else if joins && !subscribes {
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    } else if epoch == STATIC_LEAVE_EPOCH && request.instance_id.is_none() {
        "InstanceId can't be null."
    } else if epoch < STATIC_LEAVE_EPOCH {
        "MemberEpoch is invalid."
    } else if request.subscribed_topic_names.as_ref().map_or(0, Vec::len) > MAX_TOPICS {
        "SubscribedTopicNames has too many topics."
    } else if owned_partitions(request) > MAX_OWNED_PARTITIONS {
        "TopicPartitions has too many partitions."
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorCode::InvalidRequest, problem))
}

/// Returns the number of partitions that the member says it has.
fn owned_partitions(request: &ConsumerGroupHeartbeatRequest) -> usize {
    let topics = request.topic_partitions.iter().flatten();
    topics.map(|topic| topic.partitions.len()).sum()
}

fn to_heartbeat(
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> Result<MemberHeartbeat, Error> {
    let assignor = match &request.server_assignor {
        None => None,
        Some(name) => Some(ServerAssignor::from_name(name).ok_or_else(|| unsupported_assignor(name))?),
    };
    let member_id = match request.member_id.is_empty() {
        true => context.client.deps.groups.new_consumer_member_id(),
        false => request.member_id.into(),
    };
    let topics = request.subscribed_topic_names.map(|mut names| {
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(Arc::from).collect()
    });
    let owned = request.topic_partitions.map(|topics| {
        let topics = topics.into_iter();
        topics
            .flat_map(|topic| {
                let partitions = topic.partitions.into_iter();
                partitions.map(move |partition| (topic.topic_id, partition))
            })
            .collect::<PartitionSet>()
    });
    Ok(MemberHeartbeat {
        member_id,
        epoch: request.member_epoch,
        instance: request.instance_id.map(Arc::from),
        rack: request.rack_id.map(Arc::from),
        rebalance_ms: Some(request.rebalance_timeout_ms)
            .filter(|timeout| *timeout != -1)
            .map(i64::from),
        topics,
        pattern: request.subscribed_topic_regex.map(Arc::from),
        assignor,
        owned,
        client_id: context.client_id.as_str().into(),
        client_host: context.client.host().into(),
    })
}

fn to_response(reply: HeartbeatReply, interval_ms: i32) -> ConsumerGroupHeartbeatResponse {
    let assignment = reply.assignment.map(|partitions| {
        let topics = partitions_by_topic(partitions.into_iter()).into_iter();
        let topic_partitions = topics
            .map(|(topic_id, partitions)| ConsumerGroupHeartbeatTopicPartitions { topic_id, partitions });
        ConsumerGroupHeartbeatAssignment {
            topic_partitions: topic_partitions.collect(),
        }
    });
    ConsumerGroupHeartbeatResponse {
        member_id: Some(reply.member_id.to_string()),
        member_epoch: reply.epoch,
        heartbeat_interval_ms: if reply.epoch < 0 { 0 } else { interval_ms },
        assignment,
        ..ConsumerGroupHeartbeatResponse::default()
    }
}

fn unsupported_assignor(name: &str) -> Error {
    let supported = ServerAssignor::ALL.map(ServerAssignor::name).join(", ");
    let message = format!("ServerAssignor {name} is not supported. Supported assignors: {supported}.");
    Error::new(ErrorCode::UnsupportedAssignor, message)
}

/// Serves ConsumerGroupDescribe.
pub(super) async fn consumer_group_describe(
    context: RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let deps = &context.client.deps;
    let catalog = deps.groups.deps().cluster.catalog();
    let group_ids = each_once(request.group_ids, String::clone);
    let mut groups = Vec::with_capacity(group_ids.len());
    for group_id in group_ids {
        let allowed = context.access().check_group(AclOperation::Describe, &group_id);
        let described = when_allowed(allowed, deps.groups.describe_consumer_group(&group_id)).await;
        let described = described.map(|view| described_group(view, &*catalog));
        let mut group = match described.and_then(|group| visible_group(&context, group)) {
            Ok(group) => group,
            Err(error) => ConsumerGroupDescribeGroup {
                error_code: kafka_code(ErrorFamily::Group, &error),
                error_message: Some(error.message().to_owned()),
                ..ConsumerGroupDescribeGroup::default()
            },
        };
        let is_asked = request.include_authorized_operations;
        group.authorized_operations = group_operations(context.access(), &group_id, is_asked);
        group.group_id = group_id;
        groups.push(group);
    }
    ConsumerGroupDescribeResponse {
        groups,
        ..ConsumerGroupDescribeResponse::default()
    }
}

/// Returns a group, if the client may know of all its topics.
fn visible_group(
    context: &RequestContext,
    group: ConsumerGroupDescribeGroup,
) -> Result<ConsumerGroupDescribeGroup, Error> {
    let mut members = group.members.iter();
    let is_all_visible = members.all(|member| {
        let assigned = member.assignment.topic_partitions.iter();
        let assigned = assigned.chain(&member.target_assignment.topic_partitions);
        let mut names = assigned
            .map(|assigned| &assigned.topic_name)
            .chain(&member.subscribed_topic_names);
        names.all(|name| context.access().can_see_topic(name))
    });
    match is_all_visible {
        true => Ok(group),
        false => Err(Error::new(
            ErrorCode::TopicAuthorizationFailed,
            "The group has described topic(s) that the client is not authorized to describe.",
        )),
    }
}

fn described_group(view: ConsumerGroupView, catalog: &dyn TopicCatalog) -> ConsumerGroupDescribeGroup {
    let members = view.members.into_iter();
    ConsumerGroupDescribeGroup {
        group_state: view.state.to_owned(),
        group_epoch: view.epoch,
        assignment_epoch: view.assignment_epoch,
        assignor_name: view.assignor.to_owned(),
        members: members.map(|member| described_member(member, catalog)).collect(),
        ..ConsumerGroupDescribeGroup::default()
    }
}

fn described_member(member: ConsumerMemberView, catalog: &dyn TopicCatalog) -> ConsumerGroupDescribeMember {
    let owned = |text: &Arc<str>| text.to_string();
    ConsumerGroupDescribeMember {
        member_id: member.member_id.to_string(),
        instance_id: member.instance.as_ref().map(owned),
        rack_id: member.rack.as_ref().map(owned),
        member_epoch: member.epoch,
        client_id: member.client_id.to_string(),
        client_host: kafka_host(&member.client_host),
        subscribed_topic_names: member.topics.iter().map(owned).collect(),
        subscribed_topic_regex: member.pattern.as_ref().map(owned),
        assignment: described_partitions(&member.assigned, catalog),
        target_assignment: described_partitions(&member.target, catalog),
        member_type: CONSUMER_MEMBER,
    }
}

/// Describes the partitions of topics that still exist.
fn described_partitions(
    partitions: &PartitionSet,
    catalog: &dyn TopicCatalog,
) -> ConsumerGroupDescribeAssignment {
    let topics = partitions_by_topic(partitions.iter().copied()).into_iter();
    let described = topics.filter_map(|(topic_id, partitions)| {
        Some(ConsumerGroupDescribeTopicPartitions {
            topic_id,
            topic_name: catalog.topic_name(topic_id)?.to_owned(),
            partitions,
        })
    });
    ConsumerGroupDescribeAssignment {
        topic_partitions: described.collect(),
    }
}
