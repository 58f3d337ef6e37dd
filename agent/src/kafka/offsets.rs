//! Offsets of logs: by position or timestamp, by leader epoch, and deletion of records.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
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
    security::AclOperation,
};
use streamhouse_metadata::LogBounds;

use super::{
    access::{TOPIC_AUTHORIZATION_FAILED, refused_topics, when_allowed},
    error::{
        ErrorFamily, FENCED_LEADER_EPOCH, INVALID_REQUEST, UNKNOWN_LEADER_EPOCH, UNSUPPORTED_VERSION,
        kafka_code, result_code,
    },
    request::RequestContext,
};
use crate::{directory::ClusterView, fetch, topics};

/// Kafka's timestamps that stand for positions.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const GREATEST_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Serves ListOffsets. Any agent can answer.
pub(super) async fn list_offsets(
    context: RequestContext,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let deps = &context.client.deps;
    let view = deps.directory.view();
    let named = request.topics.iter().map(|topic| topic.name.as_str());
    let refused = refused_topics(context.access(), AclOperation::Describe, named);
    let visible = request
        .topics
        .iter()
        .filter(|topic| !refused.contains(topic.name.as_str()));
    if !visible.clone().all(|topic| view.topic(&topic.name).is_some()) {
        deps.directory.refresh().await;
    }
    let wanted = visible.flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|partition| (topic.name.as_str(), partition.partition_index))
    });
    let logs = LogPositions::read(&context, wanted.collect()).await;
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut answered = HashSet::new();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let found = match answered.insert((topic.name.as_str(), wanted.partition_index)) {
                _ if refused.contains(topic.name.as_str()) => Err(TOPIC_AUTHORIZATION_FAILED),
                true => find_offset(&context, &logs, &topic.name, wanted).await,
                false => Err(INVALID_REQUEST),
            };
            let mut response = ListOffsetsPartitionResponse {
                partition_index: wanted.partition_index,
                ..ListOffsetsPartitionResponse::default()
            };
            match found {
                Ok(Some(found)) => {
                    response.offset = found.offset;
                    response.timestamp = found.timestamp;
                    response.leader_epoch = found.leader_epoch;
                }
                Ok(None) => {}
                Err(code) => response.error_code = code,
            }
            partitions.push(response);
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name.clone(),
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

/// An offset with its timestamp, -1 if it is a position, and the leader's epoch.
struct FoundOffset {
    offset: i64,
    timestamp: i64,
    leader_epoch: i32,
}

/// Returns the offset that a client asks for; `None` if no record is late enough, or there is none.
///
/// # Errors
///
/// Kafka's code.
async fn find_offset(
    context: &RequestContext,
    logs: &LogPositions,
    topic: &str,
    wanted: &ListOffsetsPartition,
) -> Result<Option<FoundOffset>, i16> {
    let code = |error: Error| kafka_code(ErrorFamily::Fetch, &error);
    if !is_position_served(wanted.timestamp, context.version) {
        return Err(UNSUPPORTED_VERSION);
    }
    let (uid, leader_epoch, bounds) = logs.find(topic, wanted.partition_index).map_err(code)?;
    check_epoch(wanted.current_leader_epoch, leader_epoch)?;
    let deps = &context.client.deps.fetch;
    let found = match wanted.timestamp {
        LATEST => Some((bounds.high_watermark, -1)),
        EARLIEST | EARLIEST_LOCAL => Some((bounds.log_start, -1)),
        GREATEST_TIMESTAMP => fetch::find_greatest_timestamp(deps, uid).await.map_err(code)?,
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => None,
        timestamp => {
            let found = fetch::find_timestamp(deps, uid, timestamp).await.map_err(code)?;
            // Kafka has no offset where no record is late enough.
            Some(found).filter(|(_, timestamp)| *timestamp >= 0)
        }
    };
    Ok(found.map(|(offset, timestamp)| FoundOffset {
        offset,
        timestamp,
        leader_epoch,
    }))
}

/// Returns whether clients with a version of ListOffsets know what a timestamp stands for.
fn is_position_served(timestamp: i64, version: i16) -> bool {
    match timestamp {
        GREATEST_TIMESTAMP => version >= 7,
        EARLIEST_LOCAL => version >= 8,
        LATEST_TIERED => version >= 9,
        EARLIEST_PENDING_UPLOAD => version >= 11,
        other => other >= EARLIEST,
    }
}

/// Checks the epoch that a client knows, -1 for none, against the leader's.
pub(super) fn check_epoch(known: i32, leader_epoch: i32) -> Result<(), i16> {
    match known {
        known if known < 0 || known == leader_epoch => Ok(()),
        known if known < leader_epoch => Err(FENCED_LEADER_EPOCH),
        _ => Err(UNKNOWN_LEADER_EPOCH),
    }
}

/// Serves OffsetForLeaderEpoch. Logs are never truncated: every epoch ends at the high watermark.
pub(super) async fn offset_for_leader_epoch(
    context: RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let named = request.topics.iter().map(|topic| topic.topic.as_str());
    let refused = match context.access().allows_cluster(AclOperation::ClusterAction) {
        true => HashSet::new(),
        false => refused_topics(context.access(), AclOperation::Describe, named),
    };
    let visible = request
        .topics
        .iter()
        .filter(|topic| !refused.contains(topic.topic.as_str()));
    let wanted = visible.flat_map(|topic| {
        let partitions = topic.partitions.iter();
        partitions.map(|partition| (topic.topic.as_str(), partition.partition))
    });
    let logs = LogPositions::read(&context, wanted.collect()).await;
    let topics = request.topics.iter().map(|topic| {
        let is_refused = refused.contains(topic.topic.as_str());
        let partitions = topic.partitions.iter().map(|wanted| {
            let mut end = OffsetForLeaderEpochEpochEndOffset {
                partition: wanted.partition,
                ..OffsetForLeaderEpochEpochEndOffset::default()
            };
            match logs.find(&topic.topic, wanted.partition) {
                _ if is_refused => end.error_code = TOPIC_AUTHORIZATION_FAILED,
                Ok((_, epoch, bounds)) => match check_epoch(wanted.current_leader_epoch, epoch) {
                    Ok(()) if wanted.leader_epoch <= epoch => {
                        (end.leader_epoch, end.end_offset) = (wanted.leader_epoch, bounds.high_watermark);
                    }
                    // The epoch is not known yet: no offset.
                    Ok(()) => {}
                    Err(code) => end.error_code = code,
                },
                Err(error) => end.error_code = kafka_code(ErrorFamily::Fetch, &error),
            }
            end
        });
        OffsetForLeaderEpochTopicResult {
            partitions: partitions.collect(),
            topic: topic.topic.clone(),
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
        let allowed = context.access().check_topic(AclOperation::Delete, &topic.name);
        for wanted in topic.partitions {
            let deletion = v1::DeleteRecordsRequest {
                topic: topic.name.clone(),
                partition: wanted.partition_index,
                before_offset: wanted.offset,
            };
            let deleted = topics::delete_records(&deps.topics, deletion);
            let deleted = when_allowed(allowed.clone(), deleted).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_served_from_the_version_on_that_has_them() {
        for (timestamp, first) in [(-1, 1), (-2, 1), (0, 1), (-3, 7), (-4, 8), (-5, 9), (-6, 11)] {
            let served: Vec<i16> = (1..=11)
                .filter(|version| is_position_served(timestamp, *version))
                .collect();
            assert_eq!(served, (first..=11).collect::<Vec<_>>(), "{timestamp}");
        }
        assert!(!is_position_served(-7, 11));
    }

    #[test]
    fn another_epoch_is_older_or_unknown() {
        assert_eq!((check_epoch(-1, 5), check_epoch(5, 5)), (Ok(()), Ok(())));
        assert_eq!(check_epoch(4, 5), Err(FENCED_LEADER_EPOCH));
        assert_eq!(check_epoch(6, 5), Err(UNKNOWN_LEADER_EPOCH));
    }
}
