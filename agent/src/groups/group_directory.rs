//! The cluster as the group coordinator needs it: resolves partition names and finds the
//! coordinator of a group. Implemented by the agent's [`ClusterDirectory`].

use std::sync::Arc;

use async_trait::async_trait;
use streamhouse_core::{Error, ErrorCode, PartitionUid, murmur2::group_slot, protocol::v1};
use streamhouse_metadata::{GROUP_SLOT_TOPIC, GROUP_SLOTS};

use uuid::Uuid;

use super::consumer::{TopicCatalog, TopicShape};
use crate::directory::{ClusterDirectory, ClusterView};

/// Cluster metadata for the coordinator; may be slightly out of date.
#[async_trait]
pub trait GroupDirectory: Send + Sync + std::fmt::Debug {
    /// Resolves the partition that a client may commit offsets for; see
    /// [`ClusterView::find_partition`](crate::directory::ClusterView::find_partition).
    ///
    /// # Errors
    /// `UnknownTopicOrPartition` if the partition does not exist or belongs to an internal topic,
    /// `UnknownTopicId` if the topic of this name has another id.
    fn resolve_partition(&self, topic: &str, topic_id: &str, partition: i32) -> Result<PartitionUid, Error>;

    /// Returns the agent that coordinates the group, if there is one.
    fn coordinator(&self, group_id: &str) -> Option<v1::Leader>;

    /// Returns the topics that groups can subscribe to.
    fn catalog(&self) -> Arc<dyn TopicCatalog>;

    /// Refreshes the metadata after a failed lookup; returns soon, even if nothing newer was
    /// received.
    async fn refresh(&self);
}

#[async_trait]
impl GroupDirectory for ClusterDirectory {
    fn resolve_partition(&self, topic: &str, topic_id: &str, partition: i32) -> Result<PartitionUid, Error> {
        let view = self.view();
        if view.topic(topic).is_some_and(|topic| topic.record.internal) {
            return Err(Error::new(
                ErrorCode::UnknownTopicOrPartition,
                "offsets of internal topics cannot be committed",
            ));
        }
        Ok(view.find_partition(topic, topic_id, partition)?.uid)
    }

    fn coordinator(&self, group_id: &str) -> Option<v1::Leader> {
        let view = self.view();
        let record = view.partition(GROUP_SLOT_TOPIC, group_slot(group_id, GROUP_SLOTS))?;
        Some(view.leader(record)).filter(|leader| !leader.agent_id.is_empty())
    }

    fn catalog(&self) -> Arc<dyn TopicCatalog> {
        self.view()
    }

    async fn refresh(&self) {
        ClusterDirectory::refresh(self).await;
    }
}

impl TopicCatalog for ClusterView {
    fn version(&self) -> u64 {
        self.version
    }

    fn topic(&self, name: &str) -> Option<TopicShape> {
        let topic = Self::topic(self, name).filter(|topic| !topic.record.internal)?;
        Some(TopicShape {
            id: topic.record.topic_id,
            partitions: i32::try_from(topic.record.partitions.len()).unwrap_or(i32::MAX),
        })
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        Some(self.topic_by_id(id)?.record.name.as_str())
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let topics = self.topics().filter(|topic| !topic.record.internal);
        Box::new(topics.map(|topic| topic.record.name.as_str()))
    }
}
