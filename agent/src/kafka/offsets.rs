//! Offsets of logs: by position or timestamp, by leader epoch, and deletion of records.

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
        ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
        ListOffsetsTopicResponse, OffsetForLeaderEpochEpochEndOffset, OffsetForLeaderEpochRequest,
        OffsetForLeaderEpochResponse, OffsetForLeaderEpochTopicResult,
    },
    protocol::v1,
};

use super::{
    error::{ErrorFamily, kafka_code, result_code},
    request::RequestContext,
};
use crate::{fetch, topics};

/// Kafka's timestamps that stand for positions.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Serves ListOffsets. Any agent can answer.
pub(super) async fn list_offsets(
    context: RequestContext,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let deps = &context.client.deps;
    let view = deps.directory.view();
    if !request
        .topics
        .iter()
        .all(|topic| view.topic(&topic.name).is_some())
    {
        deps.directory.refresh().await;
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            partitions.push(list_offset(&context, &topic.name, &wanted).await);
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    ListOffsetsResponse {
        topics,
        ..ListOffsetsResponse::default()
    }
}

async fn list_offset(
    context: &RequestContext,
    topic: &str,
    wanted: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let mut response = ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        ..ListOffsetsPartitionResponse::default()
    };
    match find_offset(context, topic, wanted).await {
        Ok((offset, timestamp, epoch)) => {
            (response.offset, response.timestamp, response.leader_epoch) = (offset, timestamp, epoch);
        }
        Err(error) => response.error_code = kafka_code(ErrorFamily::Fetch, &error),
    }
    response
}

/// Returns the offset, its timestamp and the leader's epoch.
async fn find_offset(
    context: &RequestContext,
    topic: &str,
    wanted: &ListOffsetsPartition,
) -> Result<(i64, i64, i32), Error> {
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let record = view.find_partition(topic, "", wanted.partition_index)?;
    let (uid, epoch) = (record.uid, record.epoch);
    if wanted.timestamp >= 0 {
        let (offset, timestamp) = fetch::find_timestamp(&deps.fetch, uid, wanted.timestamp).await?;
        // Kafka has no offset where no record is late enough.
        return Ok(if timestamp < 0 {
            (-1, -1, epoch)
        } else {
            (offset, timestamp, epoch)
        });
    }
    // The metadata store is asked instead of this agent's memory: a returned offset must never be
    // ahead of what another agent returns.
    let bounds = deps.metadata.bounds(&[uid]).await.map_err(Error::from)?;
    let (_, bounds) = bounds.first().ok_or_else(|| {
        let message = format!(
            "partition {topic}-{} does not exist any more",
            wanted.partition_index
        );
        Error::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    match wanted.timestamp {
        LATEST => Ok((bounds.high_watermark, -1, epoch)),
        EARLIEST | EARLIEST_LOCAL => Ok((bounds.log_start, -1, epoch)),
        LATEST_TIERED => Ok((-1, -1, epoch)),
        other => {
            let message = format!("the timestamp {other} stands for no position that is served");
            Err(Error::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// Serves OffsetForLeaderEpoch. Logs are never truncated: every epoch ends at the high watermark.
pub(super) async fn offset_for_leader_epoch(
    context: RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let position = ListOffsetsPartition {
                partition_index: wanted.partition,
                timestamp: LATEST,
                ..ListOffsetsPartition::default()
            };
            let found = find_offset(&context, &topic.topic, &position).await;
            let mut end = OffsetForLeaderEpochEpochEndOffset {
                partition: wanted.partition,
                ..OffsetForLeaderEpochEpochEndOffset::default()
            };
            match found {
                Ok((offset, _, epoch)) if wanted.leader_epoch <= epoch => {
                    (end.leader_epoch, end.end_offset) = (wanted.leader_epoch, offset);
                }
                // The epoch is not known yet: no offset.
                Ok(_) => {}
                Err(error) => end.error_code = kafka_code(ErrorFamily::Fetch, &error),
            }
            partitions.push(end);
        }
        topics.push(OffsetForLeaderEpochTopicResult {
            topic: topic.topic,
            partitions,
        });
    }
    OffsetForLeaderEpochResponse {
        topics,
        ..OffsetForLeaderEpochResponse::default()
    }
}

/// Serves DeleteRecords, at the leader of each partition.
pub(super) async fn delete_records(
    context: RequestContext,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let deps = &context.client.deps;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let deletion = v1::DeleteRecordsRequest {
                topic: topic.name.clone(),
                partition: wanted.partition_index,
                before_offset: wanted.offset,
            };
            let deleted = topics::delete_records(&deps.topics, deletion).await;
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                low_watermark: deleted.as_ref().map_or(-1, |low| *low),
                error_code: result_code(ErrorFamily::Admin, &deleted),
            });
        }
        topics.push(DeleteRecordsTopicResult {
            name: topic.name,
            partitions,
        });
    }
    DeleteRecordsResponse {
        topics,
        ..DeleteRecordsResponse::default()
    }
}
