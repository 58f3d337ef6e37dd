//! Committed offsets of groups.

use std::collections::BTreeMap;

use streamhouse_core::{Error as ClusterError, TopicPartition, protocol::v1};

use super::CommittedOffset;
use crate::{
    Client,
    connection::{self, item_error},
    error::Result,
    retry::Deadline,
};

/// Returns a group's committed offsets, without partitions that have none. Fails with the error of
/// the first partition that fails.
pub(crate) async fn fetch_offsets(
    client: &Client,
    group: &str,
    partitions: &[TopicPartition],
    deadline: Deadline,
) -> Result<BTreeMap<TopicPartition, CommittedOffset>> {
    let asked: Vec<_> = partitions
        .iter()
        .map(|partition| (partition.clone(), String::new()))
        .collect();
    let committed = fetch_offsets_each(client, group, &asked, deadline).await?;
    committed
        .into_iter()
        .map(|(partition, at)| Ok((partition, at?)))
        .collect()
}

/// Returns a group's committed offset or error for each partition, without partitions that have
/// none. Each partition comes with the id of its topic, empty if it is not known.
pub(crate) async fn fetch_offsets_each(
    client: &Client,
    group: &str,
    partitions: &[(TopicPartition, String)],
    deadline: Deadline,
) -> Result<BTreeMap<TopicPartition, Result<CommittedOffset, ClusterError>>> {
    let request = v1::FetchOffsetsRequest {
        group_id: group.to_owned(),
        partitions: partitions
            .iter()
            .map(|(partition, topic_id)| v1::TopicPartition {
                topic: partition.topic.clone(),
                partition: partition.partition,
                topic_id: topic_id.clone(),
            })
            .collect(),
    };
    let answer = client
        .call_coordinator(group, "fetching committed offsets", deadline, |channel| {
            let request = request.clone();
            async move { connection::group_client(channel).fetch_offsets(request).await }
        })
        .await?;
    let mut committed = BTreeMap::new();
    for offset in answer.offsets {
        if let Some(error) = item_error(offset.error) {
            committed.insert(TopicPartition::new(offset.topic, offset.partition), Err(error));
        } else if offset.offset >= 0 {
            let at = CommittedOffset {
                offset: offset.offset,
                metadata: offset.metadata,
                committed_at_ms: offset.committed_at_ms,
            };
            committed.insert(TopicPartition::new(offset.topic, offset.partition), Ok(at));
        }
    }
    Ok(committed)
}
