//! The gRPC service of consumer groups: translates requests for the [`GroupCoordinator`].

use std::sync::Arc;

use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, group_service_server::GroupService},
};
use tonic::{Request, Response, Status};

use super::{
    coordinator::{GroupCoordinator, JoinOutcome},
    limits,
};
use crate::listeners::CallOrigin;

/// The result of a gRPC call.
type GroupServiceResult<T> = Result<Response<T>, Status>;

/// Serves consumer groups over gRPC.
#[derive(Debug, Clone)]
pub struct GroupGrpcService {
    coordinator: Arc<GroupCoordinator>,
}

impl GroupGrpcService {
    /// Creates the service of a coordinator.
    pub fn new(coordinator: Arc<GroupCoordinator>) -> Self {
        Self { coordinator }
    }

    /// Returns the coordinator.
    pub fn coordinator(&self) -> &Arc<GroupCoordinator> {
        &self.coordinator
    }

    async fn locate_coordinator(&self, group_id: &str) -> Result<v1::Leader, Error> {
        limits::check_group_id(group_id)?;
        let cluster = &self.coordinator.deps().cluster;
        if let Some(coordinator) = cluster.coordinator(group_id) {
            return Ok(coordinator);
        }
        cluster.refresh().await;
        cluster.coordinator(group_id).ok_or_else(|| {
            let error = Error::new(
                ErrorCode::CoordinatorNotAvailable,
                "no agent coordinates the group; try again",
            );
            error.with_retry_after_ms(100)
        })
    }
}

/// Returns the IP address of the client, also of one whose call another agent has forwarded.
fn client_host<T>(request: &Request<T>) -> String {
    if let Some(client) = CallOrigin::of(request).forwarded_for() {
        return client.to_owned();
    }
    request
        .remote_addr()
        // An IPv4 client of a listener on `[::]` has a mapped address.
        .map(|address| address.ip().to_canonical().to_string())
        .unwrap_or_default()
}

#[tonic::async_trait]
impl GroupService for GroupGrpcService {
    async fn find_coordinator(
        &self,
        request: Request<v1::FindCoordinatorRequest>,
    ) -> GroupServiceResult<v1::FindCoordinatorResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("FindCoordinator");
        let coordinator = self.locate_coordinator(&request.get_ref().group_id).await?;
        Ok(Response::new(v1::FindCoordinatorResponse {
            coordinator: Some(coordinator),
        }))
    }

    async fn join_group(
        &self,
        request: Request<v1::JoinGroupRequest>,
    ) -> GroupServiceResult<v1::JoinGroupResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("JoinGroup");
        let host = client_host(&request);
        let request = request.into_inner();
        // A first join whose caller disconnects is withdrawn, so the second round trip is needed
        // only for clients that ask for it.
        let require_known = request.require_known_member_id;
        let response = match self.coordinator.join(request, &host, require_known).await? {
            JoinOutcome::Joined(response) => response,
            JoinOutcome::IdRequired(member_id) => v1::JoinGroupResponse {
                generation: -1,
                member_id,
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn sync_group(
        &self,
        request: Request<v1::SyncGroupRequest>,
    ) -> GroupServiceResult<v1::SyncGroupResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("SyncGroup");
        Ok(Response::new(self.coordinator.sync(request.into_inner()).await?))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> GroupServiceResult<v1::HeartbeatResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("Heartbeat");
        self.coordinator.heartbeat(request.get_ref()).await?;
        Ok(Response::new(v1::HeartbeatResponse {}))
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> GroupServiceResult<v1::LeaveGroupResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("LeaveGroup");
        self.coordinator.leave(request.into_inner()).await?;
        Ok(Response::new(v1::LeaveGroupResponse {}))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> GroupServiceResult<v1::CommitOffsetsResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("CommitOffsets");
        Ok(Response::new(
            self.coordinator.commit_offsets(request.into_inner()).await?,
        ))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> GroupServiceResult<v1::FetchOffsetsResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("FetchOffsets");
        Ok(Response::new(
            self.coordinator.fetch_offsets(request.get_ref()).await?,
        ))
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> GroupServiceResult<v1::ListGroupsResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("ListGroups");
        Ok(Response::new(self.coordinator.list_groups().await?))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> GroupServiceResult<v1::GroupDescription> {
        let _timer = self.coordinator.deps().metrics.start_request("DescribeGroup");
        Ok(Response::new(
            self.coordinator.describe(&request.get_ref().group_id).await?,
        ))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> GroupServiceResult<v1::DeleteGroupResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("DeleteGroup");
        self.coordinator.delete(&request.get_ref().group_id).await?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> GroupServiceResult<v1::ResetOffsetsResponse> {
        let _timer = self.coordinator.deps().metrics.start_request("ResetOffsets");
        Ok(Response::new(
            self.coordinator.reset_offsets(request.into_inner()).await?,
        ))
    }
}
