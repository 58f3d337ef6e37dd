//! Produce and producer ids.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        ApiKey, InitProducerIdRequest, InitProducerIdResponse, PartitionProduceResponse,
        ProduceLeaderIdAndEpoch, ProduceNodeEndpoint, ProduceRequest, ProduceResponse, TopicProduceResponse,
    },
    protocol::v1,
};
use uuid::Uuid;

use super::{
    brokers::{self, BrokerAddresses},
    error::{ErrorFamily, kafka_code},
    metadata::{NamedTopic, named_topic, partition_code},
    request::{KafkaAnswer, RequestContext, encoded},
};
use crate::{
    directory::ClusterView,
    produce::handler::{self, PendingProduce},
};

/// How long a request waits for memory, unread by its client's next requests. A refused batch in
/// the middle of others would break an idempotent producer's order.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);
/// A transactional request to an agent that has no transactions ends the producer with this code:
/// TRANSACTIONAL_ID_AUTHORIZATION_FAILED.
pub(super) const NO_TRANSACTIONS: i16 = 53;

/// A request whose batches have their place in the order.
pub(super) struct PendingKafkaProduce {
    pending: PendingProduce,
    /// The topics of the request in their order, with the numbers of their partitions.
    topics: Vec<(String, Uuid, Vec<i32>)>,
    acks: i16,
    timeout: Duration,
    transactional: bool,
}

/// Accepts a request.
pub(super) async fn accept(context: &RequestContext, request: ProduceRequest) -> PendingKafkaProduce {
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let transactional = request.transactional_id.is_some();
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut partitions = Vec::new();
    for topic in request.topic_data {
        let NamedTopic { name, topic_id } = named_topic(&view, topic.name, topic.topic_id);
        let indexes = topic.partition_data.iter().map(|part| part.index).collect();
        topics.push((name.clone(), topic.topic_id, indexes));
        if transactional {
            continue;
        }
        partitions.extend(topic.partition_data.into_iter().map(|part| v1::PartitionProduce {
            topic: name.clone(),
            partition: part.index,
            records: part.records.unwrap_or_default(),
            topic_id: topic_id.clone(),
        }));
    }
    let request_to_accept = v1::ProduceRequest {
        partitions,
        ..v1::ProduceRequest::default()
    };
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or_default());
    PendingKafkaProduce {
        pending: handler::accept_within(&deps.produce, request_to_accept, ADMISSION_TIMEOUT).await,
        topics,
        acks: request.acks,
        timeout,
        transactional,
    }
}

/// Waits until a request is stored, and answers it.
pub(super) async fn finish(
    context: RequestContext,
    produce: PendingKafkaProduce,
    correlation_id: i32,
) -> KafkaAnswer {
    let results = results(&context, produce.pending, produce.timeout, produce.transactional).await;
    let failed = results.as_ref().map_or(true, |results| {
        results.iter().any(|result| result.error.is_some())
    });
    if produce.acks == 0 {
        // Kafka's brokers tell such producers about failures by closing the connection.
        return KafkaAnswer {
            close: failed,
            ..KafkaAnswer::default()
        };
    }
    let view = context.client.deps.directory.view();
    let response = response((&view, &context.client.addresses), produce.topics, results);
    encoded(&response, ApiKey::Produce, context.version, correlation_id)
}

/// Returns the results in the order of the request, or the code that all partitions get.
async fn results(
    context: &RequestContext,
    pending: PendingProduce,
    timeout: Duration,
    transactional: bool,
) -> Result<Vec<v1::PartitionProduceResult>, i16> {
    if transactional {
        return Err(NO_TRANSACTIONS);
    }
    let deps = &context.client.deps;
    let finished = tokio::time::timeout(timeout, pending.finish(&deps.produce)).await;
    // The write goes on; a retry of an idempotent producer finds it.
    let timed_out = Error::new(ErrorCode::RequestTimedOut, "the batch is not stored yet");
    let response = finished.map_err(|_| kafka_code(ErrorFamily::Produce, &timed_out))?;
    Ok(response.partitions)
}

fn response(
    (view, addresses): (&ClusterView, &BrokerAddresses),
    topics: Vec<(String, Uuid, Vec<i32>)>,
    results: Result<Vec<v1::PartitionProduceResult>, i16>,
) -> ProduceResponse {
    let mut endpoints = BTreeMap::new();
    let (mut results, failure) = match results {
        Ok(results) => (results.into_iter(), 0),
        Err(code) => (Vec::new().into_iter(), code),
    };
    let mut responses = Vec::with_capacity(topics.len());
    for (name, topic_id, indexes) in topics {
        let mut partition_responses = Vec::with_capacity(indexes.len());
        for index in indexes {
            let mut part = PartitionProduceResponse {
                index,
                error_code: failure,
                base_offset: -1,
                ..PartitionProduceResponse::default()
            };
            if let Some(result) = results.next() {
                fill_result(&mut part, result, topic_id);
            }
            if part.error_code == ERROR_NOT_LEADER
                && let Some(record) = view.partition(&name, part.index)
                && let Some(leader) = brokers::leader(view, addresses, record)
            {
                part.current_leader = ProduceLeaderIdAndEpoch {
                    leader_id: leader.node_id,
                    leader_epoch: record.epoch,
                };
                endpoints.insert(leader.node_id, leader);
            }
            partition_responses.push(part);
        }
        responses.push(TopicProduceResponse {
            name,
            topic_id,
            partition_responses,
        });
    }
    let endpoint = |leader: brokers::KafkaBroker| ProduceNodeEndpoint {
        node_id: leader.node_id,
        host: leader.host,
        port: leader.port,
        rack: leader.rack,
    };
    ProduceResponse {
        responses,
        throttle_time_ms: 0,
        node_endpoints: endpoints.into_values().map(endpoint).collect(),
    }
}

const ERROR_NOT_LEADER: i16 = 6;

fn fill_result(part: &mut PartitionProduceResponse, result: v1::PartitionProduceResult, topic_id: Uuid) {
    part.base_offset = result.base_offset;
    part.log_start_offset = result.log_start_offset;
    if let Some(error) = result.error {
        let error = Error::from(error);
        part.error_code = partition_code(ErrorFamily::Produce, &error, topic_id);
        part.error_message = Some(error.message().to_owned());
    }
}

/// Issues a producer id.
pub(super) async fn init_producer_id(
    context: RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let mut response = InitProducerIdResponse::default();
    if request.transactional_id.is_some() {
        response.error_code = NO_TRANSACTIONS;
        response.producer_epoch = -1;
        return response;
    }
    match context.client.deps.metadata.allocate_producer_id().await {
        Ok(producer_id) => response.producer_id = producer_id,
        Err(error) => {
            response.error_code = kafka_code(ErrorFamily::Group, &Error::from(error));
            response.producer_epoch = -1;
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_whole_request_names_the_partitions_of_the_request() {
        let topics = vec![("orders".to_owned(), Uuid::nil(), vec![5, 2])];
        let cluster = (&ClusterView::default(), &BrokerAddresses::default());
        let response = response(cluster, topics, Err(NO_TRANSACTIONS));
        let parts = response.responses[0].partition_responses.iter();
        let parts: Vec<(i32, i16)> = parts.map(|part| (part.index, part.error_code)).collect();
        assert_eq!(parts, [(5, NO_TRANSACTIONS), (2, NO_TRANSACTIONS)]);
    }
}
