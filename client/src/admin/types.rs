//! Parameters and results of [`Admin`](super::Admin): plain data, most of it serializable to JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use streamhouse_core::consumer_protocol::ConsumerAssignment;
use streamhouse_core::{Error as CoreError, TopicPartition, protocol::v1};

use crate::connection::item_error;

/// A topic to create, see [`Admin::create_topic`](super::Admin::create_topic).
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// A change of a topic, see [`Admin::alter_topic`](super::Admin::alter_topic).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

/// A topic in a list, see [`Admin::start_listing`](super::Admin::start_listing).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
pub struct TopicLeaders {
    /// Name of the topic.
    pub name: String,
    /// Error of the topic, if its metadata is not available.
    pub error: Option<CoreError>,
    /// Address of each partition's leader, by partition index; `None` while there is no leader.
    pub leaders: Vec<Option<String>>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// Offset to look up, see [`Admin::list_offsets`](super::Admin::list_offsets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Offset of the oldest record.
    Earliest,
    /// Offset after the newest record.
    Latest,
    /// Offset of the first record with this timestamp or a later one, in milliseconds since the
    /// Unix epoch; the high watermark if there is none.
    Timestamp(i64),
}

/// Result of an offset lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartitionOffset {
    /// The offset.
    pub offset: i64,
    /// Timestamp of the record at that offset; -1 if the lookup was not by timestamp or found no
    /// record.
    pub timestamp_ms: i64,
}

/// A group in a list, see [`Admin::list_groups`](super::Admin::list_groups).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// A group's committed offset for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommittedOffset {
    /// Offset of the next record to read.
    pub offset: i64,
    /// Metadata that was committed with the offset.
    pub metadata: String,
    /// Time of the commit, in milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
}

/// A group's progress in a partition, see [`Admin::group_offsets`](super::Admin::group_offsets).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
pub struct OffsetReset {
    /// The partition.
    pub partition: TopicPartition,
    /// Offset of the next record to read.
    pub offset: i64,
}

impl From<v1::TopicListing> for TopicListing {
    fn from(topic: v1::TopicListing) -> Self {
        let v1::TopicListing {
            name,
            topic_id,
            partitions,
            internal,
        } = topic;
        Self {
            name,
            topic_id,
            partitions,
            internal,
        }
    }
}

impl From<v1::TopicDescription> for TopicInfo {
    fn from(topic: v1::TopicDescription) -> Self {
        Self {
            name: topic.name,
            topic_id: topic.topic_id,
            config: topic.config.into_iter().collect(),
            overridden: topic.overridden,
            partitions: topic.partitions.into_iter().map(PartitionInfo::from).collect(),
            created_at_ms: topic.created_at_ms,
        }
    }
}

impl From<v1::PartitionDescription> for PartitionInfo {
    fn from(partition: v1::PartitionDescription) -> Self {
        let epoch = partition.leader.as_ref().map_or(-1, |leader| leader.epoch);
        let leader = partition.leader.unwrap_or_default();
        Self {
            partition: partition.partition,
            leader: leader.agent_id,
            leader_address: leader.address,
            leader_epoch: epoch,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            size_bytes: partition.size_bytes,
        }
    }
}

impl From<v1::TopicMetadata> for TopicLeaders {
    fn from(topic: v1::TopicMetadata) -> Self {
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition);
        let address = |leader: v1::Leader| (!leader.address.is_empty()).then_some(leader.address);
        Self {
            name: topic.name,
            error: item_error(topic.error),
            leaders: partitions
                .into_iter()
                .map(|partition| partition.leader.and_then(address))
                .collect(),
        }
    }
}

impl From<v1::AgentDescription> for AgentInfo {
    fn from(agent: v1::AgentDescription) -> Self {
        let v1::AgentDescription {
            agent_id,
            node_id,
            grpc_address,
            http_address,
            kafka_address,
            zone,
            version,
            leases,
        } = agent;
        Self {
            agent_id,
            node_id,
            grpc_address,
            http_address,
            kafka_address,
            zone,
            version,
            leases,
        }
    }
}

impl From<v1::DescribeClusterResponse> for ClusterInfo {
    fn from(cluster: v1::DescribeClusterResponse) -> Self {
        Self {
            cluster_id: cluster.cluster_id,
            agents: cluster.agents.into_iter().map(AgentInfo::from).collect(),
            topics: cluster.topics,
            partitions: cluster.partitions,
            version: cluster.version,
            metadata_store: cluster.metadata_store,
            object_store: cluster.object_store,
        }
    }
}

impl From<v1::GroupListing> for GroupListing {
    fn from(group: v1::GroupListing) -> Self {
        let v1::GroupListing {
            group_id,
            state,
            protocol_type,
            members,
        } = group;
        Self {
            group_id,
            state,
            protocol_type,
            members,
        }
    }
}

impl From<v1::GroupDescription> for GroupInfo {
    fn from(group: v1::GroupDescription) -> Self {
        Self {
            group_id: group.group_id,
            state: group.state,
            generation: group.generation,
            protocol_type: group.protocol_type,
            protocol_name: group.protocol_name,
            leader: group.leader,
            members: group.members.into_iter().map(GroupMember::from).collect(),
            coordinator: group.coordinator.map(|leader| leader.address).unwrap_or_default(),
        }
    }
}

impl From<v1::GroupMember> for GroupMember {
    fn from(member: v1::GroupMember) -> Self {
        Self {
            assignment: decode_assignment(&member.assignment),
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            client_id: member.client_id,
            client_host: member.client_host,
        }
    }
}

/// Decodes the partitions of an assignment; none if it is of another protocol type.
fn decode_assignment(bytes: &Bytes) -> Vec<TopicPartition> {
    let mut partitions = ConsumerAssignment::decode(bytes.clone())
        .map(|assignment| assignment.partitions)
        .unwrap_or_default();
    partitions.sort();
    partitions
}
