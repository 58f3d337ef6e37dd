//! The persisted form of a group, which survives the agent that coordinates it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use streamhouse_core::{Error, ErrorCode};
use uuid::Uuid;

use super::{
    ConsumerGroup, ConsumerGroupRules, ConsumerMember, MemberEntry, MemberReconciliation,
    assignor::ServerAssignor,
    catalog::TopicShape,
    partitions::{PartitionEpochs, PartitionKey, PartitionSet, partitions_by_topic},
};

/// The format version of [`StoredConsumerGroup`]. Those of classic groups have other ones.
pub const CONSUMER_GROUP_FORMAT: u32 = 2;

const STABLE: u32 = 1;
const UNREVOKED_PARTITIONS: u32 = 2;
const UNRELEASED_PARTITIONS: u32 = 3;

#[derive(Clone, PartialEq, Message)]
struct StoredConsumerGroup {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(int32, tag = "2")]
    assignment_epoch: i32,
    #[prost(message, repeated, tag = "3")]
    topics: Vec<StoredTopic>,
    #[prost(message, repeated, tag = "4")]
    members: Vec<StoredConsumerMember>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredTopic {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(int32, tag = "3")]
    partitions: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StoredConsumerMember {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, optional, tag = "2")]
    instance: Option<String>,
    #[prost(string, optional, tag = "3")]
    rack: Option<String>,
    #[prost(string, tag = "4")]
    client_id: String,
    #[prost(string, tag = "5")]
    client_host: String,
    #[prost(int64, tag = "6")]
    rebalance_ms: i64,
    #[prost(string, repeated, tag = "7")]
    topics: Vec<String>,
    #[prost(string, optional, tag = "8")]
    pattern: Option<String>,
    /// Empty if it prefers none.
    #[prost(string, tag = "9")]
    assignor: String,
    #[prost(int32, tag = "10")]
    epoch: i32,
    #[prost(int32, tag = "11")]
    previous_epoch: i32,
    /// [`STABLE`], [`UNREVOKED_PARTITIONS`] or [`UNRELEASED_PARTITIONS`].
    #[prost(uint32, tag = "12")]
    reconciliation: u32,
    #[prost(message, repeated, tag = "13")]
    assigned: Vec<StoredPartitions>,
    #[prost(message, repeated, tag = "14")]
    revoking: Vec<StoredPartitions>,
    #[prost(message, repeated, tag = "15")]
    target: Vec<StoredPartitions>,
}

/// Partitions of one topic.
#[derive(Clone, PartialEq, Message)]
struct StoredPartitions {
    #[prost(bytes = "bytes", tag = "1")]
    topic: Bytes,
    #[prost(int32, repeated, tag = "2")]
    partitions: Vec<i32>,
    /// In the order of the partitions; none in a target.
    #[prost(int32, repeated, tag = "3")]
    epochs: Vec<i32>,
}

impl ConsumerGroup {
    /// Encodes what another coordinator needs to continue the group. A group without members keeps
    /// its protocol.
    pub fn to_state(&self) -> Vec<u8> {
        let topics = self.topics.iter().map(|(name, shape)| StoredTopic {
            name: name.to_string(),
            id: encode_id(shape.id),
            partitions: shape.partitions,
        });
        let members = self.members.iter();
        let stored = StoredConsumerGroup {
            format: CONSUMER_GROUP_FORMAT,
            assignment_epoch: self.assignment_epoch,
            topics: topics.collect(),
            members: members
                .map(|(id, entry)| encode_member(id, &entry.member))
                .collect(),
        };
        stored.encode_to_vec()
    }

    /// Decodes a stored group. Its members get a fresh session, so that they continue as if nothing
    /// had happened.
    ///
    /// # Errors
    /// UNKNOWN if the bytes cannot be decoded.
    pub fn load(rules: ConsumerGroupRules, epoch: i32, state: &[u8], now: i64) -> Result<Self, Error> {
        let stored = StoredConsumerGroup::decode(state).map_err(|error| unreadable(&error.to_string()))?;
        let mut group = Self::new(rules, epoch);
        group.assignment_epoch = stored.assignment_epoch.min(epoch);
        for topic in stored.topics {
            let shape = TopicShape {
                id: decode_id(&topic.id)?,
                partitions: topic.partitions,
            };
            group.topics.insert(topic.name.into(), shape);
        }
        for stored in stored.members {
            group.restore_member(now, stored)?;
        }
        Ok(group)
    }

    fn restore_member(&mut self, now: i64, stored: StoredConsumerMember) -> Result<(), Error> {
        let id = Arc::from(stored.id.as_str());
        let member = decode_member(stored)?;
        if let Some(instance) = &member.instance {
            self.static_members.insert(instance.clone(), Arc::clone(&id));
        }
        let revokes = member.reconciliation == MemberReconciliation::UnrevokedPartitions;
        let entry = MemberEntry {
            expires: now.saturating_add(self.rules.session_ms),
            revoke_until: revokes.then(|| now.saturating_add(member.rebalance_ms)),
            member: Arc::new(member),
        };
        self.members.insert(id, entry);
        Ok(())
    }
}

fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorCode::Unknown,
        format!("the stored group cannot be decoded: {why}"),
    )
}

fn encode_id(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn decode_id(id: &[u8]) -> Result<Uuid, Error> {
    Uuid::from_slice(id).map_err(|error| unreadable(&error.to_string()))
}

fn encode_member(id: &str, member: &ConsumerMember) -> StoredConsumerMember {
    StoredConsumerMember {
        id: id.to_owned(),
        instance: member.instance.as_deref().map(str::to_owned),
        rack: member.rack.as_deref().map(str::to_owned),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        rebalance_ms: member.rebalance_ms,
        topics: member.topics.iter().map(|topic| topic.to_string()).collect(),
        pattern: member.pattern.as_deref().map(str::to_owned),
        assignor: member
            .assignor
            .map(|assignor| assignor.name().to_owned())
            .unwrap_or_default(),
        epoch: member.epoch,
        previous_epoch: member.previous_epoch,
        reconciliation: match member.reconciliation {
            MemberReconciliation::Stable => STABLE,
            MemberReconciliation::UnrevokedPartitions => UNREVOKED_PARTITIONS,
            MemberReconciliation::UnreleasedPartitions => UNRELEASED_PARTITIONS,
        },
        assigned: encode_epochs(&member.assigned),
        revoking: encode_epochs(&member.revoking),
        target: encode_partitions(member.target.iter().copied()),
    }
}

fn decode_member(stored: StoredConsumerMember) -> Result<ConsumerMember, Error> {
    Ok(ConsumerMember {
        instance: stored.instance.map(Arc::from),
        rack: stored.rack.map(Arc::from),
        client_id: stored.client_id.into(),
        client_host: stored.client_host.into(),
        rebalance_ms: stored.rebalance_ms,
        topics: stored.topics.into_iter().map(Arc::from).collect(),
        pattern: stored.pattern.map(Arc::from),
        assignor: ServerAssignor::from_name(&stored.assignor),
        epoch: stored.epoch,
        previous_epoch: stored.previous_epoch,
        reconciliation: match stored.reconciliation {
            STABLE => MemberReconciliation::Stable,
            UNREVOKED_PARTITIONS => MemberReconciliation::UnrevokedPartitions,
            UNRELEASED_PARTITIONS => MemberReconciliation::UnreleasedPartitions,
            other => return Err(unreadable(&format!("unknown state {other} of a member"))),
        },
        assigned: decode_epochs(stored.assigned)?,
        revoking: decode_epochs(stored.revoking)?,
        target: Arc::new(decode_partitions(stored.target)?),
    })
}

fn encode_partitions(partitions: impl Iterator<Item = PartitionKey>) -> Vec<StoredPartitions> {
    let topics = partitions_by_topic(partitions).into_iter();
    topics
        .map(|(topic, partitions)| StoredPartitions {
            topic: encode_id(topic),
            partitions,
            epochs: Vec::new(),
        })
        .collect()
}

fn encode_epochs(partitions: &PartitionEpochs) -> Vec<StoredPartitions> {
    let mut stored = encode_partitions(partitions.keys().copied());
    let mut epochs = partitions.values().copied();
    for topic in &mut stored {
        topic.epochs = epochs.by_ref().take(topic.partitions.len()).collect();
    }
    stored
}

fn decode_epochs(stored: Vec<StoredPartitions>) -> Result<PartitionEpochs, Error> {
    let mut partitions = PartitionEpochs::new();
    for topic in stored {
        let id = decode_id(&topic.topic)?;
        if topic.epochs.len() != topic.partitions.len() {
            return Err(unreadable("a partition has no epoch"));
        }
        let with_epochs = topic.partitions.into_iter().zip(topic.epochs);
        partitions.extend(with_epochs.map(|(partition, epoch)| ((id, partition), epoch)));
    }
    Ok(partitions)
}

fn decode_partitions(stored: Vec<StoredPartitions>) -> Result<PartitionSet, Error> {
    let mut partitions = PartitionSet::new();
    for topic in stored {
        let id = decode_id(&topic.topic)?;
        partitions.extend(topic.partitions.into_iter().map(|partition| (id, partition)));
    }
    Ok(partitions)
}
