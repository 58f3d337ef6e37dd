//! Implements the admin service: topics and the cluster. Only translates between protocol and
//! [`topics`], gives each client the addresses of its listener, and forwards deletions of records
//! to the leader.

use std::sync::Arc;

use streamhouse_core::{
    protocol::v1::{self, admin_service_client::AdminServiceClient, admin_service_server::AdminService},
    security::AclOperation,
};
use streamhouse_metadata::AgentEntry;
use tonic::{Request, Response, Status};

use super::{ServerDeps, authorization, data::describe_agents};
use crate::{forward::CALL_TIMEOUT, listeners::CallOrigin, security::ClientAccess, topics};

/// The result of every admin call.
type AdminResult<T> = Result<Response<T>, Status>;

/// Serves operators and tools.
#[derive(Debug, Clone)]
pub struct AgentAdminService {
    deps: Arc<ServerDeps>,
}

impl AgentAdminService {
    /// Creates the service of this agent.
    pub fn new(deps: Arc<ServerDeps>) -> Self {
        Self { deps }
    }

    fn partition_count(&self, topic: &str) -> usize {
        let view = self.deps.directory.view();
        view.topic(topic).map_or(0, |topic| topic.record.partitions.len())
    }

    /// Returns the agent to forward a deletion of records to; `None` if this agent answers it.
    fn leading_peer(&self, request: &Request<v1::DeleteRecordsRequest>) -> Option<AgentEntry> {
        if !CallOrigin::of(request).may_forward() {
            return None;
        }
        let view = self.deps.directory.view();
        let wanted = request.get_ref();
        let record = view.partition(&wanted.topic, wanted.partition)?;
        self.deps.forward.leading_peer(&view, record).cloned()
    }
}

/// Returns a topic's description with the addresses that the caller uses.
fn translated(origin: &CallOrigin, mut described: v1::TopicDescription) -> Response<v1::TopicDescription> {
    for partition in &mut described.partitions {
        origin.translate_leader(&mut partition.leader);
    }
    Response::new(described)
}

#[tonic::async_trait]
impl AdminService for AgentAdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        let access = ClientAccess::of(&request)?;
        access.check_creation(&request.get_ref().name)?;
        let created = request.get_ref();
        if !created.validate_only {
            let partitions = usize::try_from(created.partitions).unwrap_or_default();
            access.check_mutation(access.client_id(), partitions)?;
        }
        let origin = CallOrigin::of(&request);
        let described = topics::create(&self.deps.topics, request.into_inner()).await?;
        Ok(translated(&origin, described))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> AdminResult<v1::ListTopicsResponse> {
        let access = ClientAccess::of(&request)?;
        let mut listed = topics::list(&self.deps.topics, request.into_inner().include_internal).await?;
        listed.topics.retain(|topic| access.can_see_topic(&topic.name));
        Ok(Response::new(listed))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        let access = ClientAccess::of(&request)?;
        access.check_topic(AclOperation::Describe, &request.get_ref().name)?;
        let origin = CallOrigin::of(&request);
        let described = topics::describe(&self.deps.topics, &request.into_inner().name).await?;
        Ok(translated(&origin, described))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        let access = ClientAccess::of(&request)?;
        let altered = request.get_ref();
        authorization::check_alter(&access, altered)?;
        if altered.partitions > 0 && !altered.validate_only {
            let wanted = usize::try_from(altered.partitions).unwrap_or_default();
            let added = wanted.saturating_sub(self.partition_count(&altered.name));
            access.check_mutation(access.client_id(), added)?;
        }
        let origin = CallOrigin::of(&request);
        let described = topics::alter(&self.deps.topics, request.into_inner()).await?;
        Ok(translated(&origin, described))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> AdminResult<v1::DeleteTopicResponse> {
        let access = ClientAccess::of(&request)?;
        let name = &request.get_ref().name;
        access.check_topic(AclOperation::Delete, name)?;
        access.check_mutation(access.client_id(), self.partition_count(name))?;
        topics::delete(&self.deps.topics, &request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> AdminResult<v1::DeleteRecordsResponse> {
        ClientAccess::of(&request)?.check_topic(AclOperation::Delete, &request.get_ref().topic)?;
        if let Some(leader) = self.leading_peer(&request) {
            let delete = async |channel, request| {
                let mut service = AdminServiceClient::new(channel);
                service.delete_records(request).await
            };
            let forward = &self.deps.forward;
            return forward.call(&leader, request, CALL_TIMEOUT, delete).await;
        }
        let log_start_offset = topics::delete_records(&self.deps.topics, request.into_inner()).await?;
        Ok(Response::new(v1::DeleteRecordsResponse { log_start_offset }))
    }

    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> AdminResult<v1::DescribeClusterResponse> {
        let access = ClientAccess::of(&request)?;
        let view = topics::require_view(&self.deps.directory).await?;
        let mut agents = describe_agents(&view);
        CallOrigin::of(&request).translate_agents(&mut agents);
        // Every client needs the agents; the rest is for those who may describe the cluster.
        let mut described = v1::DescribeClusterResponse {
            cluster_id: view.cluster_id.clone(),
            agents,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        if access.allows_cluster(AclOperation::Describe) {
            for topic in view.topics().filter(|topic| !topic.record.internal) {
                described.topics += 1;
                described.partitions += u32::try_from(topic.record.partitions.len()).unwrap_or(u32::MAX);
            }
            described.metadata_store.clone_from(&self.deps.metadata_store);
            described.object_store.clone_from(&self.deps.object_store);
        }
        Ok(Response::new(described))
    }
}
