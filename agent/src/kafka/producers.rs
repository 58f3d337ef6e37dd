//! DescribeProducers: the idempotent producers of partitions.

use std::collections::BTreeSet;

use streamhouse_core::{
    Error,
    kafka::{
        DescribeProducersPartitionResponse, DescribeProducersProducerState, DescribeProducersRequest,
        DescribeProducersResponse, DescribeProducersTopicResponse,
    },
    security::AclOperation,
};
use streamhouse_metadata::ActiveProducer;
use uuid::Uuid;

use super::{
    error::{ErrorFamily, kafka_code},
    metadata::missing_topic_code,
    request::RequestContext,
};
use crate::directory::ClusterView;

/// The most producers that one answer lists.
const MAX_PRODUCERS: usize = 10_000;

/// Serves DescribeProducers. Any agent can answer.
pub(super) async fn describe_producers(
    context: RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let view = context.client.deps.directory.view();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut left = MAX_PRODUCERS;
    for topic in request.topics {
        // A partition that is named twice is read once.
        let indexes: BTreeSet<i32> = topic.partition_indexes.into_iter().collect();
        let mut partitions = Vec::with_capacity(indexes.len());
        let allowed = context.access().check_topic(AclOperation::Read, &topic.name);
        for index in indexes {
            let partition = match &allowed {
                Ok(()) => described(&context, &view, (&topic.name, index), left).await,
                Err(refused) => DescribeProducersPartitionResponse {
                    partition_index: index,
                    error_code: kafka_code(ErrorFamily::Admin, refused),
                    ..DescribeProducersPartitionResponse::default()
                },
            };
            left = left.saturating_sub(partition.active_producers.len());
            partitions.push(partition);
        }
        topics.push(DescribeProducersTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    DescribeProducersResponse {
        topics,
        ..DescribeProducersResponse::default()
    }
}

async fn described(
    context: &RequestContext,
    view: &ClusterView,
    (topic, partition_index): (&str, i32),
    limit: usize,
) -> DescribeProducersPartitionResponse {
    let mut response = DescribeProducersPartitionResponse {
        partition_index,
        ..DescribeProducersPartitionResponse::default()
    };
    let record = view.partition(topic, partition_index);
    let Some(record) = record.filter(|_| !view.is_internal(topic)) else {
        response.error_code = missing_topic_code(Some(topic), Uuid::nil());
        return response;
    };
    let metadata = &context.client.deps.metadata;
    match metadata.active_producers(record.uid, limit).await {
        Ok(producers) => response.active_producers = producers.into_iter().map(producer_state).collect(),
        Err(error) => {
            let error = Error::from(error);
            response.error_code = kafka_code(ErrorFamily::Admin, &error);
            response.error_message = Some(error.message().to_owned());
        }
    }
    response
}

fn producer_state(producer: ActiveProducer) -> DescribeProducersProducerState {
    DescribeProducersProducerState {
        producer_id: producer.producer_id,
        producer_epoch: producer.epoch.into(),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_used_ms,
        // Of transactions, which there are none of.
        coordinator_epoch: -1,
        ..DescribeProducersProducerState::default()
    }
}
