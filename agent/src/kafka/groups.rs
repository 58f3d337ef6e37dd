//! Consumer groups of the classic protocol.

use bytes::Bytes;
use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        DeleteGroupsRequest, DeleteGroupsResponse, DeleteGroupsResult, DescribeGroupsGroup,
        DescribeGroupsMember, DescribeGroupsRequest, DescribeGroupsResponse, HeartbeatRequest,
        HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember,
        LeaveGroupMemberIdentity, LeaveGroupMemberResponse, LeaveGroupRequest, LeaveGroupResponse,
        ListGroupsGroup, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
    },
    protocol::v1,
    security::AclOperation,
};

use super::{
    access::{group_operations, when_allowed},
    error::{ErrorFamily, kafka_code, result_code},
    request::{RequestContext, each_once},
};
use crate::groups::{GroupType, coordinator::JoinOutcome};

const GROUP_ID_NOT_FOUND: i16 = 69;
/// MEMBER_ID_REQUIRED
const MEMBER_ID_REQUIRED: i16 = 79;

/// Serves JoinGroup.
pub(super) async fn join_group(context: RequestContext, request: JoinGroupRequest) -> JoinGroupResponse {
    let refused = |error_code, member_id| JoinGroupResponse {
        error_code,
        member_id,
        ..JoinGroupResponse::default()
    };
    let allowed = may_join(&context, &request.group_id);
    let groups = &context.client.deps.groups;
    let require_known = context.version >= 4;
    // Version 0 has no time of its own for rebalances.
    let rebalance_timeout_ms = match request.rebalance_timeout_ms {
        timeout if context.version >= 1 => timeout,
        _ => request.session_timeout_ms,
    };
    let protocol_type = request.protocol_type.clone();
    let protocols = request.protocols.into_iter().map(|protocol| v1::GroupProtocol {
        name: protocol.name,
        // A copy, so that the group does not hold the whole frame.
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    let join = v1::JoinGroupRequest {
        group_id: request.group_id,
        member_id: request.member_id.clone(),
        group_instance_id: request.group_instance_id.unwrap_or_default(),
        client_id: context.client_id.clone(),
        protocol_type: request.protocol_type,
        protocols: protocols.collect(),
        session_timeout_ms: u32::try_from(request.session_timeout_ms).unwrap_or_default(),
        rebalance_timeout_ms: u32::try_from(rebalance_timeout_ms).unwrap_or_default(),
        require_known_member_id: require_known,
    };
    let host = context.client.host();
    match when_allowed(allowed, groups.join(join, &host, require_known)).await {
        Ok(JoinOutcome::Joined(joined)) => joined_response(joined, protocol_type),
        Ok(JoinOutcome::IdRequired(member_id)) => refused(MEMBER_ID_REQUIRED, member_id),
        Err(error) => refused(kafka_code(ErrorFamily::Group, &error), request.member_id),
    }
}

fn joined_response(joined: v1::JoinGroupResponse, protocol_type: String) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| JoinGroupResponseMember {
        member_id: member.member_id,
        group_instance_id: instance_id(member.group_instance_id),
        metadata: member.metadata,
    });
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: Some(protocol_type),
        protocol_name: Some(joined.protocol_name),
        leader: joined.leader,
        member_id: joined.member_id,
        members: members.collect(),
        ..JoinGroupResponse::default()
    }
}

fn instance_id(instance_id: String) -> Option<String> {
    Some(instance_id).filter(|instance_id| !instance_id.is_empty())
}

/// Checks that the client may be a member of a group.
fn may_join(context: &RequestContext, group_id: &str) -> Result<(), Error> {
    context.access().check_group(AclOperation::Read, group_id)
}

/// Serves SyncGroup.
pub(super) async fn sync_group(context: RequestContext, request: SyncGroupRequest) -> SyncGroupResponse {
    let allowed = may_join(&context, &request.group_id);
    let assignments = request.assignments.into_iter().map(|given| v1::MemberAssignment {
        member_id: given.member_id,
        // A copy, so that the group does not hold the whole frame.
        assignment: Bytes::copy_from_slice(&given.assignment),
    });
    let sync = v1::SyncGroupRequest {
        group_id: request.group_id,
        generation: request.generation_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id.unwrap_or_default(),
        assignments: assignments.collect(),
    };
    match when_allowed(allowed, context.client.deps.groups.sync(sync)).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: request.protocol_type,
            protocol_name: Some(synced.protocol_name),
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        // A client that waits for its assignment joins again.
        Err(error) if error.code() == ErrorCode::CoordinatorLoadInProgress => SyncGroupResponse {
            error_code: i16::try_from(ErrorCode::RebalanceInProgress.number()).unwrap_or_default(),
            ..SyncGroupResponse::default()
        },
        Err(error) => SyncGroupResponse {
            error_code: kafka_code(ErrorFamily::Group, &error),
            ..SyncGroupResponse::default()
        },
    }
}

/// Serves Heartbeat.
pub(super) async fn heartbeat(context: RequestContext, request: HeartbeatRequest) -> HeartbeatResponse {
    let allowed = may_join(&context, &request.group_id);
    let heartbeat = v1::HeartbeatRequest {
        group_id: request.group_id,
        generation: request.generation_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id.unwrap_or_default(),
    };
    let groups = &context.client.deps.groups;
    let error_code = match when_allowed(allowed, groups.heartbeat(&heartbeat)).await {
        // The group is there, and nothing is known against its member.
        Err(error) if error.code() == ErrorCode::CoordinatorLoadInProgress => 0,
        result => result_code(ErrorFamily::Group, &result),
    };
    HeartbeatResponse {
        error_code,
        ..HeartbeatResponse::default()
    }
}

/// Serves LeaveGroup.
pub(super) async fn leave_group(context: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse {
    if let Err(error) = may_join(&context, &request.group_id) {
        return LeaveGroupResponse {
            error_code: kafka_code(ErrorFamily::Group, &error),
            ..LeaveGroupResponse::default()
        };
    }
    let groups = &context.client.deps.groups;
    let single = context.version < 3;
    let members = if single {
        let member_id = request.member_id;
        vec![LeaveGroupMemberIdentity {
            member_id,
            ..LeaveGroupMemberIdentity::default()
        }]
    } else {
        request.members
    };
    let mut response = LeaveGroupResponse::default();
    for member in members {
        let leave = v1::LeaveGroupRequest {
            group_id: request.group_id.clone(),
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone().unwrap_or_default(),
        };
        let left = groups.leave(leave).await;
        let error_code = result_code(ErrorFamily::Group, &left);
        // The whole request fails only where the coordinator does.
        let coordinator_failed = left.is_err_and(|error| error.is_retryable());
        if single || coordinator_failed {
            response.error_code = error_code;
            break;
        }
        response.members.push(LeaveGroupMemberResponse {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            error_code,
        });
    }
    response
}

/// Serves DescribeGroups.
pub(super) async fn describe_groups(
    context: RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let group_ids = each_once(request.groups, String::clone);
    let mut groups = Vec::with_capacity(group_ids.len());
    for group_id in group_ids {
        let is_asked = request.include_authorized_operations;
        let authorized_operations = group_operations(context.access(), &group_id, is_asked);
        groups.push(DescribeGroupsGroup {
            authorized_operations,
            ..described_group(&context, group_id).await
        });
    }
    DescribeGroupsResponse {
        groups,
        ..DescribeGroupsResponse::default()
    }
}

async fn described_group(context: &RequestContext, group_id: String) -> DescribeGroupsGroup {
    let allowed = context.access().check_group(AclOperation::Describe, &group_id);
    let described = when_allowed(allowed, context.client.deps.groups.describe(&group_id));
    let described = match described.await {
        Ok(described) if described.group_type == GroupType::Classic.name() => described,
        // Groups of the consumer protocol are described by ConsumerGroupDescribe only.
        Ok(_) => {
            let message = format!("Group {group_id} is not a classic group.");
            return dead_group(group_id, context.version, message);
        }
        // Nobody can create a group with an invalid id.
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::GroupIdNotFound | ErrorCode::InvalidGroupId
            ) =>
        {
            let message = format!("group {group_id} not found");
            return dead_group(group_id, context.version, message);
        }
        Err(error) => {
            return DescribeGroupsGroup {
                group_id,
                error_code: kafka_code(ErrorFamily::Group, &error),
                error_message: Some(error.message().to_owned()),
                ..DescribeGroupsGroup::default()
            };
        }
    };
    let members = described.members.into_iter().map(|member| DescribeGroupsMember {
        member_id: member.member_id,
        group_instance_id: instance_id(member.group_instance_id),
        client_id: member.client_id,
        client_host: kafka_host(&member.client_host),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    });
    DescribeGroupsGroup {
        group_id,
        group_state: described.state,
        protocol_type: described.protocol_type,
        protocol_data: described.protocol_name,
        members: members.collect(),
        ..DescribeGroupsGroup::default()
    }
}

/// Describes a group that does not exist: before version 6 without an error.
fn dead_group(group_id: String, version: i16, message: String) -> DescribeGroupsGroup {
    let mut group = DescribeGroupsGroup {
        group_id,
        group_state: "Dead".to_owned(),
        ..DescribeGroupsGroup::default()
    };
    if version >= 6 {
        group.error_code = GROUP_ID_NOT_FOUND;
        group.error_message = Some(message);
    }
    group
}

/// Returns an address as Kafka prints it.
pub(super) fn kafka_host(address: &str) -> String {
    format!("/{address}")
}

/// Serves ListGroups: the groups that this agent coordinates, because clients ask every broker.
pub(super) async fn list_groups(context: RequestContext, request: ListGroupsRequest) -> ListGroupsResponse {
    let groups = &context.client.deps.groups;
    let listed = match groups.list_groups().await {
        Ok(listed) => listed.groups,
        Err(error) => {
            return ListGroupsResponse {
                error_code: kafka_code(ErrorFamily::Group, &error),
                ..ListGroupsResponse::default()
            };
        }
    };
    let matches = |filter: &[String], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let access = context.access();
    let own = listed.into_iter().filter(|group| {
        groups.is_coordinator_of(&group.group_id)
            && access.can_see_group(&group.group_id)
            && matches(&request.states_filter, &group.state)
            && matches(&request.types_filter, &group.group_type)
    });
    ListGroupsResponse {
        groups: own
            .map(|group| ListGroupsGroup {
                group_id: group.group_id,
                protocol_type: group.protocol_type,
                group_state: group.state,
                group_type: group.group_type,
            })
            .collect(),
        ..ListGroupsResponse::default()
    }
}

/// Serves DeleteGroups.
pub(super) async fn delete_groups(
    context: RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let groups = &context.client.deps.groups;
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let allowed = context.access().check_group(AclOperation::Delete, &group_id);
        let deleted = when_allowed(allowed, groups.delete(&group_id)).await;
        results.push(DeleteGroupsResult {
            error_code: result_code(ErrorFamily::Group, &deleted),
            group_id,
        });
    }
    DeleteGroupsResponse {
        results,
        ..DeleteGroupsResponse::default()
    }
}
