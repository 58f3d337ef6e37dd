//! [`Admin`]: topics, records, offsets, groups and the cluster. Every call goes to whichever agent answers (group calls
//! to the group's coordinator), with retries up to `api_timeout`.

mod groups;
mod offsets;
mod topics;
mod types;

pub use types::{
    AgentInfo, ClusterInfo, CommittedOffset, GroupInfo, GroupListing, GroupMember, GroupOffset, NewTopic,
    OffsetAt, OffsetReset, PartitionInfo, PartitionOffset, TopicChange, TopicInfo, TopicListing, TopicPlace,
};

pub(crate) use groups::{fetch_offsets, fetch_offsets_each};
pub(crate) use offsets::{list_offsets, list_offsets_each};

use streamhouse_core::protocol::v1;

use crate::{Client, config::Settings, connection, error::Result};

/// Administers a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
        }
    }

    /// An admin with default settings. Must be called within a tokio runtime.
    pub fn connect(bootstrap: impl Into<String>) -> Result<Self> {
        Ok(Self {
            client: Client::connect(bootstrap)?,
        })
    }

    /// An admin with these settings.
    pub fn with_settings(settings: Settings) -> Result<Self> {
        Ok(Self {
            client: Client::new(settings)?,
        })
    }

    /// The client it calls with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cluster and its agents.
    pub async fn describe_cluster(&self) -> Result<ClusterInfo> {
        let deadline = self.client.api_deadline();
        let (answer, _) = self
            .client
            .call_any("describing the cluster", deadline, |channel| async move {
                connection::admin(channel)
                    .describe_cluster(v1::DescribeClusterRequest {})
                    .await
            })
            .await?;
        Ok(answer.into())
    }

    /// Who leads the partitions of these topics, or of all when none is named; without offsets, so it is cheap.
    pub async fn metadata(&self, topics: &[&str]) -> Result<Vec<TopicPlace>> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let deadline = self.client.api_deadline();
        let (answer, _) = self
            .client
            .call_any("reading metadata", deadline, |channel| {
                let request = v1::MetadataRequest {
                    topics: topics.clone(),
                };
                async move { connection::data(channel).metadata(request).await }
            })
            .await?;
        Ok(answer.topics.into_iter().map(TopicPlace::from).collect())
    }
}
