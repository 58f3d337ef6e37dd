//! Who manages a topic's name, and topics in numbers: what the operator reads and writes, and agents never look at.

use std::{collections::BTreeMap, fmt};

use uuid::Uuid;

/// The Kubernetes resource that manages a topic's name. Two are the same when their `uid` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOwner {
    /// Unique for ever: a resource that is deleted and made again has another.
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

/// Every topic of users and every owner at one moment, by name. A name can be in one of the maps only: a topic that nobody manages,
/// or an owner whose topic does not exist (yet, or any more).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicsOverview {
    /// The topics that exist, without the internal one.
    pub topics: BTreeMap<String, TopicOverview>,
    /// See [`MetadataStore::claim_topic`](crate::MetadataStore::claim_topic).
    pub owners: BTreeMap<String, TopicOwner>,
}

/// A topic in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOverview {
    /// Unique for ever: another id under the same name is another topic.
    pub topic_id: Uuid,
    /// The settings that were set.
    pub config: BTreeMap<String, String>,
    /// How many there are.
    pub partitions: i32,
    /// Records ever: the sum of the high watermarks.
    pub high_watermark: i64,
    /// Records deleted: the sum of the log starts.
    pub log_start: i64,
    /// Stored bytes; see [`LogBounds::size_bytes`](crate::LogBounds::size_bytes).
    pub size_bytes: i64,
}
