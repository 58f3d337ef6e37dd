//! The admin service of the fake agents: lists and describes topics only.

use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, admin_service_server::AdminService},
};
use tonic::{Request, Response, Status};

use super::FakeAgent;

type ServiceResult<T> = Result<Response<T>, Status>;

fn unimplemented_call<T>() -> ServiceResult<T> {
    Err(Status::unimplemented("not needed here"))
}

#[tonic::async_trait]
impl AdminService for FakeAgent {
    async fn list_topics(&self, _: Request<v1::ListTopicsRequest>) -> ServiceResult<v1::ListTopicsResponse> {
        self.check_alive()?;
        let state = self.cluster.state.lock();
        let topics = state.topics.iter().map(|(name, partitions)| v1::TopicListing {
            name: name.clone(),
            topic_id: format!("id-{name}"),
            partitions: i32::try_from(partitions.len()).unwrap(),
            internal: false,
        });
        Ok(Response::new(v1::ListTopicsResponse {
            topics: topics.collect(),
        }))
    }

    async fn create_topic(&self, _: Request<v1::CreateTopicRequest>) -> ServiceResult<v1::TopicDescription> {
        unimplemented_call()
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> ServiceResult<v1::TopicDescription> {
        self.check_alive()?;
        let name = request.into_inner().name;
        let state = self.cluster.state.lock();
        let Some(partitions) = state.topics.get(&name) else {
            return Err(Error::new(ErrorCode::UnknownTopicOrPartition, "no such topic").into());
        };
        let partitions = partitions
            .iter()
            .zip(0..)
            .map(|(known, partition)| v1::PartitionDescription {
                partition,
                log_start_offset: known.log.start,
                high_watermark: known.log.end,
                ..Default::default()
            });
        Ok(Response::new(v1::TopicDescription {
            topic_id: state.topic_id(&name),
            partitions: partitions.collect(),
            name,
            ..Default::default()
        }))
    }

    async fn alter_topic(&self, _: Request<v1::AlterTopicRequest>) -> ServiceResult<v1::TopicDescription> {
        unimplemented_call()
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> ServiceResult<v1::DeleteTopicResponse> {
        unimplemented_call()
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> ServiceResult<v1::DeleteRecordsResponse> {
        unimplemented_call()
    }

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> ServiceResult<v1::DescribeClusterResponse> {
        unimplemented_call()
    }
}
