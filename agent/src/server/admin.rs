//! Implements the admin service: topics and the cluster. Only translates between protocol and
//! [`topics`].

use std::sync::Arc;

use streamhouse_core::protocol::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::data::describe_agents;
use crate::{node::AgentNode, topics};

/// The result of every admin call.
type AdminResult<T> = Result<Response<T>, Status>;

/// Serves operators and tools.
#[derive(Debug, Clone)]
pub struct AgentAdminService {
    node: Arc<AgentNode>,
}

impl AgentAdminService {
    /// Creates the service of this agent.
    pub fn new(node: Arc<AgentNode>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl AdminService for AgentAdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::create(&self.node.topics, request.into_inner()).await?,
        ))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> AdminResult<v1::ListTopicsResponse> {
        Ok(Response::new(
            topics::list(&self.node.topics, request.into_inner().include_internal).await?,
        ))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::describe(&self.node.topics, &request.into_inner().name).await?,
        ))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> AdminResult<v1::TopicDescription> {
        Ok(Response::new(
            topics::alter(&self.node.topics, request.into_inner()).await?,
        ))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> AdminResult<v1::DeleteTopicResponse> {
        topics::delete(&self.node.topics, &request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> AdminResult<v1::DeleteRecordsResponse> {
        let log_start_offset = topics::delete_records(&self.node.topics, request.into_inner()).await?;
        Ok(Response::new(v1::DeleteRecordsResponse { log_start_offset }))
    }

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> AdminResult<v1::DescribeClusterResponse> {
        let view = topics::require_view(&self.node.directory).await?;
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
            metadata_store: redact_url(self.node.settings.metadata_url.expose()),
            object_store: self.node.store.describe(),
        }))
    }
}

/// Returns a store's URL without what may be secret: user, password and options.
fn redact_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((kind, rest)) => {
            let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
            format!("{kind}://{place}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_store_holds_no_secret() {
        let url = "postgres://streamhouse:hush@db:5432/streamhouse_metadata?sslmode=require&password=hush";
        assert_eq!(redact_url(url), "postgres://db:5432/streamhouse_metadata");
        assert_eq!(redact_url("postgres://u:a@b@db/x"), "postgres://db/x");
        assert_eq!(
            redact_url("sqlite:/var/lib/metadata.db"),
            "sqlite:/var/lib/metadata.db"
        );
    }
}
