//! Produce and producer ids.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use streamhouse_core::{
    Error, ErrorCode,
    batch::{BatchError, BatchHeader},
    kafka::{
        ApiKey, InitProducerIdRequest, InitProducerIdResponse, PartitionProduceResponse,
        ProduceLeaderIdAndEpoch, ProduceNodeEndpoint, ProduceRequest, ProduceResponse, TopicProduceResponse,
    },
    protocol::v1,
    security::{AclOperation, QuotaKey},
};
use uuid::Uuid;

use super::{
    access::topic_refusal,
    brokers::{self, BrokerAddresses},
    error::{ErrorFamily, NOT_LEADER, kafka_code},
    metadata::{NamedTopic, named_topic, partition_code},
    request::{KafkaAnswer, RequestContext},
};
use crate::{
    directory::ClusterView,
    produce::handler::{self, PendingProduce},
};

/// How long a request waits for memory, while nothing more of its connection is read. Then the
/// connection ends, as that of a client whose broker does not answer: a batch that is refused in
/// the middle of others would break an idempotent producer's order.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);
/// A transactional request to an agent that has no transactions ends the producer with this code:
/// TRANSACTIONAL_ID_AUTHORIZATION_FAILED.
pub(super) const NO_TRANSACTIONS: i16 = 53;

/// The shortest time until a request is answered with a time-out. Kafka's brokers answer at once
/// where there are no replicas to wait for, whatever the client allows.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const INVALID_REQUIRED_ACKS: i16 = 21;
const INVALID_RECORD: i16 = 87;

/// A request whose batches have their place in the order.
pub(super) struct PendingKafkaProduce {
    pending: PendingProduce,
    /// The topics of the request in their order.
    topics: Vec<ProducedTopic>,
    acks: i16,
    timeout: Duration,
}

/// A topic of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProducedTopic {
    name: String,
    topic_id: Uuid,
    /// The numbers of the partitions, with the code of those that are refused.
    partitions: Vec<(i32, Option<i16>)>,
}

impl PendingKafkaProduce {
    /// Returns the bytes of the batches that were accepted.
    pub(super) fn admitted_bytes(&self) -> usize {
        self.pending.admitted_bytes()
    }

    /// Returns whether a batch was refused because there was no memory.
    pub(super) fn lacked_memory(&self) -> bool {
        self.pending.lacked_memory()
    }
}

/// Returns the code of a request that is refused as a whole.
fn refusal(request: &ProduceRequest) -> Option<i16> {
    if request.transactional_id.is_some() {
        return Some(NO_TRANSACTIONS);
    }
    (!(-1..=1).contains(&request.acks)).then_some(INVALID_REQUIRED_ACKS)
}

/// Accepts a request.
pub(super) async fn accept(context: &RequestContext, request: ProduceRequest) -> PendingKafkaProduce {
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let refused = refusal(&request);
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut accepted = Vec::new();
    let mut bytes = 0;
    for topic in request.topic_data {
        let NamedTopic { name, topic_id } = named_topic(&view, topic.name, topic.topic_id);
        let named = (name.as_str(), topic.topic_id);
        let refused = refused.or_else(|| topic_refusal(context.access(), AclOperation::Write, named));
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for part in topic.partition_data {
            let records = part.records.unwrap_or_default();
            bytes += records.len();
            let refused = refused.or_else(|| problem_code(&records));
            partitions.push((part.index, refused));
            if refused.is_none() {
                accepted.push(v1::PartitionProduce {
                    topic: name.clone(),
                    partition: part.index,
                    records,
                    topic_id: topic_id.clone(),
                });
            }
        }
        topics.push(ProducedTopic {
            name,
            topic_id: topic.topic_id,
            partitions,
        });
    }
    // Also those that are refused.
    context.record_use(QuotaKey::ProducerByteRate, bytes as f64);
    let request_to_accept = v1::ProduceRequest {
        partitions: accepted,
        ..v1::ProduceRequest::default()
    };
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or_default());
    PendingKafkaProduce {
        pending: handler::accept_within(&deps.produce, request_to_accept, ADMISSION_TIMEOUT).await,
        topics,
        acks: request.acks,
        timeout: timeout.max(MIN_TIMEOUT),
    }
}

/// Returns the code for records that are not one whole batch of the present format, or that belong
/// to a transaction.
fn problem_code(records: &Bytes) -> Option<i16> {
    match BatchHeader::parse(records) {
        // The checks of each batch find the other problems, with a message.
        Ok(header) if header.size() != records.len() => Some(INVALID_RECORD),
        Ok(header) if header.is_transactional() && !header.is_control() => Some(NO_TRANSACTIONS),
        Ok(_) => None,
        Err(BatchError::Truncated { .. } | BatchError::UnsupportedMagic(0 | 1)) => Some(INVALID_RECORD),
        Err(_) => None,
    }
}

/// Waits until a request is stored, and answers it.
pub(super) async fn finish(
    context: RequestContext,
    produce: PendingKafkaProduce,
    correlation_id: i32,
) -> KafkaAnswer {
    if produce.lacked_memory() {
        // The answers to the requests before it have left by now.
        return KafkaAnswer::close();
    }
    let results = results(&context, produce.pending, produce.timeout, produce.acks).await;
    let view = context.client.deps.directory.view();
    let response = response((&view, &context.client.addresses), produce.topics, results);
    if produce.acks == 0 {
        let parts = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses);
        // Kafka's brokers tell such producers about failures by closing the connection.
        return KafkaAnswer {
            close: parts.into_iter().any(|part| part.error_code != 0),
            ..KafkaAnswer::unsent(&response)
        };
    }
    context.encoded(response, ApiKey::Produce, correlation_id)
}

/// Returns the results in the order of the request, or the code that all partitions get.
async fn results(
    context: &RequestContext,
    pending: PendingProduce,
    timeout: Duration,
    acks: i16,
) -> Result<Vec<v1::PartitionProduceResult>, i16> {
    let finished = pending.finish(&context.client.deps.produce);
    if acks == 0 {
        // Such a producer waits for nothing.
        return Ok(finished.await.partitions);
    }
    // The write goes on; a retry of an idempotent producer finds it.
    let timed_out = Error::new(ErrorCode::RequestTimedOut, "the batch is not stored yet");
    let response = tokio::time::timeout(timeout, finished).await;
    let response = response.map_err(|_| kafka_code(ErrorFamily::Produce, &timed_out))?;
    Ok(response.partitions)
}

fn response(
    (view, addresses): (&ClusterView, &BrokerAddresses),
    topics: Vec<ProducedTopic>,
    results: Result<Vec<v1::PartitionProduceResult>, i16>,
) -> ProduceResponse {
    let mut endpoints = BTreeMap::new();
    let (mut results, failure) = match results {
        Ok(results) => (results.into_iter(), 0),
        Err(code) => (Vec::new().into_iter(), code),
    };
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        let mut partition_responses = Vec::with_capacity(topic.partitions.len());
        for (index, refused) in topic.partitions {
            let mut part = PartitionProduceResponse {
                index,
                error_code: refused.unwrap_or(failure),
                base_offset: -1,
                ..PartitionProduceResponse::default()
            };
            if refused.is_none()
                && let Some(result) = results.next()
            {
                fill_result(&mut part, result, topic.topic_id);
            }
            if part.error_code == NOT_LEADER
                && let Some(record) = view.partition(&topic.name, part.index)
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
            name: topic.name,
            topic_id: topic.topic_id,
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

fn fill_result(part: &mut PartitionProduceResponse, result: v1::PartitionProduceResult, topic_id: Uuid) {
    part.base_offset = result.base_offset;
    part.log_start_offset = result.log_start_offset;
    if result.log_append_time_ms > 0 {
        part.log_append_time_ms = result.log_append_time_ms;
    }
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
    if let Err(error) = context.access().check_producer_id() {
        response.error_code = kafka_code(ErrorFamily::Group, &error);
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
    use streamhouse_core::batch::{BatchBuilder, Compression};

    use super::*;

    #[test]
    fn a_failure_of_the_whole_request_names_the_partitions_of_the_request() {
        let topics = vec![ProducedTopic {
            name: "orders".to_owned(),
            topic_id: Uuid::nil(),
            partitions: vec![(5, None), (2, Some(INVALID_RECORD))],
        }];
        let cluster = (&ClusterView::default(), &BrokerAddresses::default());
        let response = response(cluster, topics, Err(NO_TRANSACTIONS));
        let parts = response.responses[0].partition_responses.iter();
        let parts: Vec<(i32, i16)> = parts.map(|part| (part.index, part.error_code)).collect();
        assert_eq!(parts, [(5, NO_TRANSACTIONS), (2, INVALID_RECORD)]);
    }

    #[test]
    fn a_partition_gets_one_whole_batch_of_the_present_format() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append::<&[u8], &[u8]>(0, None, Some(b"v"), &[]).unwrap();
        let batch = builder.finish().unwrap().to_vec();
        let code = |bytes: &[u8]| problem_code(&Bytes::copy_from_slice(bytes));
        let changed = |at: usize, to: u8| {
            let mut bytes = batch.clone();
            bytes[at] = to;
            code(&bytes)
        };
        assert_eq!(code(&batch), None);
        for broken in [&[], &batch[..20], &[batch.as_slice(), &batch].concat()[..]] {
            assert_eq!(code(broken), Some(INVALID_RECORD));
        }
        for (magic, expected) in [(0, Some(INVALID_RECORD)), (1, Some(INVALID_RECORD)), (9, None)] {
            assert_eq!(changed(16, magic), expected, "magic {magic}");
        }
        assert_eq!(changed(22, 16), Some(NO_TRANSACTIONS));
        assert_eq!(changed(22, 32), None, "refused with the other checks");
    }
}
