//! The gRPC service of consumer groups: translates requests for the [`Coordinator`].

use std::sync::Arc;

use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, group_service_server::GroupService},
};
use tonic::{Request, Response, Status};

use super::{
    coordinator::{Coordinator, JoinAnswer},
    limits,
};

/// The result of a gRPC call.
type Answer<T> = Result<Response<T>, Status>;

/// Serves consumer groups over gRPC.
#[derive(Debug, Clone)]
pub struct GroupsService {
    coordinator: Arc<Coordinator>,
}

impl GroupsService {
    /// Creates the service of a coordinator.
    pub fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }

    /// Returns the coordinator.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    async fn find(&self, group_id: &str) -> Result<v1::Leader, Error> {
        limits::group_id(group_id)?;
        let cluster = &self.coordinator.parts().cluster;
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

fn host<T>(request: &Request<T>) -> String {
    request
        .remote_addr()
        .map(|address| address.ip().to_string())
        .unwrap_or_default()
}

#[tonic::async_trait]
impl GroupService for GroupsService {
    async fn find_coordinator(
        &self,
        request: Request<v1::FindCoordinatorRequest>,
    ) -> Answer<v1::FindCoordinatorResponse> {
        let _timer = self.coordinator.parts().metrics.request("FindCoordinator");
        let coordinator = self.find(&request.get_ref().group_id).await?;
        Ok(Response::new(v1::FindCoordinatorResponse {
            coordinator: Some(coordinator),
        }))
    }

    async fn join_group(&self, request: Request<v1::JoinGroupRequest>) -> Answer<v1::JoinGroupResponse> {
        let _timer = self.coordinator.parts().metrics.request("JoinGroup");
        let host = host(&request);
        let request = request.into_inner();
        // A first join whose caller disconnects is withdrawn, so the second round trip is needed
        // only for clients that ask for it.
        let require_known = request.require_known_member_id;
        let response = match self.coordinator.join(request, &host, require_known).await? {
            JoinAnswer::Joined(response) => response,
            JoinAnswer::IdRequired(member_id) => v1::JoinGroupResponse {
                generation: -1,
                member_id,
                ..Default::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn sync_group(&self, request: Request<v1::SyncGroupRequest>) -> Answer<v1::SyncGroupResponse> {
        let _timer = self.coordinator.parts().metrics.request("SyncGroup");
        Ok(Response::new(self.coordinator.sync(request.into_inner()).await?))
    }

    async fn heartbeat(&self, request: Request<v1::HeartbeatRequest>) -> Answer<v1::HeartbeatResponse> {
        let _timer = self.coordinator.parts().metrics.request("Heartbeat");
        self.coordinator.heartbeat(request.get_ref()).await?;
        Ok(Response::new(v1::HeartbeatResponse {}))
    }

    async fn leave_group(&self, request: Request<v1::LeaveGroupRequest>) -> Answer<v1::LeaveGroupResponse> {
        let _timer = self.coordinator.parts().metrics.request("LeaveGroup");
        self.coordinator.leave(request.into_inner()).await?;
        Ok(Response::new(v1::LeaveGroupResponse {}))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Answer<v1::CommitOffsetsResponse> {
        let _timer = self.coordinator.parts().metrics.request("CommitOffsets");
        Ok(Response::new(
            self.coordinator.commit_offsets(request.into_inner()).await?,
        ))
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Answer<v1::FetchOffsetsResponse> {
        let _timer = self.coordinator.parts().metrics.request("FetchOffsets");
        Ok(Response::new(
            self.coordinator.fetch_offsets(request.get_ref()).await?,
        ))
    }

    async fn list_groups(&self, _: Request<v1::ListGroupsRequest>) -> Answer<v1::ListGroupsResponse> {
        let _timer = self.coordinator.parts().metrics.request("ListGroups");
        Ok(Response::new(self.coordinator.list_groups().await?))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Answer<v1::GroupDescription> {
        let _timer = self.coordinator.parts().metrics.request("DescribeGroup");
        Ok(Response::new(
            self.coordinator.describe(&request.get_ref().group_id).await?,
        ))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Answer<v1::DeleteGroupResponse> {
        let _timer = self.coordinator.parts().metrics.request("DeleteGroup");
        self.coordinator.delete(&request.get_ref().group_id).await?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Answer<v1::ResetOffsetsResponse> {
        let _timer = self.coordinator.parts().metrics.request("ResetOffsets");
        Ok(Response::new(
            self.coordinator.reset_offsets(request.into_inner()).await?,
        ))
    }
}
