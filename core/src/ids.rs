//! Identifiers shared by all crates. They are newtypes, so that an offset is never mistaken for a
//! partition.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A partition as clients identify it: by topic name and number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The number of the partition, counted from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Creates the identifier of partition `partition` of `topic`.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The id of a partition in the metadata store. Never reused, not even if the topic is deleted and
/// created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionUid(pub i64);

impl fmt::Display for PartitionUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One run of an agent process, from registration to seal. Rises with every run and is never
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub i64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ten digits keep the object store's keys in order.
        write!(f, "{:010}", self.0)
    }
}

/// The largest number of characters in a topic name.
pub const MAX_TOPIC_NAME: usize = 249;

/// Names that no topic of a user has: the internal topic of this project, those of Kafka, which its
/// clients treat as internal, and a prefix in the object store.
pub const RESERVED_TOPIC_NAMES: [&str; 6] = [
    "__cluster_metadata",
    "__consumer_groups",
    "__consumer_offsets",
    "__share_group_state",
    "__transaction_state",
    "_wal",
];

/// Returns why a topic name is invalid, `None` if it is valid.
///
/// Kafka's rules apply: letters, digits, `.`, `_` and `-`, at most [`MAX_TOPIC_NAME`] characters,
/// not `.` or `..`. [`RESERVED_TOPIC_NAMES`] are reserved; other names that begin with `__` belong
/// to users, such as those of Connect and Debezium.
pub fn topic_name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a topic name cannot be empty".to_owned());
    }
    if name.len() > MAX_TOPIC_NAME {
        return Some(format!(
            "a topic name has at most {MAX_TOPIC_NAME} characters, this one has {}",
            name.len()
        ));
    }
    if name == "." || name == ".." {
        return Some("a topic cannot be named \".\" or \"..\"".to_owned());
    }
    if let Some(bad) = name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        return Some(format!(
            "{bad:?} is not allowed in a topic name; use letters, digits, '.', '_' and '-'"
        ));
    }
    if RESERVED_TOPIC_NAMES.contains(&name) {
        return Some(format!("the name {name:?} is reserved"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules_for_topic_names_hold() {
        for good in [
            "orders",
            "a",
            "a.b-c_d9",
            "_private",
            "__debezium-heartbeat.db",
            &"x".repeat(249),
        ] {
            assert_eq!(topic_name_problem(good), None, "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "ä",
            "__consumer_groups",
            "__consumer_offsets",
            "_wal",
            &"x".repeat(250),
        ] {
            assert!(topic_name_problem(bad).is_some(), "{bad}");
        }
    }
}
