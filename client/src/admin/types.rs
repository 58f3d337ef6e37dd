//! Parameters and results of [`Admin`](super::Admin): plain data, most of it serializable to JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use streamhouse_core::{Error as ClusterError, TopicPartition};

use crate::queries::CommittedOffset;

/// A topic to create, see [`Admin::create_topic`](super::Admin::create_topic).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewTopic {
    /// Name of the topic.
    pub name: String,
    /// Number of partitions; 0 for the cluster's default.
    pub partitions: i32,
    /// Topic settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// Whether to check the request without creating the topic.
    pub validate_only: bool,
}

impl NewTopic {
    /// Creates a request with default topic settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            config: BTreeMap::new(),
            validate_only: false,
        }
    }

    /// Adds a topic setting.
    #[must_use]
    pub fn with_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Sets whether to check the request without creating the topic.
    #[must_use]
    pub fn with_validate_only(mut self, validate_only: bool) -> Self {
        self.validate_only = validate_only;
        self
    }
}

/// A change of a topic, see [`Admin::alter_topic`](super::Admin::alter_topic).
///
/// # Examples
///
/// ```
/// use streamhouse_client::admin::TopicChange;
///
/// let change = TopicChange::new().with_partitions(12).with_config("retention.ms", "86400000");
/// assert_eq!(change.partitions, Some(12));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TopicChange {
    /// New number of partitions, which can only grow; `None` keeps the current one.
    pub partitions: Option<i32>,
    /// Topic settings to set.
    pub set: BTreeMap<String, String>,
    /// Topic settings to reset to their defaults.
    pub reset: Vec<String>,
    /// Whether to check the request without changing the topic.
    pub validate_only: bool,
}

impl TopicChange {
    /// Creates a change that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the number of partitions.
    #[must_use]
    pub fn with_partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Adds a topic setting to set.
    #[must_use]
    pub fn with_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.insert(key.into(), value.into());
        self
    }

    /// Adds a topic setting to reset to its default.
    #[must_use]
    pub fn with_reset(mut self, key: impl Into<String>) -> Self {
        self.reset.push(key.into());
        self
    }

    /// Sets whether to check the request without changing the topic.
    #[must_use]
    pub fn with_validate_only(mut self, validate_only: bool) -> Self {
        self.validate_only = validate_only;
        self
    }
}

/// A topic in a list, see [`Admin::list_topics`](super::Admin::list_topics).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TopicListing {
    /// Name of the topic.
    pub name: String,
    /// Id of the topic; never used again, even for a later topic of the same name.
    pub topic_id: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Whether the topic is internal to the cluster.
    pub internal: bool,
}

/// Description of a topic, see [`Admin::describe_topic`](super::Admin::describe_topic).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Name of the topic.
    pub name: String,
    /// Id of the topic; never used again, even for a later topic of the same name.
    pub topic_id: String,
    /// Effective value of every topic setting.
    pub config: BTreeMap<String, String>,
    /// Names of the settings that differ from the defaults by having been set.
    pub overridden: Vec<String>,
    /// The partitions, in order.
    pub partitions: Vec<PartitionInfo>,
    /// Time of creation, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// Description of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// Index of the partition, from 0.
    pub partition: i32,
    /// Id of the leader; empty while there is none.
    pub leader: String,
    /// Address of the leader, `host:port`; empty while there is none.
    pub leader_address: String,
    /// Leader epoch, which rises when the leader changes; -1 before the first leader.
    pub leader_epoch: i32,
    /// Offset of the oldest record.
    pub log_start_offset: i64,
    /// Offset after the last committed record.
    pub high_watermark: i64,
    /// Size of the stored records, in compressed bytes.
    pub size_bytes: i64,
}

/// Leaders of a topic's partitions, see [`Admin::metadata`](super::Admin::metadata).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicLeaders {
    /// Name of the topic.
    pub name: String,
    /// Error of the topic, if its metadata is not available.
    pub error: Option<ClusterError>,
    /// Address of each partition's leader, by partition index; `None` while there is no leader.
    pub leaders: Vec<Option<String>>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct AgentInfo {
    /// Id of the agent.
    pub agent_id: String,
    /// Node id in Kafka's protocol.
    pub node_id: i32,
    /// Address of the gRPC listener, `host:port`.
    pub grpc_address: String,
    /// Address of the HTTP listener for health and metrics, `host:port`.
    pub http_address: String,
    /// Address of the Kafka listener, `host:port`; empty if there is none.
    pub kafka_address: String,
    /// Availability zone; empty if not set.
    pub zone: String,
    /// Software version.
    pub version: String,
    /// Number of partitions that the agent leads.
    pub leases: u32,
}

/// Description of the cluster, see [`Admin::describe_cluster`](super::Admin::describe_cluster).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct ClusterInfo {
    /// Id of the cluster.
    pub cluster_id: String,
    /// The agents.
    pub agents: Vec<AgentInfo>,
    /// Number of topics.
    pub topics: u32,
    /// Number of partitions.
    pub partitions: u32,
    /// Software version of the agent that answered.
    pub version: String,
    /// Kind and location of the metadata store, without credentials.
    pub metadata_store: String,
    /// Kind and location of the object store, without credentials.
    pub object_store: String,
}

/// A group in a list, see [`Admin::list_groups`](super::Admin::list_groups).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupListing {
    /// Name of the group.
    pub group_id: String,
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`.
    pub state: String,
    /// Protocol type; `consumer` for consumer groups.
    pub protocol_type: String,
    /// Number of members.
    pub members: u32,
}

/// Description of a group, see [`Admin::describe_group`](super::Admin::describe_group).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Name of the group.
    pub group_id: String,
    /// State, see [`GroupListing::state`].
    pub state: String,
    /// Generation, which rises with every rebalance.
    pub generation: i32,
    /// Protocol type; `consumer` for consumer groups.
    pub protocol_type: String,
    /// Name of the assignor in use.
    pub protocol_name: String,
    /// Member id of the member that computes the assignment.
    pub leader: String,
    /// The members.
    pub members: Vec<GroupMember>,
    /// Address of the group coordinator.
    pub coordinator: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct GroupMember {
    /// Member id, given by the coordinator.
    pub member_id: String,
    /// Group instance id of a static member; empty otherwise.
    pub group_instance_id: String,
    /// Client id of the member.
    pub client_id: String,
    /// Host that the member connects from.
    pub client_host: String,
    /// Assigned partitions; empty while the group rebalances, and if the assignment is of another
    /// protocol type.
    pub assignment: Vec<TopicPartition>,
}

/// A group's progress in a partition, see [`Admin::group_offsets`](super::Admin::group_offsets).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The committed offset; `None` if there is none.
    pub committed: Option<CommittedOffset>,
    /// Offset of the oldest record.
    pub log_start_offset: i64,
    /// Offset after the last committed record.
    pub high_watermark: i64,
    /// Records between the committed offset (or the log start offset without one) and the high
    /// watermark.
    pub lag: i64,
    /// Member id of the member that the partition is assigned to; empty if there is none.
    pub member_id: String,
    /// Client id of that member.
    pub client_id: String,
}

/// Offset to set for a group without members, see
/// [`Admin::reset_offsets`](super::Admin::reset_offsets).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OffsetReset {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the next record to read.
    pub offset: i64,
}

impl OffsetReset {
    /// Creates a reset of a partition to this offset.
    pub fn new(partition: TopicPartition, offset: i64) -> Self {
        Self { partition, offset }
    }
}

impl GroupOffset {
    /// Creates the progress in an empty partition that the group has not read.
    pub fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            committed: None,
            log_start_offset: 0,
            high_watermark: 0,
            lag: 0,
            member_id: String::new(),
            client_id: String::new(),
        }
    }
}

/// A user that has a password, see [`Admin::list_users`](super::Admin::list_users).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UserListing {
    /// Its name.
    pub name: String,
    /// By which it can authenticate.
    pub credentials: Vec<UserCredential>,
}

/// A way in which a user can authenticate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UserCredential {
    /// `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// How often the password is hashed.
    pub iterations: u32,
}

/// Whether a principal may do something, see
/// [`Admin::explain_access`](super::Admin::explain_access).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AccessDecision {
    /// The answer.
    pub allowed: bool,
    /// The answer with its reason, for people.
    pub decision: String,
    /// The rule that decides, if one does.
    pub rule: Option<super::AclBinding>,
}
