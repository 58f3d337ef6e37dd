//! What the coordinator has to know of the cluster: which partition a name means, and who coordinates a group. The agent's
//! [`Directory`] knows both.

use async_trait::async_trait;
use streamhouse_core::{Error, ErrorCode, PartitionUid, murmur2::group_slot, protocol::v1};
use streamhouse_metadata::{GROUP_SLOT_TOPIC, GROUP_SLOTS};

use crate::directory::Directory;

/// The cluster as the coordinator sees it. May be a moment old.
#[async_trait]
pub trait Cluster: Send + Sync + std::fmt::Debug {
    /// The partition that a client means and may commit offsets for; see [`View::find`](crate::directory::View::find).
    fn uid(&self, topic: &str, topic_id: &str, partition: i32) -> Result<PartitionUid, Error>;

    /// Who coordinates the group, if anybody does.
    fn coordinator(&self, group_id: &str) -> Option<v1::Leader>;

    /// Looks again, because something was not found; returns soon, whether there is anything newer or not.
    async fn refresh(&self);
}

#[async_trait]
impl Cluster for Directory {
    fn uid(&self, topic: &str, topic_id: &str, partition: i32) -> Result<PartitionUid, Error> {
        let view = self.view();
        if view.topic(topic).is_some_and(|topic| topic.record.internal) {
            return Err(Error::new(
                ErrorCode::UnknownTopicOrPartition,
                "offsets of the cluster's own topics cannot be committed",
            ));
        }
        Ok(view.find(topic, topic_id, partition)?.uid)
    }

    fn coordinator(&self, group_id: &str) -> Option<v1::Leader> {
        let view = self.view();
        let record = view.partition(GROUP_SLOT_TOPIC, group_slot(group_id, GROUP_SLOTS))?;
        Some(view.leader(record)).filter(|leader| !leader.agent_id.is_empty())
    }

    async fn refresh(&self) {
        Directory::refresh(self).await;
    }
}
