//! Implements the admin service: topics and the cluster. Only translates between protocol and
//! [`topics`].

use std::sync::Arc;

use streamhouse_core::protocol::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::{ServerDeps, data::describe_agents};
use crate::topics;

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
}

#[tonic::async_trait]
impl AdminService for AgentAdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::create(&self.deps.topics, request.into_inner()).await?,
        ))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> AdminResult<v1::ListTopicsResponse> {
        Ok(Response::new(
            topics::list(&self.deps.topics, request.into_inner().include_internal).await?,
        ))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::describe(&self.deps.topics, &request.into_inner().name).await?,
        ))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::alter(&self.deps.topics, request.into_inner()).await?,
        ))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> AdminResult<v1::DeleteTopicResponse> {
        topics::delete(&self.deps.topics, &request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> AdminResult<v1::DeleteRecordsResponse> {
        let log_start_offset = topics::delete_records(&self.deps.topics, request.into_inner()).await?;
        Ok(Response::new(v1::DeleteRecordsResponse { log_start_offset }))
    }

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> AdminResult<v1::DescribeClusterResponse> {
        let view = topics::require_view(&self.deps.directory).await?;
        let counted = view.topics().filter(|topic| !topic.record.internal);
        let (topics, partitions) = counted.fold((0, 0), |(topics, partitions), topic| {
            (
                topics + 1,
                partitions + u32::try_from(topic.record.partitions.len()).unwrap_or(u32::MAX),
            )
        });
        Ok(Response::new(v1::DescribeClusterResponse {
            cluster_id: view.cluster_id.clone(),
            agents: describe_agents(&view),
            topics,
            partitions,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata_store: self.deps.metadata_store.clone(),
            object_store: self.deps.object_store.clone(),
        }))
    }
}
