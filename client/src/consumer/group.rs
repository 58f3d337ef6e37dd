//! Joining a group: JoinGroup, the leader's assignment, SyncGroup, as often as the group's changes make it necessary.
//! Runs as a task beside `poll`; it changes nothing of the consumer but tells what came out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use streamhouse_core::{
    ErrorCode, TopicPartition,
    consumer_protocol::{Assignment as AssignmentBytes, PROTOCOL_TYPE, Subscription},
    protocol::v1,
};

use super::{
    Shared,
    assignors::{Assignor, Member},
};
use crate::{
    connection,
    error::{Error, Result},
    retry::{Deadline, wire_ms},
};

/// Beyond the rebalance time-out, for the answer of a join to arrive.
const JOIN_MARGIN: Duration = Duration::from_secs(5);
/// How long the leader waits for a topic's metadata before it shares the others without it.
const METADATA_WITHIN: Duration = Duration::from_secs(5);

/// What the member brings to a join.
#[derive(Debug, Clone)]
pub(super) struct Joining {
    pub(super) group: String,
    pub(super) topics: Vec<String>,
    pub(super) member_id: String,
    /// What it holds (cooperative only), and since which generation.
    pub(super) owned: Vec<TopicPartition>,
    pub(super) generation: i32,
}

/// What came out of a join.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) member_id: String,
    pub(super) generation: i32,
    pub(super) assignor: Assignor,
    pub(super) partitions: Vec<TopicPartition>,
    /// For the leader: the topics it shared, with their partitions.
    pub(super) shared_topics: Option<BTreeMap<String, i32>>,
}

/// Joins until it succeeds or cannot.
pub(super) async fn join(shared: Arc<Shared>, mut joining: Joining) -> Result<Joined> {
    let mut backoff = shared.client.backoff();
    loop {
        let error = match join_once(&shared, &mut joining).await {
            Ok(joined) => return Ok(joined),
            Err(error) => error,
        };
        match error.code() {
            ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired => {}
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                // The group went on: what was held is gone, and the name with it.
                joining.member_id.clear();
                joining.owned.clear();
                joining.generation = -1;
            }
            _ if error.is_retryable() => {}
            _ => return Err(error),
        }
        tracing::debug!(%error, group = joining.group, "joining again");
        tokio::time::sleep(backoff.next(Duration::ZERO)).await;
    }
}

async fn join_once(shared: &Shared, joining: &mut Joining) -> Result<Joined> {
    let config = &shared.config;
    let request = join_request(shared, joining);
    let answer_within = config.max_poll_interval + JOIN_MARGIN;
    let deadline = Deadline::after(answer_within * 2);
    let join = |channel| {
        let request = request.clone();
        async move { connection::group(channel).join_group(request).await }
    };
    let answer = shared
        .client
        .call_coordinator_for(&joining.group, "joining the group", deadline, answer_within, join)
        .await?;
    joining.member_id = answer.member_id.clone();
    let assignor = Assignor::from_name(&answer.protocol_name)
        .filter(|assignor| config.assignors.contains(assignor))
        .ok_or_else(|| unknown_protocol(&answer.protocol_name))?;
    let mut shared_topics = None;
    let mut assignments = Vec::new();
    if answer.leader == answer.member_id {
        let members = members_of(&answer)?;
        let topics = topic_sizes(shared, &members).await;
        for (member_id, partitions) in assignor.assign(&members, &topics) {
            let assignment = AssignmentBytes {
                partitions,
                user_data: None,
            }
            .encode();
            assignments.push(v1::MemberAssignment {
                member_id,
                assignment,
            });
        }
        shared_topics = Some(topics);
    }
    let request = v1::SyncGroupRequest {
        group_id: joining.group.clone(),
        generation: answer.generation,
        member_id: answer.member_id.clone(),
        group_instance_id: config.group_instance_id.clone().unwrap_or_default(),
        assignments,
    };
    let sync = |channel| {
        let request = request.clone();
        async move { connection::group(channel).sync_group(request).await }
    };
    let deadline = Deadline::after(answer_within);
    let synced = shared
        .client
        .call_coordinator_for(
            &joining.group,
            "waiting for the assignment",
            deadline,
            answer_within,
            sync,
        )
        .await?;
    Ok(Joined {
        member_id: answer.member_id,
        generation: answer.generation,
        assignor,
        partitions: decode_assignment(&synced.assignment)?,
        shared_topics,
    })
}

fn join_request(shared: &Shared, joining: &Joining) -> v1::JoinGroupRequest {
    let config = &shared.config;
    let subscription = Subscription {
        topics: joining.topics.clone(),
        user_data: None,
        owned: joining.owned.clone(),
        generation: (joining.generation >= 0).then_some(joining.generation),
    };
    let protocol = |assignor: &Assignor| v1::GroupProtocol {
        name: assignor.name().to_owned(),
        metadata: subscription.encode(),
    };
    v1::JoinGroupRequest {
        group_id: joining.group.clone(),
        member_id: joining.member_id.clone(),
        group_instance_id: config.group_instance_id.clone().unwrap_or_default(),
        client_id: shared.client.settings().client_id.clone(),
        protocol_type: PROTOCOL_TYPE.to_owned(),
        protocols: config.assignors.iter().map(protocol).collect(),
        session_timeout_ms: wire_ms(config.session_timeout),
        rebalance_timeout_ms: wire_ms(config.max_poll_interval),
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

/// The members of a join, as the assignors take them.
fn members_of(answer: &v1::JoinGroupResponse) -> Result<Vec<Member>> {
    let member = |member: &v1::JoinedMember| {
        let subscription = Subscription::decode(member.metadata.clone())?;
        let instance_id = Some(member.group_instance_id.clone()).filter(|id| !id.is_empty());
        Ok(Member {
            id: member.member_id.clone(),
            instance_id,
            topics: subscription.topics,
            owned: subscription.owned,
            generation: subscription.generation,
        })
    };
    answer.members.iter().map(member).collect()
}

/// The number of partitions of every topic that a member wants; 0 for one that does not exist (yet).
async fn topic_sizes(shared: &Shared, members: &[Member]) -> BTreeMap<String, i32> {
    let topics: BTreeSet<&String> = members.iter().flat_map(|member| &member.topics).collect();
    let deadline = Deadline::after(METADATA_WITHIN);
    let mut sizes = BTreeMap::new();
    for topic in topics {
        let size = shared
            .client
            .partitions_of(topic, deadline, Duration::ZERO)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(topic, %error, "the group goes on without a topic until it is there");
                0
            });
        sizes.insert(topic.clone(), size);
    }
    sizes
}

/// The partitions of assignment bytes.
fn decode_assignment(bytes: &Bytes) -> Result<Vec<TopicPartition>> {
    let mut partitions = AssignmentBytes::decode(bytes.clone())?.partitions;
    partitions.sort();
    partitions.dedup();
    Ok(partitions)
}
