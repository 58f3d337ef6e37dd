//! Sets of partitions, by topic id and number.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

/// A partition: the id of its topic and its number.
pub type PartitionKey = (Uuid, i32);

/// A set of partitions.
pub type PartitionSet = BTreeSet<PartitionKey>;

/// Partitions of a member, each with the member epoch in which it was assigned.
pub type PartitionEpochs = BTreeMap<PartitionKey, i32>;

/// Groups partitions, which are in order, by topic.
pub fn partitions_by_topic(partitions: impl Iterator<Item = PartitionKey>) -> Vec<(Uuid, Vec<i32>)> {
    let mut topics: Vec<(Uuid, Vec<i32>)> = Vec::new();
    for (topic, partition) in partitions {
        match topics.last_mut() {
            Some((last, numbers)) if *last == topic => numbers.push(partition),
            _ => topics.push((topic, vec![partition])),
        }
    }
    topics
}
