//! Fetch: consumers read from leaders, and from any agent of their own zone.

use std::collections::BTreeMap;

use streamhouse_core::{
    ErrorCode,
    kafka::{
        ApiKey, FetchLeaderIdAndEpoch, FetchNodeEndpoint, FetchPartition, FetchPartitionData, FetchRequest,
        FetchResponse, FetchTopic, FetchableTopicResponse, RecordBuffers,
    },
    protocol::v1,
    security::{AclOperation, QuotaKey},
};
use uuid::Uuid;

use super::{
    access::topic_refusal,
    brokers::{self, BrokerAddresses, KafkaBroker},
    error::{ErrorFamily, FENCED_LEADER_EPOCH, FETCH_SESSION_ID_NOT_FOUND, NOT_LEADER, kafka_code},
    metadata::{NamedTopic, named_topic, partition_code},
    offsets::check_epoch,
    request::{KafkaAnswer, RequestContext, encoded},
};
use crate::{
    directory::ClusterView,
    fetch::{self, FetchedPartition},
};

/// How long a client waits before it asks again when there is no memory for an answer.
const MEMORY_THROTTLE_MS: i32 = 100;
/// An answer has at most what the client's quota allows in this time, as in Kafka.
const QUOTA_WINDOW_SECONDS: f64 = 10.0;

/// A partition of the request.
struct WantedPartition {
    topic: NamedTopic,
    wanted: FetchPartition,
    /// Answered without a read.
    answered: Option<FetchPartitionData>,
}

/// Serves Fetch. Sessions are not kept: every answer has session 0, so clients name all partitions
/// each time.
pub(super) async fn serve(
    context: RequestContext,
    request: FetchRequest,
    correlation_id: i32,
) -> KafkaAnswer {
    if request.session_id != 0 {
        let response = FetchResponse {
            error_code: FETCH_SESSION_ID_NOT_FOUND,
            ..FetchResponse::default()
        };
        return encoded(&response, ApiKey::Fetch, context.version, correlation_id);
    }
    let deps = &context.client.deps;
    let topics = wanted_topics(&context, request.topics, &request.rack_id);
    let reads = topics.iter().flat_map(|(_, _, wanted)| wanted);
    let read = v1::FetchRequest {
        // What is answered without a read is answered at once.
        max_wait_ms: match reads.clone().any(|wanted| wanted.answered.is_some()) {
            true => 0,
            false => u32::try_from(request.max_wait_ms).unwrap_or_default(),
        },
        min_bytes: u32::try_from(request.min_bytes).unwrap_or_default(),
        max_bytes: allowed_bytes(&context, u32::try_from(request.max_bytes).unwrap_or(1)),
        partitions: reads
            .filter(|wanted| wanted.answered.is_none())
            .map(WantedPartition::to_fetch)
            .collect(),
    };
    let read = match read.partitions.is_empty() {
        true => Ok((Vec::new(), None)),
        false => fetch::fetch_partitions(&deps.fetch, read).await,
    };
    let (results, memory, throttle_time_ms, error_code) = match read {
        Ok((partitions, memory)) => (partitions, memory, 0, 0),
        Err(error) if error.code() == ErrorCode::ResourceExhausted => {
            (Vec::new(), None, MEMORY_THROTTLE_MS, 0)
        }
        Err(error) => (Vec::new(), None, 0, kafka_code(ErrorFamily::Fetch, &error)),
    };
    let (view, addresses) = (deps.directory.view(), &context.client.addresses);
    let mut response = build_response((&view, addresses), topics, results);
    response.throttle_time_ms = throttle_time_ms;
    response.error_code = error_code;
    let records = response.responses.iter().flat_map(|topic| &topic.partitions);
    let bytes: usize = records
        .map(|part| part.records.as_ref().map_or(0, RecordBuffers::len))
        .sum();
    context.record_use(QuotaKey::ConsumerByteRate, bytes as f64);
    KafkaAnswer {
        memory,
        ..context.encoded(response, ApiKey::Fetch, correlation_id)
    }
}

/// Returns how much an answer may have: a client does not get at once what it would wait for longer
/// than a client can be throttled.
fn allowed_bytes(context: &RequestContext, asked: u32) -> u32 {
    match context.quota(QuotaKey::ConsumerByteRate) {
        Some(per_second) => asked.min((per_second * QUOTA_WINDOW_SECONDS) as u32),
        None => asked,
    }
}

/// A topic of the request: as the request names it, with its partitions.
type WantedTopic = (String, Uuid, Vec<WantedPartition>);

/// Returns the topics of a request, with the answers that need no read.
fn wanted_topics(context: &RequestContext, topics: Vec<FetchTopic>, rack: &str) -> Vec<WantedTopic> {
    let client = &context.client;
    let view = client.deps.directory.view();
    // Only clients that name their zone are sent elsewhere for it.
    let brokers = match rack.is_empty() {
        true => Vec::new(),
        false => brokers::all(&view, &client.addresses),
    };
    let topics = topics.into_iter().map(|topic| {
        let named = named_topic(&view, topic.topic.clone(), topic.topic_id);
        let to_read = (named.name.as_str(), topic.topic_id);
        let refused = topic_refusal(context.access(), AclOperation::Read, to_read);
        let wanted = topic.partitions.into_iter().map(|wanted| {
            let topic = named.clone();
            let answered = match refused {
                Some(code) => Some(empty_data(wanted.partition, code)),
                None => redirect(context, (&view, &brokers), &topic, &wanted, rack),
            };
            WantedPartition {
                topic,
                wanted,
                answered,
            }
        });
        (topic.topic, topic.topic_id, wanted.collect())
    });
    topics.collect()
}

impl WantedPartition {
    fn to_fetch(&self) -> v1::PartitionFetch {
        v1::PartitionFetch {
            topic: self.topic.name.clone(),
            partition: self.wanted.partition,
            offset: self.wanted.fetch_offset,
            max_bytes: u32::try_from(self.wanted.partition_max_bytes).unwrap_or(1),
            topic_id: self.topic.topic_id.clone(),
        }
    }
}

/// Returns the answer for a partition that this agent does not read: the client's epoch is not the
/// leader's, another agent leads it, or one of the client's zone serves it.
fn redirect(
    context: &RequestContext,
    (view, brokers): (&ClusterView, &[KafkaBroker]),
    topic: &NamedTopic,
    wanted: &FetchPartition,
    rack: &str,
) -> Option<FetchPartitionData> {
    let record = view
        .find_partition(&topic.name, &topic.topic_id, wanted.partition)
        .ok()?;
    if let Err(error_code) = check_epoch(wanted.current_leader_epoch, record.epoch) {
        return Some(empty_data(wanted.partition, error_code));
    }
    let session = context.client.deps.fetch.session.get()?;
    let leads = record.holder == Some(session.incarnation);
    if leads && rack.is_empty() {
        return None;
    }
    let me = view.agent(session.incarnation)?;
    if !rack.is_empty() && me.zone == rack {
        return None;
    }
    let leader = brokers::leader(view, &context.client.addresses, record)?;
    if !rack.is_empty() {
        // The client reads in its own zone if an agent is there, which may be this one.
        let near = nearest(brokers, &leader, rack);
        if near.node_id == me.node_id {
            return None;
        }
        if leader.node_id == me.node_id {
            let mut data = empty_data(wanted.partition, 0);
            data.preferred_read_replica = near.node_id;
            let led = session.partitions.get(record.uid)?;
            (data.high_watermark, data.log_start_offset) = (led.high_watermark(), led.log_start());
            data.last_stable_offset = data.high_watermark;
            return Some(data);
        }
    }
    (leader.node_id != me.node_id).then(|| empty_data(wanted.partition, NOT_LEADER))
}

/// Returns the broker that a client in `rack` reads from.
fn nearest<'a>(brokers: &'a [KafkaBroker], leader: &'a KafkaBroker, rack: &str) -> &'a KafkaBroker {
    if leader.rack.as_deref() == Some(rack) {
        return leader;
    }
    let replicas = brokers::replicas(brokers, leader);
    let near = brokers
        .iter()
        .find(|broker| broker.rack.as_deref() == Some(rack) && replicas.contains(&broker.node_id));
    near.unwrap_or(leader)
}

fn empty_data(partition_index: i32, error_code: i16) -> FetchPartitionData {
    FetchPartitionData {
        partition_index,
        error_code,
        high_watermark: -1,
        // librdkafka cannot read null.
        records: Some(RecordBuffers::default()),
        ..FetchPartitionData::default()
    }
}

/// Builds the answer. `results` are those of the partitions that were read, in their order; none if
/// nothing was read.
fn build_response(
    (view, addresses): (&ClusterView, &BrokerAddresses),
    topics: Vec<WantedTopic>,
    results: Vec<FetchedPartition>,
) -> FetchResponse {
    let mut results = results.into_iter().peekable();
    let mut endpoints = BTreeMap::new();
    let mut responses = Vec::with_capacity(topics.len());
    for (topic, topic_id, wanted) in topics {
        let mut partitions = Vec::with_capacity(wanted.len());
        for part in wanted {
            let index = part.wanted.partition;
            let is_of_part =
                |result: &FetchedPartition| result.partition == index && result.topic == part.topic.name;
            let answered = part
                .answered
                .or_else(|| Some(read_data(results.next_if(is_of_part)?, topic_id)));
            // All that were asked for are there: without a session, a client refuses other answers.
            let mut data = answered.unwrap_or_else(|| empty_data(index, 0));
            if matches!(data.error_code, NOT_LEADER | FENCED_LEADER_EPOCH)
                && let Ok(record) = view.find_partition(&part.topic.name, &part.topic.topic_id, index)
                && let Some(leader) = brokers::leader(view, addresses, record)
            {
                data.current_leader = FetchLeaderIdAndEpoch {
                    leader_id: leader.node_id,
                    leader_epoch: record.epoch,
                };
                endpoints.insert(leader.node_id, leader);
            }
            partitions.push(data);
        }
        responses.push(FetchableTopicResponse {
            topic,
            topic_id,
            partitions,
        });
    }
    let endpoint = |leader: KafkaBroker| FetchNodeEndpoint {
        node_id: leader.node_id,
        host: leader.host,
        port: leader.port,
        rack: leader.rack,
    };
    FetchResponse {
        responses,
        node_endpoints: endpoints.into_values().map(endpoint).collect(),
        ..FetchResponse::default()
    }
}

fn read_data(result: FetchedPartition, topic_id: Uuid) -> FetchPartitionData {
    let error_code = result
        .error
        .as_ref()
        .map_or(0, |error| partition_code(ErrorFamily::Fetch, error, topic_id));
    FetchPartitionData {
        partition_index: result.partition,
        error_code,
        high_watermark: result.high_watermark,
        last_stable_offset: result.high_watermark,
        log_start_offset: result.log_start_offset,
        records: Some(result.records),
        ..FetchPartitionData::default()
    }
}
