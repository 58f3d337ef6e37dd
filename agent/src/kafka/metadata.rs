//! Metadata: brokers, topics and the leaders of their partitions.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use streamhouse_core::{
    Error,
    ids::{MAX_TOPIC_NAME, topic_name_problem},
    kafka::{
        MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
        MetadataResponsePartition, MetadataResponseTopic,
    },
    protocol::v1,
    security::{AclOperation, AclResourceType},
};
use streamhouse_metadata::PartitionEntry;
use uuid::Uuid;

use super::{
    access::{
        OPERATIONS_NOT_ASKED, TOPIC_AUTHORIZATION_FAILED, authorized_operations, cluster_operations,
        refused_topics,
    },
    brokers::{self, KafkaBroker},
    error::{ErrorFamily, kafka_code},
    request::{RequestContext, each_once},
};
use crate::{
    directory::{ClusterView, DirectoryTopic},
    security::ClientAccess,
    topics,
};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;
const INVALID_TOPIC: i16 = 17;
pub(super) const LISTENER_NOT_FOUND: i16 = 72;
pub(super) const UNKNOWN_TOPIC_ID: i16 = 100;
/// Bytes of memory that a topic and a partition of an answer take at most, beside their names.
const TOPIC_MEMORY: usize = 512;
const PARTITION_MEMORY: usize = 256;
/// The first version whose clients know LISTENER_NOT_FOUND.
const FIRST_WITH_LISTENER_ERRORS: i16 = 6;

/// Serves Metadata.
pub(super) async fn metadata(context: RequestContext, request: MetadataRequest) -> MetadataResponse {
    // Version 0 has no null: no topics are all topics.
    let wanted = request
        .topics
        .filter(|topics| context.version > 0 || !topics.is_empty())
        .map(|topics| each_once(topics, |topic| (topic.topic_id, topic.name.clone())));
    let mut finder = TopicFinder::new(&context, wanted.as_deref()).await;
    if request.allow_auto_topic_creation {
        finder.create_missing(&context, wanted.as_deref()).await;
    }
    let view = &finder.view;
    context
        .reserve_answer(answer_memory(view, wanted.as_deref()))
        .await;
    let without_address = match context.version {
        FIRST_WITH_LISTENER_ERRORS.. => LISTENER_NOT_FOUND,
        _ => LEADER_NOT_AVAILABLE,
    };
    let cluster = DescribedCluster::new(view, &context, without_address);
    let asked = request.include_topic_authorized_operations;
    let describe = |topic: &Arc<DirectoryTopic>| cluster.topic(topic, asked);
    let topics = match &wanted {
        None => view
            .topics()
            .filter(|topic| !topic.record.internal && context.access().can_see_topic(&topic.record.name))
            .map(describe)
            .collect(),
        Some(wanted) => wanted
            .iter()
            .map(|topic| finder.find(topic).map_or_else(|| finder.missing(topic), describe))
            .collect(),
    };
    let cluster_authorized_operations = match request.include_cluster_authorized_operations {
        true => cluster_operations(context.access()),
        false => OPERATIONS_NOT_ASKED,
    };
    let brokers = cluster.brokers;
    MetadataResponse {
        controller_id: brokers.first().map_or(-1, |broker| broker.node_id),
        brokers: brokers.into_iter().map(described_broker).collect(),
        cluster_id: Some(view.cluster_id.clone()),
        topics,
        cluster_authorized_operations,
        ..MetadataResponse::default()
    }
}

/// Finds the topics that a client may know of.
struct TopicFinder<'a> {
    access: &'a ClientAccess,
    view: Arc<ClusterView>,
    /// Topics that are named and of which the client may not know whether they exist.
    refused: HashSet<&'a str>,
    /// Topics that do not exist and that the client may not create.
    uncreatable: BTreeSet<String>,
}

impl<'a> TopicFinder<'a> {
    /// Creates a finder whose view is new if a topic is not found in the present one. A topic that
    /// the client may not know of takes as long as one that does not exist.
    async fn new(context: &'a RequestContext, wanted: Option<&'a [MetadataRequestTopic]>) -> Self {
        let directory = &context.client.deps.directory;
        let named = wanted.into_iter().flatten().filter_map(topic_name);
        let mut finder = Self {
            access: context.access(),
            view: directory.view(),
            refused: refused_topics(context.access(), AclOperation::Describe, named),
            uncreatable: BTreeSet::new(),
        };
        let mut wanted = wanted.into_iter().flatten();
        if finder.view.version == 0 || wanted.any(|topic| finder.is_missing(topic)) {
            finder.view = directory.refresh().await;
        }
        finder
    }

    fn find(&self, wanted: &MetadataRequestTopic) -> Option<&Arc<DirectoryTopic>> {
        find(&self.view, wanted).filter(|topic| match topic_name(wanted) {
            Some(name) => !self.refused.contains(name),
            None => self.access.can_see_topic(&topic.record.name),
        })
    }

    fn is_refused(&self, wanted: &MetadataRequestTopic) -> bool {
        topic_name(wanted).is_some_and(|name| self.refused.contains(name))
    }

    fn is_missing(&self, wanted: &MetadataRequestTopic) -> bool {
        !self.is_refused(wanted) && self.find(wanted).is_none()
    }

    /// Creates the topics that do not exist, if the client may.
    async fn create_missing(&mut self, context: &RequestContext, wanted: Option<&[MetadataRequestTopic]>) {
        let Some(partitions) = context.client.deps.auto_create_partitions else {
            return;
        };
        let wanted = wanted.into_iter().flatten();
        let missing = wanted.filter(|topic| self.is_missing(topic));
        let missing = missing.filter_map(topic_name).map(str::to_owned);
        let (creatable, uncreatable) = missing.partition(|name| self.access.check_creation(name).is_ok());
        self.uncreatable = uncreatable;
        if create_topics(context, creatable, partitions).await {
            self.view = context.client.deps.directory.view();
        }
    }

    /// Returns the answer for a topic that was not found.
    fn missing(&self, wanted: &MetadataRequestTopic) -> MetadataResponseTopic {
        let is_uncreatable = topic_name(wanted).is_some_and(|name| self.uncreatable.contains(name));
        MetadataResponseTopic {
            error_code: match self.is_refused(wanted) || is_uncreatable {
                true => TOPIC_AUTHORIZATION_FAILED,
                false => missing_topic_code(wanted.name.as_deref(), wanted.topic_id),
            },
            name: wanted.name.clone(),
            topic_id: wanted.topic_id,
            topic_authorized_operations: OPERATIONS_NOT_ASKED,
            ..MetadataResponseTopic::default()
        }
    }
}

/// Returns the name of a topic that is not named by its id.
fn topic_name(wanted: &MetadataRequestTopic) -> Option<&str> {
    wanted.name.as_deref().filter(|_| wanted.topic_id.is_nil())
}

/// Returns the memory that the answer for these topics takes at most, for all topics if `None`.
fn answer_memory(view: &ClusterView, wanted: Option<&[MetadataRequestTopic]>) -> usize {
    let topic_memory =
        |topic: &Arc<DirectoryTopic>| TOPIC_MEMORY + PARTITION_MEMORY * topic.record.partitions.len();
    match wanted {
        None => view.topics().map(topic_memory).sum(),
        Some(wanted) => {
            let known = wanted.iter().filter_map(|topic| find(view, topic));
            known.map(topic_memory).sum::<usize>() + TOPIC_MEMORY * wanted.len()
        }
    }
}

fn find<'a>(view: &'a ClusterView, wanted: &MetadataRequestTopic) -> Option<&'a Arc<DirectoryTopic>> {
    let found = match &wanted.name {
        _ if !wanted.topic_id.is_nil() => view.topic_by_id(wanted.topic_id),
        Some(name) => view.topic(name),
        None => None,
    };
    found.filter(|topic| !topic.record.internal)
}

/// Creates topics. Returns whether one was created.
async fn create_topics(context: &RequestContext, names: BTreeSet<String>, partitions: i32) -> bool {
    let deps = &context.client.deps;
    let mut created = false;
    for name in names {
        let request = v1::CreateTopicRequest {
            name: name.clone(),
            partitions,
            ..v1::CreateTopicRequest::default()
        };
        match topics::create(&deps.topics, request).await {
            Ok(_) => created = true,
            // The answer says that there is no such topic; its client asks again.
            Err(error) => tracing::debug!(topic = name, %error, "cannot create a topic for a Kafka client"),
        }
    }
    created
}

/// Returns the code for a topic that does not exist.
pub(super) fn missing_topic_code(name: Option<&str>, topic_id: Uuid) -> i16 {
    match name {
        _ if !topic_id.is_nil() => UNKNOWN_TOPIC_ID,
        Some(name) if topic_name_problem(name).is_some() => INVALID_TOPIC,
        _ => UNKNOWN_TOPIC_OR_PARTITION,
    }
}

/// The cluster as the clients of one listener see it.
pub(super) struct DescribedCluster<'a> {
    view: &'a ClusterView,
    access: &'a ClientAccess,
    /// In the order of their numbers.
    brokers: Vec<KafkaBroker>,
    /// The code of a partition whose leader has no address on the listener.
    without_address: i16,
}

impl<'a> DescribedCluster<'a> {
    pub(super) fn new(view: &'a ClusterView, context: &'a RequestContext, without_address: i16) -> Self {
        Self {
            view,
            access: context.access(),
            brokers: brokers::all(view, &context.client.addresses),
            without_address,
        }
    }

    fn leader(&self, record: &PartitionEntry) -> Option<&KafkaBroker> {
        let node_id = self.view.agent(record.holder?)?.node_id;
        let found = self
            .brokers
            .binary_search_by_key(&node_id, |broker| broker.node_id);
        self.brokers.get(found.ok()?)
    }

    fn topic(&self, topic: &DirectoryTopic, operations: bool) -> MetadataResponseTopic {
        let partitions = (0_i32..).zip(&topic.record.partitions);
        let partitions = partitions.map(|(index, record)| self.partition(index, record));
        MetadataResponseTopic {
            name: Some(topic.record.name.clone()),
            topic_id: topic.record.topic_id,
            partitions: partitions.collect(),
            topic_authorized_operations: match operations {
                true => authorized_operations(self.access, AclResourceType::Topic, &topic.record.name),
                false => OPERATIONS_NOT_ASKED,
            },
            ..MetadataResponseTopic::default()
        }
    }

    /// Describes a partition with its leader.
    pub(super) fn partition(
        &self,
        partition_index: i32,
        record: &PartitionEntry,
    ) -> MetadataResponsePartition {
        let Some(leader) = self.leader(record) else {
            return MetadataResponsePartition {
                error_code: match self.view.is_led(record) {
                    true => self.without_address,
                    false => LEADER_NOT_AVAILABLE,
                },
                partition_index,
                leader_id: -1,
                leader_epoch: record.epoch,
                ..MetadataResponsePartition::default()
            };
        };
        let replicas = brokers::replicas(&self.brokers, leader);
        MetadataResponsePartition {
            partition_index,
            leader_id: leader.node_id,
            leader_epoch: record.epoch,
            replica_nodes: replicas.clone(),
            isr_nodes: replicas,
            ..MetadataResponsePartition::default()
        }
    }
}

fn described_broker(broker: KafkaBroker) -> MetadataResponseBroker {
    MetadataResponseBroker {
        node_id: broker.node_id,
        host: broker.host,
        port: broker.port,
        rack: broker.rack,
    }
}

/// A topic that a request names by its name or its id.
#[derive(Clone)]
pub(super) struct NamedTopic {
    pub(super) name: String,
    /// Empty if the request has a name.
    pub(super) topic_id: String,
}

/// Returns as much of a topic's name as is hardly longer than any topic's: it is copied for each
/// partition of a request, and what is cut names no topic, as before.
pub(super) fn bounded_name(name: &str) -> &str {
    &name[..name.ceil_char_boundary(MAX_TOPIC_NAME + 1)]
}

/// Returns the topic that a request means by a name or, if it is not nil, an id. The name is empty
/// if there is no topic with the id.
pub(super) fn named_topic(view: &ClusterView, name: String, topic_id: Uuid) -> NamedTopic {
    if topic_id.is_nil() {
        let (name, topic_id) = (bounded_name(&name).to_owned(), String::new());
        return NamedTopic { name, topic_id };
    }
    let found = view.topic_by_id(topic_id);
    NamedTopic {
        name: found.map(|topic| topic.record.name.clone()).unwrap_or_default(),
        topic_id: topic_id.to_string(),
    }
}

/// Returns Kafka's code for an error of a partition of a topic that was named by its id: a client
/// that uses ids knows no names.
pub(super) fn partition_code(family: ErrorFamily, error: &Error, topic_id: Uuid) -> i16 {
    match kafka_code(family, error) {
        UNKNOWN_TOPIC_OR_PARTITION if !topic_id.is_nil() => UNKNOWN_TOPIC_ID,
        // UNKNOWN_TOPIC_ID is for the versions with ids.
        UNKNOWN_TOPIC_ID if topic_id.is_nil() => UNKNOWN_TOPIC_OR_PARTITION,
        code => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_topic_has_takes_little_memory_and_still_names_none() {
        let long = "ä".repeat(16_000);
        let topic = named_topic(&ClusterView::default(), long, Uuid::nil());
        assert!(topic.name.capacity() <= MAX_TOPIC_NAME + 1);
        assert!(topic_name_problem(&topic.name).is_some());
        let longest = "x".repeat(MAX_TOPIC_NAME);
        assert_eq!(bounded_name(&longest), longest);
        let longer = format!("{longest}ä");
        assert_ne!(bounded_name(&longer), longest, "not another topic");
    }
}
