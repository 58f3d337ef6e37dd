//! [`Admin`]: administration of topics, records, offsets, groups and the cluster. Group calls go to
//! the group's coordinator, all others to any agent; both are retried for up to
//! [`ClientConfig::api_timeout`].

mod conversions;
mod groups;
mod offsets;
mod security;
mod topics;
mod types;

pub use types::{
    AccessDecision, AgentInfo, ClusterInfo, GroupInfo, GroupListing, GroupMember, GroupOffset, NewTopic,
    OffsetReset, PartitionInfo, TopicChange, TopicInfo, TopicLeaders, TopicListing, UserCredential,
    UserListing,
};

/// Re-exported: ACLs in Kafka's terms.
#[doc(inline)]
pub use streamhouse_core::security::{
    AclBinding, AclError, AclFilter, AclHost, AclOperation, AclPatternFilter, AclPatternType, AclPermission,
    AclResourceType, KafkaPrincipal, PrincipalError, ScramMechanism,
};

pub use crate::queries::{CommittedOffset, OffsetSpec, PartitionOffset};

use streamhouse_core::protocol::v1;

use crate::{Client, config::ClientConfig, connection, error::Result};

/// Administers a cluster. Cheap to clone.
///
/// Calls fail with [`Error::Cluster`](crate::Error::Cluster) if the cluster rejects the request,
/// and with [`Error::Timeout`](crate::Error::Timeout) if no agent answers within `api_timeout`.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use streamhouse_client::{Admin, admin::NewTopic};
///
/// let admin = Admin::connect("localhost:50051")?;
/// admin.create_topic(NewTopic::new("orders", 6).with_config("retention.ms", "86400000")).await?;
/// for partition in admin.describe_topic("orders").await?.partitions {
///     println!("{}: led by {}", partition.partition, partition.leader);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Client {
    /// Returns an admin on this client's connections.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone() }
    }
}

impl Admin {
    /// Creates an admin with default settings and its own connections. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn connect(bootstrap: impl Into<String>) -> Result<Self> {
        Ok(Self {
            client: Client::connect(bootstrap)?,
        })
    }

    /// Creates an admin with this configuration and its own connections. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_config(config: ClientConfig) -> Result<Self> {
        Ok(Self {
            client: Client::new(config)?,
        })
    }

    /// Returns the client that this admin calls with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the cluster and its agents.
    ///
    /// # Errors
    /// [`Error::Cluster`](crate::Error::Cluster) and [`Error::Timeout`](crate::Error::Timeout).
    pub async fn describe_cluster(&self) -> Result<ClusterInfo> {
        let deadline = self.client.api_deadline();
        let (answer, _) = self
            .client
            .call_any_agent("describing the cluster", deadline, |channel| async move {
                connection::admin_client(channel)
                    .describe_cluster(v1::DescribeClusterRequest {})
                    .await
            })
            .await?;
        Ok(ClusterInfo::from_protocol(answer))
    }

    /// Returns the leaders of the partitions of these topics, or of all topics if `topics` is
    /// empty. Cheaper than [`Admin::describe_topic`], because it reads no offsets.
    ///
    /// # Errors
    /// [`Error::Cluster`](crate::Error::Cluster) and [`Error::Timeout`](crate::Error::Timeout). An
    /// error of a single topic is in its [`TopicLeaders::error`].
    pub async fn metadata(&self, topics: &[&str]) -> Result<Vec<TopicLeaders>> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let deadline = self.client.api_deadline();
        let (answer, _) = self
            .client
            .call_any_agent("reading metadata", deadline, |channel| {
                let request = v1::MetadataRequest {
                    topics: topics.clone(),
                };
                async move { connection::data_client(channel).metadata(request).await }
            })
            .await?;
        Ok(answer
            .topics
            .into_iter()
            .map(TopicLeaders::from_protocol)
            .collect())
    }
}
