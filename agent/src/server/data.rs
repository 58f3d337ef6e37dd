//! Implements the data service: produce streams, fetches, metadata, producer ids, offsets. Only
//! translates, and gives each client the addresses of its listener; the work is done in `produce`,
//! `fetch` and the directory.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, data_service_server::DataService, partition_offset_query::Position},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{ServerDeps, authorization, fetch_quota::FetchQuota, produce_stream};
use crate::{
    directory::ClusterView, fetch, forward::merge_results, listeners::CallOrigin, security::ClientAccess,
};

/// Serves producers and consumers.
#[derive(Debug, Clone)]
pub struct AgentDataService {
    deps: Arc<ServerDeps>,
}

impl AgentDataService {
    /// Creates the service of this agent.
    pub fn new(deps: Arc<ServerDeps>) -> Self {
        Self { deps }
    }
}

#[tonic::async_trait]
impl DataService for AgentDataService {
    type ProduceStream = Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send>>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let access = ClientAccess::of(&request)?;
        let (answers, receiver) = mpsc::channel(produce_stream::MAX_IN_FLIGHT_REQUESTS);
        tokio::spawn(produce_stream::serve(self.deps.clone(), access, request, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let _timer = self.deps.metrics.start_request("Fetch");
        let origin = CallOrigin::of(&request);
        let access = ClientAccess::of(&request)?;
        let mut wanted = request.into_inner();
        fetch::check_partition_count(&wanted)?;
        let quota = FetchQuota::of(&access, &origin);
        quota.wait(&mut wanted).await;
        let denied = authorization::take_unreadable(&access, &mut wanted.partitions);
        if !denied.is_empty() {
            // An error is answered at once.
            wanted.max_wait_ms = 0;
        }
        let (mut answer, memory) = if wanted.partitions.is_empty() {
            Default::default()
        } else {
            fetch::fetch(&self.deps.fetch, wanted).await?
        };
        // The client may have waited for long.
        access.check_current()?;
        quota.record(&mut answer);
        merge_results(&mut answer.partitions, denied);
        for result in &mut answer.partitions {
            origin.translate_leader(&mut result.leader);
            self.deps.metrics.record_result("Fetch", result.error.as_ref());
        }
        let mut response = Response::new(answer);
        if let Some(memory) = memory {
            response.extensions_mut().insert(memory);
        }
        Ok(response)
    }

    async fn metadata(
        &self,
        request: Request<v1::MetadataRequest>,
    ) -> Result<Response<v1::MetadataResponse>, Status> {
        let _timer = self.deps.metrics.start_request("Metadata");
        let origin = CallOrigin::of(&request);
        let access = ClientAccess::of(&request)?;
        let mut wanted = request.into_inner().topics;
        let is_for_all = wanted.is_empty();
        let denied = authorization::take_invisible(&access, &mut wanted);
        let mut view = self.deps.directory.view();
        if view.version == 0 || wanted.iter().any(|name| view.topic(name).is_none()) {
            view = self.deps.directory.refresh().await;
        }
        if view.version == 0 {
            let error = Error::new(
                ErrorCode::MetadataUnavailable,
                "this agent has not reached the metadata store yet",
            );
            return Err(error.with_retry_after_ms(500).into());
        }
        if is_for_all {
            wanted = visible_topics(&view, &access);
        }
        let mut described = describe_topics(&view, &wanted, denied);
        origin.translate_agents(&mut described.agents);
        for partition in described
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.partitions)
        {
            origin.translate_leader(&mut partition.leader);
        }
        Ok(Response::new(described))
    }

    async fn init_producer_id(
        &self,
        request: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        let _timer = self.deps.metrics.start_request("InitProducerId");
        ClientAccess::of(&request)?.check_producer_id()?;
        let producer_id = self
            .deps
            .metadata
            .allocate_producer_id()
            .await
            .map_err(Error::from)?;
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
        }))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let _timer = self.deps.metrics.start_request("ListOffsets");
        let access = ClientAccess::of(&request)?;
        let mut queries = request.into_inner().partitions;
        let denied = authorization::take_unlistable(&access, &mut queries);
        let mut view = self.deps.directory.view();
        let known = |query: &v1::PartitionOffsetQuery| {
            view.find_partition(&query.topic, &query.topic_id, query.partition)
                .is_ok()
        };
        if !queries.iter().all(known) {
            // One refresh for all partitions.
            view = self.deps.directory.refresh().await;
        }
        let mut partitions = Vec::with_capacity(queries.len());
        for query in queries {
            partitions.push(self.list_offset(&view, query).await);
        }
        merge_results(&mut partitions, denied);
        Ok(Response::new(v1::ListOffsetsResponse { partitions }))
    }
}

impl AgentDataService {
    async fn list_offset(&self, view: &ClusterView, query: v1::PartitionOffsetQuery) -> v1::PartitionOffset {
        let mut answer = v1::PartitionOffset {
            topic: query.topic,
            partition: query.partition,
            error: None,
            offset: -1,
            timestamp_ms: -1,
        };
        match self
            .find_offset(
                view,
                &answer.topic,
                &query.topic_id,
                query.partition,
                query.position,
            )
            .await
        {
            Ok((offset, timestamp_ms)) => (answer.offset, answer.timestamp_ms) = (offset, timestamp_ms),
            Err(error) => answer.error = Some(error.into()),
        }
        answer
    }

    async fn find_offset(
        &self,
        view: &ClusterView,
        topic: &str,
        topic_id: &str,
        index: i32,
        position: Option<Position>,
    ) -> Result<(i64, i64), Error> {
        let uid = view.find_partition(topic, topic_id, index)?.uid;
        if let Some(Position::TimestampMs(timestamp)) = position {
            return fetch::find_timestamp(&self.deps.fetch, uid, timestamp).await;
        }
        // The metadata store is asked instead of this agent's memory: a returned offset must never
        // be ahead of what another agent returns.
        let bounds = self.deps.metadata.bounds(&[uid]).await.map_err(Error::from)?;
        let (_, bounds) = bounds.first().ok_or_else(|| {
            Error::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("partition {topic}-{index} does not exist any more"),
            )
        })?;
        match position {
            Some(Position::Earliest(_)) => Ok((bounds.log_start, -1)),
            Some(Position::Latest(_)) => Ok((bounds.high_watermark, -1)),
            _ => Err(Error::new(
                ErrorCode::InvalidRequest,
                "ask for earliest, latest or a timestamp",
            )),
        }
    }
}

/// Returns the names of the topics that a client may see.
fn visible_topics(view: &ClusterView, access: &ClientAccess) -> Vec<String> {
    let topics = view.topics().filter(|topic| !topic.record.internal);
    let names = topics.map(|topic| &topic.record.name);
    names.filter(|name| access.can_see_topic(name)).cloned().collect()
}

/// Describes topics, and adds those that are refused.
fn describe_topics(
    view: &ClusterView,
    wanted: &[String],
    refused: Vec<v1::TopicMetadata>,
) -> v1::MetadataResponse {
    let mut topics = refused;
    topics.extend(wanted.iter().map(|name| describe_topic(view, name)));
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    v1::MetadataResponse {
        cluster_id: view.cluster_id.clone(),
        agents: describe_agents(view),
        topics,
    }
}

fn describe_topic(view: &ClusterView, name: &str) -> v1::TopicMetadata {
    let Some(topic) = view.topic(name) else {
        let error = Error::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("there is no topic {name:?}"),
        );
        return v1::TopicMetadata {
            name: name.to_owned(),
            error: Some(error.into()),
            ..v1::TopicMetadata::default()
        };
    };
    let partitions = (0_i32..).zip(&topic.record.partitions);
    let partitions = partitions.map(|(partition, record)| v1::PartitionMetadata {
        partition,
        leader: Some(view.leader(record)),
    });
    v1::TopicMetadata {
        name: name.to_owned(),
        topic_id: topic.record.topic_id.to_string(),
        error: None,
        partitions: partitions.collect(),
        max_message_bytes: u32::try_from(topic.config.max_message_bytes).unwrap_or(u32::MAX),
    }
}

/// Describes the live agents in order of their ids, with the number of data partitions that each
/// leads.
pub fn describe_agents(view: &ClusterView) -> Vec<v1::AgentDescription> {
    let mut agents: Vec<v1::AgentDescription> = view
        .agents()
        .map(|agent| {
            let records = view
                .topics()
                .filter(|topic| !topic.record.internal)
                .flat_map(|topic| &topic.record.partitions);
            let leases = records
                .filter(|record| record.holder == Some(agent.incarnation))
                .count();
            v1::AgentDescription {
                agent_id: agent.agent_id.clone(),
                node_id: agent.node_id,
                grpc_address: agent.grpc_address.clone(),
                http_address: agent.http_address.clone(),
                kafka_address: agent.kafka_address.clone(),
                zone: agent.zone.clone(),
                version: agent.version.clone(),
                leases: u32::try_from(leases).unwrap_or(u32::MAX),
            }
        })
        .collect();
    agents.sort_by(|a, b| a.agent_id.cmp(&b.agent_id));
    agents
}
