//! Offsets of partitions: earliest, latest, by timestamp.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_core::{Error as CoreError, ErrorCode, TopicPartition, protocol::v1};

use super::{Admin, OffsetAt, PartitionOffset};
use crate::{
    Client,
    connection::{self, item_error},
    error::{Error, Result},
    retry::Deadline,
};

/// What was found for each partition.
pub(crate) type Found = BTreeMap<TopicPartition, Result<PartitionOffset, CoreError>>;

impl Admin {
    /// The offsets asked for, of each partition. Fails when one of them cannot be had.
    pub async fn list_offsets(
        &self,
        queries: impl IntoIterator<Item = (TopicPartition, OffsetAt)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        list_offsets(
            &self.client,
            queries.into_iter().collect(),
            self.client.api_deadline(),
        )
        .await
    }
}

/// [`list_offsets_each`] that fails with the first partition that does.
pub(crate) async fn list_offsets(
    client: &Client,
    queries: Vec<(TopicPartition, OffsetAt)>,
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

/// Asks any agent, again for the partitions that failed for a passing reason; what failed for good says so by itself. With each
/// partition the id of the topic that is meant, or nothing.
pub(crate) async fn list_offsets_each(
    client: &Client,
    queries: Vec<(TopicPartition, (OffsetAt, String))>,
    deadline: Deadline,
) -> Result<Found> {
    let mut waiting: BTreeMap<_, _> = queries.into_iter().collect();
    let mut found = Found::new();
    let mut backoff = client.backoff();
    while !waiting.is_empty() {
        let request = v1::ListOffsetsRequest {
            partitions: waiting.iter().map(query).collect(),
        };
        let (answer, _) = client
            .call_any("listing offsets", deadline, |channel| {
                let request = request.clone();
                async move { connection::data(channel).list_offsets(request).await }
            })
            .await?;
        let last = take_in(answer, &mut waiting, &mut found);
        if waiting.is_empty() {
            break;
        }
        let pause = backoff.next(Duration::from_millis(last.retry_after_ms().into()));
        if deadline.left() < pause {
            return Err(Error::timeout("listing offsets", deadline.allowed(), Some(last)));
        }
        tokio::time::sleep(pause).await;
    }
    Ok(found)
}

/// Takes in an answer; returns the last passing failure.
fn take_in(
    answer: v1::ListOffsetsResponse,
    waiting: &mut BTreeMap<TopicPartition, (OffsetAt, String)>,
    found: &mut Found,
) -> CoreError {
    let mut last = CoreError::new(
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
            // A person or a consumer that asks for a topic that is not there wants to know.
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

fn query((partition, (at, topic_id)): (&TopicPartition, &(OffsetAt, String))) -> v1::PartitionOffsetQuery {
    use v1::partition_offset_query::Position;
    let position = match at {
        OffsetAt::Earliest => Position::Earliest(v1::Earliest {}),
        OffsetAt::Latest => Position::Latest(v1::Latest {}),
        OffsetAt::Timestamp(ms) => Position::TimestampMs(*ms),
    };
    v1::PartitionOffsetQuery {
        topic: partition.topic.clone(),
        partition: partition.partition,
        position: Some(position),
        topic_id: topic_id.clone(),
    }
}
