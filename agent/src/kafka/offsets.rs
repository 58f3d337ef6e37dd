//! Offsets of logs: by position or timestamp, by leader epoch, and deletion of records.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use streamhouse_core::{
    Error, ErrorCode, PartitionUid,
    kafka::{
        DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
        ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
        ListOffsetsTopicResponse, OffsetForLeaderEpochEpochEndOffset, OffsetForLeaderEpochRequest,
        OffsetForLeaderEpochResponse, OffsetForLeaderEpochTopicResult,
    },
    protocol::v1,
};
use streamhouse_metadata::LogBounds;

use super::{
    error::{ErrorFamily, kafka_code, result_code},
    request::RequestContext,
};
use crate::{directory::ClusterView, fetch, topics};

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
    let wanted = request.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|partition| (topic.name.as_str(), partition.partition_index))
    });
    let logs = LogPositions::read(&context, wanted.collect()).await;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let found = find_offset(&context, &logs, &topic.name, &wanted).await;
            let mut response = ListOffsetsPartitionResponse {
                partition_index: wanted.partition_index,
                ..ListOffsetsPartitionResponse::default()
            };
            match found {
                Ok((offset, timestamp, epoch)) => {
                    (response.offset, response.timestamp, response.leader_epoch) = (offset, timestamp, epoch);
                }
                Err(error) => response.error_code = kafka_code(ErrorFamily::Fetch, &error),
            }
            partitions.push(response);
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

/// The bounds of the logs that a request names, read at once.
struct LogPositions {
    view: Arc<ClusterView>,
    bounds: Result<BTreeMap<PartitionUid, LogBounds>, Error>,
}

impl LogPositions {
    /// Asks the metadata store instead of this agent's memory: a returned offset must never be
    /// ahead of what another agent returns.
    async fn read(context: &RequestContext, wanted: Vec<(&str, i32)>) -> Self {
        let deps = &context.client.deps;
        let view = deps.directory.view();
        let known =
            |(topic, partition): (&str, i32)| Some(view.find_partition(topic, "", partition).ok()?.uid);
        // Each once, however often a request names it.
        let uids: BTreeSet<PartitionUid> = wanted.into_iter().filter_map(known).collect();
        let uids: Vec<PartitionUid> = uids.into_iter().collect();
        let bounds = match uids.is_empty() {
            true => Ok(Vec::new()),
            false => deps.metadata.bounds(&uids).await,
        };
        Self {
            bounds: bounds
                .map(|bounds| bounds.into_iter().collect())
                .map_err(Error::from),
            view,
        }
    }

    /// Returns a partition with its leader's epoch and the bounds of its log.
    fn find(&self, topic: &str, partition: i32) -> Result<(PartitionUid, i32, LogBounds), Error> {
        let record = self.view.find_partition(topic, "", partition)?;
        let bounds = self.bounds.as_ref().map_err(Clone::clone)?;
        let bounds = bounds.get(&record.uid).ok_or_else(|| {
            let message = format!("partition {topic}-{partition} does not exist any more");
            Error::new(ErrorCode::UnknownTopicOrPartition, message)
        })?;
        Ok((record.uid, record.epoch, *bounds))
    }
}

/// Returns the offset, its timestamp and the leader's epoch.
async fn find_offset(
    context: &RequestContext,
    logs: &LogPositions,
    topic: &str,
    wanted: &ListOffsetsPartition,
) -> Result<(i64, i64, i32), Error> {
    let (uid, epoch, bounds) = logs.find(topic, wanted.partition_index)?;
    match wanted.timestamp {
        LATEST => Ok((bounds.high_watermark, -1, epoch)),
        EARLIEST | EARLIEST_LOCAL => Ok((bounds.log_start, -1, epoch)),
        LATEST_TIERED => Ok((-1, -1, epoch)),
        timestamp if timestamp >= 0 => {
            let found = fetch::find_timestamp(&context.client.deps.fetch, uid, timestamp).await?;
            // Kafka has no offset where no record is late enough.
            Ok(if found.1 < 0 {
                (-1, -1, epoch)
            } else {
                (found.0, found.1, epoch)
            })
        }
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
    let wanted = request.topics.iter().flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|partition| (topic.topic.as_str(), partition.partition))
    });
    let logs = LogPositions::read(&context, wanted.collect()).await;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|wanted| {
            let mut end = OffsetForLeaderEpochEpochEndOffset {
                partition: wanted.partition,
                ..OffsetForLeaderEpochEpochEndOffset::default()
            };
            match logs.find(&topic.topic, wanted.partition) {
                Ok((_, epoch, bounds)) if wanted.leader_epoch <= epoch => {
                    (end.leader_epoch, end.end_offset) = (wanted.leader_epoch, bounds.high_watermark);
                }
                // The epoch is not known yet: no offset.
                Ok(_) => {}
                Err(error) => end.error_code = kafka_code(ErrorFamily::Fetch, &error),
            }
            end
        });
        OffsetForLeaderEpochTopicResult {
            partitions: partitions.collect(),
            topic: topic.topic,
        }
    });
    OffsetForLeaderEpochResponse {
        topics: topics.collect(),
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
