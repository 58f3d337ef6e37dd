//! Offsets of partitions: earliest, latest, or by timestamp.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode, TopicPartition, protocol::v1};

use super::{OffsetSpec, PartitionOffset};
use crate::{
    Client,
    connection::{self, item_error},
    error::{Error, Result},
    retry::Deadline,
};

/// Result of an offset query for each partition.
pub(crate) type OffsetLookup = BTreeMap<TopicPartition, Result<PartitionOffset, ClusterError>>;

/// Like [`list_offsets_each`], but fails with the error of the first partition that fails.
pub(crate) async fn list_offsets(
    client: &Client,
    queries: Vec<(TopicPartition, OffsetSpec)>,
    deadline: Deadline,
) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
    let queries = queries
        .into_iter()
        .map(|(partition, at)| (partition, (at, String::new())))
        .collect();
    let found = list_offsets_each(client, queries, deadline).await?;
    found
        .into_iter()
        .map(|(partition, at)| Ok((partition, at?)))
        .collect()
}

/// Queries any agent, and repeats the query for partitions that failed with a retryable error.
/// Final errors are returned per partition. Each query comes with the id of the partition's topic,
/// empty if it is not known.
pub(crate) async fn list_offsets_each(
    client: &Client,
    queries: Vec<(TopicPartition, (OffsetSpec, String))>,
    deadline: Deadline,
) -> Result<OffsetLookup> {
    let mut waiting: BTreeMap<_, _> = queries.into_iter().collect();
    let mut found = OffsetLookup::new();
    let mut backoff = client.backoff();
    while !waiting.is_empty() {
        let request = v1::ListOffsetsRequest {
            partitions: waiting.iter().map(offset_query).collect(),
        };
        let (answer, _) = client
            .call_any_agent("listing offsets", deadline, |channel| {
                let request = request.clone();
                async move { connection::data_client(channel).list_offsets(request).await }
            })
            .await?;
        let last = apply_response(answer, &mut waiting, &mut found);
        if waiting.is_empty() {
            break;
        }
        let pause = backoff.next_delay(Duration::from_millis(last.retry_after_ms().into()));
        if deadline.remaining() < pause {
            return Err(Error::timeout("listing offsets", deadline.timeout(), Some(last)));
        }
        tokio::time::sleep(pause).await;
    }
    Ok(found)
}

/// Moves the results of an answer from `waiting` to `found`. Returns the last retryable error.
fn apply_response(
    answer: v1::ListOffsetsResponse,
    waiting: &mut BTreeMap<TopicPartition, (OffsetSpec, String)>,
    found: &mut OffsetLookup,
) -> ClusterError {
    let mut last = ClusterError::new(
        ErrorCode::LeaderNotAvailable,
        "an agent left a partition out of its answer",
    );
    for partition in answer.partitions {
        let key = TopicPartition::new(partition.topic, partition.partition);
        let settled = match item_error(partition.error) {
            None => Ok(PartitionOffset {
                offset: partition.offset,
                timestamp_ms: partition.timestamp_ms,
            }),
            // A missing topic is retryable, but the caller should see it at once.
            Some(error)
                if !error.is_retryable()
                    || matches!(
                        error.code(),
                        ErrorCode::UnknownTopicId | ErrorCode::UnknownTopicOrPartition
                    ) =>
            {
                Err(error)
            }
            Some(error) => {
                last = error;
                continue;
            }
        };
        if waiting.remove(&key).is_some() {
            found.insert(key, settled);
        }
    }
    last
}

fn offset_query(
    (partition, (at, topic_id)): (&TopicPartition, &(OffsetSpec, String)),
) -> v1::PartitionOffsetQuery {
    use v1::partition_offset_query::Position;
    let position = match at {
        OffsetSpec::Earliest => Position::Earliest(v1::Earliest {}),
        OffsetSpec::Latest => Position::Latest(v1::Latest {}),
        OffsetSpec::Timestamp(ms) => Position::TimestampMs(*ms),
    };
    v1::PartitionOffsetQuery {
        topic: partition.topic.clone(),
        partition: partition.partition,
        position: Some(position),
        topic_id: topic_id.clone(),
    }
}
