//! The group service of a port: calls whose group another agent coordinates are forwarded to it, if
//! the client's listener allows that; the others, and all answers' addresses, are this agent's.

use std::sync::Arc;

use streamhouse_core::{
    Error,
    murmur2::group_slot,
    protocol::v1::{self, group_service_client::GroupServiceClient, group_service_server::GroupService},
    security::AclOperation,
};
use streamhouse_metadata::{AgentEntry, GROUP_SLOT_TOPIC, GROUP_SLOTS};
use tonic::{Request, Response, Status};

use super::{
    ServerDeps,
    authorization::{take_uncommittable, take_unfetchable},
};
use crate::{
    forward::{CALL_TIMEOUT, merge_results},
    groups::GroupGrpcService,
    listeners::CallOrigin,
    security::ClientAccess,
};

/// The result of a gRPC call.
type GroupCallResult<T> = Result<Response<T>, Status>;

/// Serves consumer groups, or forwards to the agent that does.
#[derive(Debug, Clone)]
pub struct ForwardingGroupService {
    deps: Arc<ServerDeps>,
    own: GroupGrpcService,
}

impl ForwardingGroupService {
    /// Creates the service of this agent.
    pub fn new(deps: Arc<ServerDeps>) -> Self {
        let own = GroupGrpcService::new(deps.groups.clone());
        Self { deps, own }
    }

    /// Checks how many offsets a call names, before each gets a result.
    fn check_offset_count(&self, count: usize) -> Result<(), Error> {
        self.deps.groups.deps().limits.check_offset_count(count)
    }

    /// Returns the agent to forward a call to; `None` if this agent answers it.
    fn coordinating_peer<T>(&self, request: &Request<T>, group_id: &str) -> Option<AgentEntry> {
        if !CallOrigin::of(request).may_forward() || self.deps.groups.has_slot_of(group_id) {
            return None;
        }
        let view = self.deps.directory.view();
        let record = view.partition(GROUP_SLOT_TOPIC, group_slot(group_id, GROUP_SLOTS))?;
        self.deps.forward.leading_peer(&view, record).cloned()
    }
}

/// Forwards a call, for at most `$limit`, or passes it to this agent's own service, which bounds it
/// itself.
macro_rules! forward_or_serve {
    ($self:ident.$method:ident($request:ident), $limit:expr) => {
        match $self.coordinating_peer(&$request, &$request.get_ref().group_id) {
            None => $self.own.$method($request).await,
            Some(peer) => {
                let largest = $self.deps.max_answer_bytes;
                let call = async |channel, request| {
                    let service = GroupServiceClient::new(channel);
                    service.max_decoding_message_size(largest).$method(request).await
                };
                $self.deps.forward.call(&peer, $request, $limit, call).await
            }
        }
    };
}

/// Commits what the client may commit of a request, and adds the results of the rest.
macro_rules! commit_allowed {
    ($self:ident.$method:ident($request:ident) -> $answer:ty) => {{
        let access = ClientAccess::of(&$request)?;
        access.check_group(AclOperation::Read, &$request.get_ref().group_id)?;
        let offsets = &mut $request.get_mut().offsets;
        $self.check_offset_count(offsets.len())?;
        let denied = take_uncommittable(&access, offsets);
        let is_denied = !denied.is_empty() && offsets.is_empty();
        let answer: GroupCallResult<$answer> = if is_denied {
            Ok(Response::new(Default::default()))
        } else {
            forward_or_serve!($self.$method($request), CALL_TIMEOUT)
        };
        let mut answer = answer?;
        merge_results(&mut answer.get_mut().offsets, denied);
        Ok(answer)
    }};
}

#[tonic::async_trait]
impl GroupService for ForwardingGroupService {
    async fn find_coordinator(
        &self,
        request: Request<v1::FindCoordinatorRequest>,
    ) -> GroupCallResult<v1::FindCoordinatorResponse> {
        ClientAccess::of(&request)?.check_group(AclOperation::Describe, &request.get_ref().group_id)?;
        let origin = CallOrigin::of(&request);
        let mut response = self.own.find_coordinator(request).await?;
        origin.translate_leader(&mut response.get_mut().coordinator);
        Ok(response)
    }

    async fn join_group(
        &self,
        request: Request<v1::JoinGroupRequest>,
    ) -> GroupCallResult<v1::JoinGroupResponse> {
        let access = ClientAccess::of(&request)?;
        access.check_group(AclOperation::Read, &request.get_ref().group_id)?;
        let limits = &self.deps.groups.deps().limits;
        let limit = limits.join_duration(request.get_ref()) + CALL_TIMEOUT;
        let answer = forward_or_serve!(self.join_group(request), limit);
        // The client may have waited for long.
        access.check_current()?;
        answer
    }

    async fn sync_group(
        &self,
        request: Request<v1::SyncGroupRequest>,
    ) -> GroupCallResult<v1::SyncGroupResponse> {
        let access = ClientAccess::of(&request)?;
        access.check_group(AclOperation::Read, &request.get_ref().group_id)?;
        let limit = self.deps.groups.deps().limits.sync_duration() + CALL_TIMEOUT;
        let answer = forward_or_serve!(self.sync_group(request), limit);
        // The client may have waited for long.
        access.check_current()?;
        answer
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> GroupCallResult<v1::HeartbeatResponse> {
        ClientAccess::of(&request)?.check_group(AclOperation::Read, &request.get_ref().group_id)?;
        forward_or_serve!(self.heartbeat(request), CALL_TIMEOUT)
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> GroupCallResult<v1::LeaveGroupResponse> {
        ClientAccess::of(&request)?.check_group(AclOperation::Read, &request.get_ref().group_id)?;
        forward_or_serve!(self.leave_group(request), CALL_TIMEOUT)
    }

    async fn commit_offsets(
        &self,
        mut request: Request<v1::CommitOffsetsRequest>,
    ) -> GroupCallResult<v1::CommitOffsetsResponse> {
        commit_allowed!(self.commit_offsets(request) -> v1::CommitOffsetsResponse)
    }

    async fn fetch_offsets(
        &self,
        mut request: Request<v1::FetchOffsetsRequest>,
    ) -> GroupCallResult<v1::FetchOffsetsResponse> {
        let access = ClientAccess::of(&request)?;
        access.check_group(AclOperation::Describe, &request.get_ref().group_id)?;
        let wanted = &mut request.get_mut().partitions;
        self.check_offset_count(wanted.len())?;
        let is_for_all = wanted.is_empty();
        let denied = take_unfetchable(&access, wanted);
        if !is_for_all && wanted.is_empty() {
            let offsets = denied.into_iter().map(|(_, offset)| offset).collect();
            return Ok(Response::new(v1::FetchOffsetsResponse { offsets }));
        }
        // Any agent can answer it from the metadata store.
        let mut answer = self.own.fetch_offsets(request).await?;
        let offsets = &mut answer.get_mut().offsets;
        if is_for_all {
            offsets.retain(|offset| access.can_see_topic(&offset.topic));
        }
        merge_results(offsets, denied);
        Ok(answer)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> GroupCallResult<v1::ListGroupsResponse> {
        let access = ClientAccess::of(&request)?;
        let mut listed = self.own.list_groups(request).await?;
        let groups = &mut listed.get_mut().groups;
        groups.retain(|group| access.can_see_group(&group.group_id));
        Ok(listed)
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> GroupCallResult<v1::GroupDescription> {
        ClientAccess::of(&request)?.check_group(AclOperation::Describe, &request.get_ref().group_id)?;
        let origin = CallOrigin::of(&request);
        let described: GroupCallResult<v1::GroupDescription> =
            forward_or_serve!(self.describe_group(request), CALL_TIMEOUT);
        let mut response = described?;
        origin.translate_leader(&mut response.get_mut().coordinator);
        Ok(response)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> GroupCallResult<v1::DeleteGroupResponse> {
        ClientAccess::of(&request)?.check_group(AclOperation::Delete, &request.get_ref().group_id)?;
        forward_or_serve!(self.delete_group(request), CALL_TIMEOUT)
    }

    async fn reset_offsets(
        &self,
        mut request: Request<v1::ResetOffsetsRequest>,
    ) -> GroupCallResult<v1::ResetOffsetsResponse> {
        commit_allowed!(self.reset_offsets(request) -> v1::ResetOffsetsResponse)
    }
}
