//! The data service of the fake agents.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, data_service_server::DataService},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{FakeAgent, FakeClusterState, ProduceFault, RequestArrival};

type ProduceResponses = Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DataService for FakeAgent {
    type ProduceStream = ProduceResponses;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<ProduceResponses>, Status> {
        self.check_alive()?;
        let (answers, out) = mpsc::channel(100);
        let agent = self.clone();
        tokio::spawn(async move { agent.serve_stream(request.into_inner(), answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let request = request.into_inner();
        self.cluster.state.lock().fetches.push(self.index);
        let deadline = Instant::now() + Duration::from_millis(request.max_wait_ms.into());
        loop {
            self.check_alive()?;
            let changed = self.cluster.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let answer = self.read(&request);
            let bytes: usize = answer
                .partitions
                .iter()
                .map(|partition| partition.records.len())
                .sum();
            let failed = answer
                .partitions
                .iter()
                .any(|partition| partition.error.is_some());
            if failed || bytes >= request.min_bytes as usize || timeout_at(deadline, changed).await.is_err() {
                return Ok(Response::new(answer));
            }
        }
    }

    async fn metadata(
        &self,
        request: Request<v1::MetadataRequest>,
    ) -> Result<Response<v1::MetadataResponse>, Status> {
        self.check_alive()?;
        let mut state = self.cluster.state.lock();
        state.metadata_asked += 1;
        let agents = state
            .addresses
            .iter()
            .enumerate()
            .map(|(index, address)| v1::AgentDescription {
                agent_id: format!("agent-{index}"),
                grpc_address: address.clone(),
                ..Default::default()
            });
        let agents = agents.collect();
        let topics = request
            .into_inner()
            .topics
            .into_iter()
            .map(|name| self.topic(&state, name))
            .collect();
        Ok(Response::new(v1::MetadataResponse {
            cluster_id: "fake".into(),
            agents,
            topics,
        }))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        self.check_alive()?;
        let mut state = self.cluster.state.lock();
        state.next_producer += 1;
        Ok(Response::new(v1::InitProducerIdResponse {
            producer_id: state.next_producer,
            producer_epoch: 0,
        }))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        self.check_alive()?;
        let state = self.cluster.state.lock();
        let partitions = request.into_inner().partitions.into_iter().map(|query| {
            use v1::partition_offset_query::Position;
            let mut found = v1::PartitionOffset {
                topic: query.topic.clone(),
                partition: query.partition,
                ..Default::default()
            };
            let log = match state.find(&query.topic, &query.topic_id, query.partition) {
                Ok(partition) => &partition.log,
                Err(error) => {
                    found.error = Some(error.into());
                    return found;
                }
            };
            (found.offset, found.timestamp_ms) = match query.position.unwrap() {
                Position::Earliest(_) => (log.start, -1),
                Position::Latest(_) => (log.end, -1),
                Position::TimestampMs(from) => log
                    .records()
                    .into_iter()
                    .find(|(_, timestamp, _)| *timestamp >= from)
                    .map_or((log.end, -1), |(offset, timestamp, _)| (offset, timestamp)),
            };
            found
        });
        Ok(Response::new(v1::ListOffsetsResponse {
            partitions: partitions.collect(),
        }))
    }
}

impl FakeAgent {
    async fn serve_stream(
        self,
        mut requests: Streaming<v1::ProduceRequest>,
        answers: mpsc::Sender<Result<v1::ProduceResponse, Status>>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            let fault = {
                let mut state = self.cluster.state.lock();
                state.arrivals.push(RequestArrival {
                    at: Instant::now(),
                    agent: self.index,
                });
                state.faults.pop_front().unwrap_or(ProduceFault::None)
            };
            if self.check_alive().is_err() || fault == ProduceFault::LoseRequest {
                let _ = answers.send(Err(Status::unavailable("broken"))).await;
                return;
            }
            let most = self.cluster.state.lock().largest_request;
            let bytes: usize = request.partitions.iter().map(|part| part.records.len()).sum();
            if most > 0 && bytes > most {
                let _ = answers
                    .send(Err(Status::out_of_range("the request is too large")))
                    .await;
                return;
            }
            let answer = self.store(request, fault);
            self.cluster.changed.notify_waiters();
            match fault {
                ProduceFault::LoseAnswer => {
                    let _ = answers.send(Err(Status::unavailable("broken"))).await;
                    return;
                }
                ProduceFault::Silence => {}
                _ => {
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn store(&self, request: v1::ProduceRequest, fault: ProduceFault) -> v1::ProduceResponse {
        let mut state = self.cluster.state.lock();
        let agents = state.addresses.len();
        let mut partitions = Vec::new();
        for produce in request.partitions {
            let at = usize::try_from(produce.partition).unwrap();
            let mut result = v1::PartitionProduceResult {
                topic: produce.topic.clone(),
                partition: produce.partition,
                base_offset: -1,
                ..Default::default()
            };
            if let Err(error) = check_partition(&state, &produce) {
                result.error = Some(error.into());
                partitions.push(result);
                continue;
            }
            if fault == ProduceFault::MoveLeader {
                let partition = &mut state.topics.get_mut(&produce.topic).unwrap()[at];
                partition.leader = (partition.leader + 1) % agents;
                partition.epoch += 1;
            }
            let leads = state.topics[&produce.topic][at].leader == self.index;
            let limit = state
                .limits
                .get(&produce.topic)
                .map_or(64 << 20, |(limit, _)| *limit);
            let stored = if let ProduceFault::Refuse(code) = fault {
                Err(Error::new(code, "scripted"))
            } else if leads {
                let log = &mut state.topics.get_mut(&produce.topic).unwrap()[at].log;
                let stored = log.append(&produce.records, limit);
                match fault {
                    ProduceFault::StoreAndFail(code) => Err(Error::new(code, "scripted")),
                    _ => stored,
                }
            } else {
                if state.hints {
                    result.leader = Some(self.cluster.leader(&state, &state.topics[&produce.topic][at]));
                }
                Err(Error::new(ErrorCode::NotLeader, "another agent leads"))
            };
            match stored {
                Ok(offset) => result.base_offset = offset,
                Err(error) => result.error = Some(error.into()),
            }
            partitions.push(result);
        }
        let throttle_ms = if let ProduceFault::Throttle(ms) = fault {
            ms
        } else {
            0
        };
        v1::ProduceResponse {
            request_id: request.request_id,
            partitions,
            throttle_ms,
        }
    }

    fn read(&self, request: &v1::FetchRequest) -> v1::FetchResponse {
        let state = self.cluster.state.lock();
        let mut left = request.max_bytes as usize;
        let partitions = request.partitions.iter().map(|fetch| {
            let mut result = v1::PartitionFetchResult {
                topic: fetch.topic.clone(),
                partition: fetch.partition,
                high_watermark: -1,
                log_start_offset: -1,
                ..Default::default()
            };
            let partition = match state.find(&fetch.topic, &fetch.topic_id, fetch.partition) {
                Ok(partition) => partition,
                Err(error) => {
                    result.error = Some(error.into());
                    return result;
                }
            };
            let log = &partition.log;
            (result.high_watermark, result.log_start_offset) = (log.end, log.start);
            if fetch.offset < log.start || fetch.offset > log.end {
                result.error = Some(Error::new(ErrorCode::OffsetOutOfRange, "out of range").into());
            } else if let Some(damaged) = &partition.damaged
                && damaged.contains(&fetch.offset)
            {
                let message =
                    format!("the stored records {damaged:?} in object t/0/segment_7.dat are damaged");
                let error = Error::new(ErrorCode::StorageCorrupt, message).with_next_offset(damaged.end);
                result.error = Some(error.into());
            } else if left > 0 {
                let end = partition.damaged.as_ref().map(|damaged| damaged.start);
                let end = end.filter(|start| *start > fetch.offset).unwrap_or(i64::MAX);
                let records = log.read(fetch.offset, end, left.min(fetch.max_bytes as usize));
                left = left.saturating_sub(records.len());
                result.records = records.into();
            }
            result
        });
        v1::FetchResponse {
            partitions: partitions.collect(),
            throttle_ms: 0,
        }
    }

    fn topic(&self, state: &FakeClusterState, name: String) -> v1::TopicMetadata {
        let Some(partitions) = state.topics.get(&name) else {
            let error = Error::new(ErrorCode::UnknownTopicOrPartition, "no such topic").into();
            return v1::TopicMetadata {
                name,
                error: Some(error),
                ..Default::default()
            };
        };
        let partitions = partitions
            .iter()
            .zip(0..)
            .map(|(partition, index)| v1::PartitionMetadata {
                partition: index,
                leader: Some(self.cluster.leader(state, partition)),
            });
        v1::TopicMetadata {
            topic_id: state.topic_id(&name),
            error: None,
            partitions: partitions.collect(),
            max_message_bytes: state
                .limits
                .get(&name)
                .filter(|(_, said)| *said)
                .map_or(0, |(limit, _)| u32::try_from(*limit).unwrap()),
            name,
        }
    }
}

/// Checks that the partition exists and belongs to the requested topic id.
fn check_partition(state: &FakeClusterState, produce: &v1::PartitionProduce) -> Result<(), Error> {
    let partitions = state.topics.get(&produce.topic).map_or(0, Vec::len);
    if partitions > 0 && !produce.topic_id.is_empty() && produce.topic_id != state.topic_id(&produce.topic) {
        return Err(Error::new(
            ErrorCode::UnknownTopicId,
            "the name is another topic's",
        ));
    }
    if usize::try_from(produce.partition).unwrap() >= partitions {
        return Err(Error::new(
            ErrorCode::UnknownTopicOrPartition,
            "no such partition",
        ));
    }
    Ok(())
}
