//! Offsets of partitions: earliest, latest, or by timestamp.

use std::collections::BTreeMap;

use streamhouse_core::TopicPartition;

use super::Admin;
use crate::{
    error::Result,
    queries::{OffsetSpec, PartitionOffset, list_offsets},
};

impl Admin {
    /// Returns the requested offset of each partition.
    ///
    /// # Errors
    /// The error of the first partition that fails; [`Error::Cluster`](crate::Error::Cluster) and
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub async fn list_offsets(
        &self,
        queries: impl IntoIterator<Item = (TopicPartition, OffsetSpec)>,
    ) -> Result<BTreeMap<TopicPartition, PartitionOffset>> {
        list_offsets(
            &self.client,
            queries.into_iter().collect(),
            self.client.api_deadline(),
        )
        .await
    }
}
