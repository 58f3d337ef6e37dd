//! The group service of a port: calls whose group another agent coordinates are forwarded to it, if
//! the client's listener allows that; the others, and all answers' addresses, are this agent's.

use std::sync::Arc;

use streamhouse_core::{
    murmur2::group_slot,
    protocol::v1::{self, group_service_client::GroupServiceClient, group_service_server::GroupService},
};
use streamhouse_metadata::{AgentEntry, GROUP_SLOT_TOPIC, GROUP_SLOTS};
use tonic::{Request, Response, Status};

use super::ServerDeps;
use crate::{forward::CALL_TIMEOUT, groups::GroupGrpcService, listeners::CallOrigin};

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

#[tonic::async_trait]
impl GroupService for ForwardingGroupService {
    async fn find_coordinator(
        &self,
        request: Request<v1::FindCoordinatorRequest>,
    ) -> GroupCallResult<v1::FindCoordinatorResponse> {
        let origin = CallOrigin::of(&request);
        let mut response = self.own.find_coordinator(request).await?;
        origin.translate_leader(&mut response.get_mut().coordinator);
        Ok(response)
    }

    async fn join_group(
        &self,
        request: Request<v1::JoinGroupRequest>,
    ) -> GroupCallResult<v1::JoinGroupResponse> {
        let limits = &self.deps.groups.deps().limits;
        let limit = limits.join_duration(request.get_ref()) + CALL_TIMEOUT;
        forward_or_serve!(self.join_group(request), limit)
    }

    async fn sync_group(
        &self,
        request: Request<v1::SyncGroupRequest>,
    ) -> GroupCallResult<v1::SyncGroupResponse> {
        let limit = self.deps.groups.deps().limits.sync_duration() + CALL_TIMEOUT;
        forward_or_serve!(self.sync_group(request), limit)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> GroupCallResult<v1::HeartbeatResponse> {
        forward_or_serve!(self.heartbeat(request), CALL_TIMEOUT)
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> GroupCallResult<v1::LeaveGroupResponse> {
        forward_or_serve!(self.leave_group(request), CALL_TIMEOUT)
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> GroupCallResult<v1::CommitOffsetsResponse> {
        forward_or_serve!(self.commit_offsets(request), CALL_TIMEOUT)
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> GroupCallResult<v1::FetchOffsetsResponse> {
        // Any agent can answer it from the metadata store.
        self.own.fetch_offsets(request).await
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> GroupCallResult<v1::ListGroupsResponse> {
        self.own.list_groups(request).await
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> GroupCallResult<v1::GroupDescription> {
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
        forward_or_serve!(self.delete_group(request), CALL_TIMEOUT)
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> GroupCallResult<v1::ResetOffsetsResponse> {
        forward_or_serve!(self.reset_offsets(request), CALL_TIMEOUT)
    }
}
