//! The topics of the cluster, as a group needs them.

use uuid::Uuid;

/// The id of a topic and its number of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicShape {
    /// The id of the topic.
    pub id: Uuid,
    /// Its number of partitions.
    pub partitions: i32,
}

/// The topics that groups can subscribe to, at one moment; may be slightly out of date.
pub trait TopicCatalog: Send + Sync {
    /// Returns the version of the catalog; the same version has the same topics.
    fn version(&self) -> u64;

    /// Returns the topic with this name.
    fn topic(&self, name: &str) -> Option<TopicShape>;

    /// Returns the name of the topic with this id.
    fn topic_name(&self, id: Uuid) -> Option<&str>;

    /// Returns the names of all topics, in no particular order.
    fn topic_names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}
