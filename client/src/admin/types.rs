//! What [`Admin`](super::Admin) takes and gives: plain data, ready to be printed or turned into JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use streamhouse_core::consumer_protocol::Assignment;
use streamhouse_core::{Error as CoreError, TopicPartition, protocol::v1};

use crate::connection::item_error;

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; 0 takes the cluster's default.
    pub partitions: i32,
    /// Settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// Checks everything, creates nothing.
    pub validate_only: bool,
}

impl NewTopic {
    /// A topic with default settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            config: BTreeMap::new(),
            validate_only: false,
        }
    }

    /// With a setting.
    #[must_use]
    pub fn with_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }
}

/// A change of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicChange {
    /// The new number of partitions; it can only grow. `None` leaves it.
    pub partitions: Option<i32>,
    /// Settings to set.
    pub set: BTreeMap<String, String>,
    /// Settings that go back to their defaults.
    pub reset: Vec<String>,
    /// Checks everything, changes nothing.
    pub validate_only: bool,
}

/// A topic in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// Unique for ever.
    pub topic_id: String,
    /// How many partitions.
    pub partitions: i32,
    /// The cluster's own.
    pub internal: bool,
}

/// A topic in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Unique for ever.
    pub topic_id: String,
    /// Every setting with its value in force.
    pub config: BTreeMap<String, String>,
    /// The settings that were set, not defaulted.
    pub overridden: Vec<String>,
    /// In order.
    pub partitions: Vec<PartitionInfo>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// A partition in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionInfo {
    /// Counted from 0.
    pub partition: i32,
    /// The leading agent; empty while nobody leads.
    pub leader: String,
    /// Its address.
    pub leader_address: String,
    /// Rises when the leader changes; -1 before the first.
    pub leader_epoch: i32,
    /// The first offset kept.
    pub log_start_offset: i64,
    /// The offset after the last committed record.
    pub high_watermark: i64,
    /// Stored bytes, compressed.
    pub size_bytes: i64,
}

/// Who leads a topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlace {
    /// Its name.
    pub name: String,
    /// Why nothing is known of it.
    pub error: Option<CoreError>,
    /// Address of each partition's leader, by partition; `None` while nobody leads.
    pub leaders: Vec<Option<String>>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentInfo {
    /// Its id.
    pub agent_id: String,
    /// Its number for Kafka's protocol.
    pub node_id: i32,
    /// `host:port` of gRPC.
    pub grpc_address: String,
    /// `host:port` of health and metrics.
    pub http_address: String,
    /// `host:port` of Kafka's protocol; empty without.
    pub kafka_address: String,
    /// Its zone; empty without.
    pub zone: String,
    /// Of the software.
    pub version: String,
    /// How many partitions it leads.
    pub leases: u32,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterInfo {
    /// Its id.
    pub cluster_id: String,
    /// Its agents.
    pub agents: Vec<AgentInfo>,
    /// How many topics.
    pub topics: u32,
    /// How many partitions.
    pub partitions: u32,
    /// Of the software that answered.
    pub version: String,
    /// Kind and place, without credentials.
    pub metadata_store: String,
    /// Kind and place, without credentials.
    pub object_store: String,
}

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// Of the oldest record kept.
    Earliest,
    /// After the newest record.
    Latest,
    /// Of the first record whose timestamp is this or later, in milliseconds since the Unix epoch; the high watermark
    /// when no record is that late.
    Timestamp(i64),
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PartitionOffset {
    /// The offset.
    pub offset: i64,
    /// Timestamp of its record; -1 where none was asked for or found.
    pub timestamp_ms: i64,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupListing {
    /// Its name.
    pub group_id: String,
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Stable` or `Dead`.
    pub state: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// How many members.
    pub members: u32,
}

/// A group in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// Its name.
    pub group_id: String,
    /// See [`GroupListing::state`].
    pub state: String,
    /// Rises with every rebalance.
    pub generation: i32,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor in force.
    pub protocol_name: String,
    /// The member that assigns.
    pub leader: String,
    /// Its members.
    pub members: Vec<GroupMember>,
    /// Address of the agent that coordinates it.
    pub coordinator: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupMember {
    /// Given by the coordinator.
    pub member_id: String,
    /// Static membership; empty without.
    pub group_instance_id: String,
    /// As the member calls itself.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// What it reads; empty while the group rebalances, or where it cannot be read.
    pub assignment: Vec<TopicPartition>,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// A note of the committer.
    pub metadata: String,
    /// Milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
}

/// A group's progress in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// `None` where the group has committed nothing.
    pub committed: Option<CommittedOffset>,
    /// The first offset kept.
    pub log_start_offset: i64,
    /// The offset after the last committed record.
    pub high_watermark: i64,
    /// Records between them; from the log's start where nothing is committed.
    pub lag: i64,
    /// The member that reads it now; empty without.
    pub member_id: String,
    /// That member's client id.
    pub client_id: String,
}

/// An offset to set for a group without members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OffsetReset {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to read.
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

impl From<v1::TopicMetadata> for TopicPlace {
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
            assignment: assigned(&member.assignment),
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            client_id: member.client_id,
            client_host: member.client_host,
        }
    }
}

/// The partitions of assignment bytes; none where they are another protocol's.
fn assigned(bytes: &Bytes) -> Vec<TopicPartition> {
    let mut partitions = Assignment::decode(bytes.clone())
        .map(|assignment| assignment.partitions)
        .unwrap_or_default();
    partitions.sort();
    partitions
}
