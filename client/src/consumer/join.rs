//! One join of a group: requests a member id, sends JoinGroup, computes the assignment as the group
//! leader, sends SyncGroup. The membership driver runs it; the state machine decides when and with
//! what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use streamhouse_core::{
    ErrorCode, TopicPartition,
    consumer_protocol::{ConsumerAssignment as AssignmentBytes, ConsumerSubscription, PROTOCOL_TYPE},
    protocol::v1,
};
use tokio::time::Instant;

use super::{
    ConsumerShared,
    assignors::{Assignor, MemberSubscription},
    membership::{JoinOrder, MemberIdentity},
};
use crate::{
    connection,
    error::{Error, Result},
    retry::{Deadline, wire_ms},
};

/// Time added to the rebalance time-out for the answer to a join to arrive.
const JOIN_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);
/// How long the group leader waits for a topic's metadata before it assigns the other topics
/// without it.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// Result of a join.
#[derive(Debug, Clone)]
pub(super) struct JoinOutcome {
    pub(super) assignor: Assignor,
    pub(super) partitions: Vec<TopicPartition>,
    /// The topics that this member assigned as the group leader.
    pub(super) assigned_topics: Option<AssignedTopics>,
}

/// The topics that a group leader assigned: number of partitions (0 if the topic does not exist)
/// and topic id.
pub(super) type AssignedTopics = BTreeMap<String, (i32, Arc<str>)>;

/// Joins the group once. Passes the member id and the new generation to the state machine as soon
/// as they are known.
pub(super) async fn join_group(shared: Arc<ConsumerShared>, mut order: JoinOrder) -> Result<JoinOutcome> {
    let config = &shared.config;
    if order.member_id.is_empty() && config.group_instance_id.is_none() {
        order.member_id = request_member_id(&shared, &order).await?;
    }
    let answer = call_join(&shared, &order).await?;
    let (member_id, generation) = (answer.member_id.clone(), answer.generation);
    let identity = MemberIdentity {
        member_id: member_id.clone(),
        generation,
    };
    shared.update_member(|member| member.handle_join_response(order.serial, identity, Instant::now()));
    let assignor = Assignor::from_name(&answer.protocol_name)
        .filter(|assignor| config.assignors.contains(assignor))
        .ok_or_else(|| unknown_protocol(&answer.protocol_name))?;
    let mut shared_topics = None;
    let mut assignments = Vec::new();
    if answer.leader == member_id {
        let members = members_of(&answer)?;
        let topics = topic_sizes(&shared, &members).await;
        let sizes = topics.iter().map(|(topic, (size, _))| (topic.clone(), *size));
        assignments = encode_assignments(assignor.assign(&members, &sizes.collect()));
        shared_topics = Some(topics);
    }
    let request = v1::SyncGroupRequest {
        group_id: shared.group().to_owned(),
        generation,
        member_id,
        group_instance_id: config.group_instance_id.clone().unwrap_or_default(),
        assignments,
    };
    let synced = call_sync(&shared, request).await?;
    Ok(JoinOutcome {
        assignor,
        partitions: decode_assignment(&synced.assignment)?,
        assigned_topics: shared_topics,
    })
}

/// Requests a member id before the join, so that the member can always leave the group, even while
/// a rebalance waits for others.
async fn request_member_id(shared: &ConsumerShared, order: &JoinOrder) -> Result<String> {
    // An agent that does not assign ids first has let the member in, which then joins again under
    // its id.
    let answer = call_join(shared, order).await?;
    shared.update_member(|member| member.set_member_id(order.serial, &answer.member_id));
    Ok(answer.member_id)
}

async fn call_join(shared: &ConsumerShared, order: &JoinOrder) -> Result<v1::JoinGroupResponse> {
    let request = join_request(shared, order);
    let answer_within = shared.config.max_poll_interval + JOIN_TIMEOUT_MARGIN;
    let deadline = Deadline::after(answer_within * 2);
    let join = |channel| {
        let request = request.clone();
        async move { connection::group_client(channel).join_group(request).await }
    };
    shared
        .client
        .call_coordinator_with_timeout(shared.group(), "joining the group", deadline, answer_within, join)
        .await
}

async fn call_sync(shared: &ConsumerShared, request: v1::SyncGroupRequest) -> Result<v1::SyncGroupResponse> {
    let answer_within = shared.config.max_poll_interval + JOIN_TIMEOUT_MARGIN;
    let deadline = Deadline::after(answer_within);
    let sync = |channel| {
        let request = request.clone();
        async move { connection::group_client(channel).sync_group(request).await }
    };
    shared
        .client
        .call_coordinator_with_timeout(
            shared.group(),
            "waiting for the assignment",
            deadline,
            answer_within,
            sync,
        )
        .await
}

fn encode_assignments(shares: BTreeMap<String, Vec<TopicPartition>>) -> Vec<v1::MemberAssignment> {
    let share = |(member_id, partitions)| v1::MemberAssignment {
        member_id,
        assignment: AssignmentBytes {
            partitions,
            user_data: None,
        }
        .encode(),
    };
    shares.into_iter().map(share).collect()
}

fn join_request(shared: &ConsumerShared, order: &JoinOrder) -> v1::JoinGroupRequest {
    let config = &shared.config;
    let subscription = ConsumerSubscription {
        topics: order.topics.clone(),
        user_data: None,
        owned: order.owned.clone(),
        generation: (order.generation >= 0).then_some(order.generation),
    };
    let protocol = |assignor: &Assignor| v1::GroupProtocol {
        name: assignor.name().to_owned(),
        metadata: subscription.encode(),
    };
    v1::JoinGroupRequest {
        group_id: shared.group().to_owned(),
        member_id: order.member_id.clone(),
        group_instance_id: config.group_instance_id.clone().unwrap_or_default(),
        client_id: shared.client.config().client_id.clone(),
        protocol_type: PROTOCOL_TYPE.to_owned(),
        protocols: config.assignors.iter().map(protocol).collect(),
        session_timeout_ms: wire_ms(config.session_timeout),
        rebalance_timeout_ms: wire_ms(config.max_poll_interval),
        require_known_member_id: order.member_id.is_empty() && config.group_instance_id.is_none(),
    }
}

fn unknown_protocol(name: &str) -> Error {
    streamhouse_core::Error::new(
        ErrorCode::InconsistentGroupProtocol,
        format!(
            "the group chose the assignor {name:?}, which this consumer does not offer; add it to assignors"
        ),
    )
    .into()
}

/// Converts the members of a join for the assignors.
fn members_of(answer: &v1::JoinGroupResponse) -> Result<Vec<MemberSubscription>> {
    let member = |member: &v1::JoinedMember| {
        let subscription = ConsumerSubscription::decode(member.metadata.clone())?;
        let instance_id = Some(member.group_instance_id.clone()).filter(|id| !id.is_empty());
        Ok(MemberSubscription {
            id: member.member_id.clone(),
            instance_id,
            topics: subscription.topics,
            owned: subscription.owned,
            generation: subscription.generation,
        })
    };
    answer.members.iter().map(member).collect()
}

/// Returns the number of partitions and the id of every subscribed topic.
async fn topic_sizes(shared: &ConsumerShared, members: &[MemberSubscription]) -> AssignedTopics {
    let topics: BTreeSet<&String> = members.iter().flat_map(|member| &member.topics).collect();
    let deadline = Deadline::after(METADATA_TIMEOUT);
    let mut sizes = BTreeMap::new();
    for topic in topics {
        let size = shared
            .client
            .wait_for_partitions(topic, deadline, Duration::ZERO)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(topic, %error, "assigning partitions without a topic whose metadata is unavailable");
                0
            });
        sizes.insert(topic.clone(), (size, shared.client.cache().topic_id(topic)));
    }
    sizes
}

/// Decodes an assignment into sorted partitions.
fn decode_assignment(bytes: &Bytes) -> Result<Vec<TopicPartition>> {
    let mut partitions = AssignmentBytes::decode(bytes.clone())?.partitions;
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}
