//! What the coordinator has to know of the cluster: which partition a name means, and who coordinates a group. The agent's
//! [`Directory`] knows both.

use async_trait::async_trait;
use streamhouse_core::{PartitionUid, murmur2::group_slot, protocol::v1};
use streamhouse_metadata::{GROUP_SLOT_TOPIC, GROUP_SLOTS};

use crate::directory::Directory;

/// The cluster as the coordinator sees it. May be a moment old.
#[async_trait]
pub trait Cluster: Send + Sync + std::fmt::Debug {
    /// The partition of this name, if there is one that clients may commit offsets for.
    fn uid(&self, topic: &str, partition: i32) -> Option<PartitionUid>;

    /// Who coordinates the group, if anybody does.
    fn coordinator(&self, group_id: &str) -> Option<v1::Leader>;

    /// Looks again, because something was not found; returns soon, whether there is anything newer or not.
    async fn refresh(&self);
}

#[async_trait]
impl Cluster for Directory {
    fn uid(&self, topic: &str, partition: i32) -> Option<PartitionUid> {
        let view = self.view();
        let record = &view.topic(topic).filter(|topic| !topic.record.internal)?.record;
        record
            .partitions
            .get(usize::try_from(partition).ok()?)
            .map(|partition| partition.uid)
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
