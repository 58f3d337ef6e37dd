//! The owners of topic names and the totals of topics, for the operator. Agents do not use them.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

/// The Kubernetes resource that manages a topic name. Two owners are the same if their `uid` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOwner {
    /// The uid of the resource; a resource that is deleted and created again has another one.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub resource: String,
}

impl fmt::Display for TopicOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.resource)
    }
}

/// All user topics and all owners as of one moment, by topic name.
///
/// A name can be in one map only: a topic without an owner, or an owner whose topic does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicsOverview {
    /// The topics that exist, without the internal one.
    pub topics: BTreeMap<String, TopicSummary>,
    /// The owners; see [`MetadataStore::claim_topic`](crate::MetadataStore::claim_topic).
    pub owners: BTreeMap<String, TopicOwner>,
}

/// The totals of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSummary {
    /// The id of the topic; another id under the same name is another topic.
    pub topic_id: Uuid,
    /// The settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// The number of partitions.
    pub partitions: i32,
    /// The sum of the high watermarks: all records ever appended.
    pub high_watermark: i64,
    /// The sum of the log starts: all records deleted.
    pub log_start: i64,
    /// The stored bytes; see [`LogBounds::size_bytes`](crate::LogBounds::size_bytes).
    pub size_bytes: i64,
}
