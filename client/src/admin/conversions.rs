//! Conversions of agents' answers into the types of [`Admin`](super::Admin).

use bytes::Bytes;
use streamhouse_core::{TopicPartition, consumer_protocol::ConsumerAssignment, protocol::v1};

use super::{
    AgentInfo, ClusterInfo, GroupInfo, GroupListing, GroupMember, PartitionInfo, TopicInfo, TopicLeaders,
    TopicListing,
};
use crate::connection::item_error;

impl TopicListing {
    pub(crate) fn from_protocol(topic: v1::TopicListing) -> Self {
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

impl TopicInfo {
    pub(crate) fn from_protocol(topic: v1::TopicDescription) -> Self {
        Self {
            name: topic.name,
            topic_id: topic.topic_id,
            config: topic.config.into_iter().collect(),
            overridden: topic.overridden,
            partitions: topic
                .partitions
                .into_iter()
                .map(PartitionInfo::from_protocol)
                .collect(),
            created_at_ms: topic.created_at_ms,
        }
    }
}

impl PartitionInfo {
    pub(crate) fn from_protocol(partition: v1::PartitionDescription) -> Self {
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

impl TopicLeaders {
    pub(crate) fn from_protocol(topic: v1::TopicMetadata) -> Self {
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

impl AgentInfo {
    pub(crate) fn from_protocol(agent: v1::AgentDescription) -> Self {
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

impl ClusterInfo {
    pub(crate) fn from_protocol(cluster: v1::DescribeClusterResponse) -> Self {
        Self {
            cluster_id: cluster.cluster_id,
            agents: cluster.agents.into_iter().map(AgentInfo::from_protocol).collect(),
            topics: cluster.topics,
            partitions: cluster.partitions,
            version: cluster.version,
            metadata_store: cluster.metadata_store,
            object_store: cluster.object_store,
        }
    }
}

impl GroupListing {
    pub(crate) fn from_protocol(group: v1::GroupListing) -> Self {
        let v1::GroupListing {
            group_id,
            state,
            protocol_type,
            members,
            group_type: _,
        } = group;
        Self {
            group_id,
            state,
            protocol_type,
            members,
        }
    }
}

impl GroupInfo {
    pub(crate) fn from_protocol(group: v1::GroupDescription) -> Self {
        Self {
            group_id: group.group_id,
            state: group.state,
            generation: group.generation,
            protocol_type: group.protocol_type,
            protocol_name: group.protocol_name,
            leader: group.leader,
            members: group
                .members
                .into_iter()
                .map(GroupMember::from_protocol)
                .collect(),
            coordinator: group.coordinator.map(|leader| leader.address).unwrap_or_default(),
        }
    }
}

impl GroupMember {
    pub(crate) fn from_protocol(member: v1::GroupMember) -> Self {
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
