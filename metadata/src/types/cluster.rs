//! The cluster as a whole: its id, and how far the history goes that a store tells of it.

use std::collections::BTreeMap;

use super::Incarnation;

/// A point of a cluster's history. Of two copies of one store, the one with the lower number is the older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    /// Rises with each life of an agent and with [`advance_timeline`](crate::MetadataStore::advance_timeline).
    pub number: u64,
    /// The greatest incarnation given until then.
    pub incarnation: Incarnation,
    /// The greatest producer id given until then.
    pub producer_id: i64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            number: 0,
            incarnation: Incarnation(0),
            producer_id: 0,
        }
    }
}

/// What a store says of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterState {
    /// Made when the store was created.
    pub cluster_id: String,
    /// Now.
    pub timeline: Timeline,
    /// See [`report_divergence`](crate::MetadataStore::report_divergence).
    pub diverged: bool,
    /// Whether an agent ever registered, or a user ever created a topic.
    pub in_use: bool,
}

/// What a bucket holds beyond what a store knows; see [`recover`](crate::MetadataStore::recover).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The greatest of each that the bucket shows.
    pub beyond: Timeline,
    /// How often each topic name was used at least, from the folders of segments.
    pub names: BTreeMap<String, u64>,
}

/// What a recovery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The history goes on from here.
    pub timeline: Timeline,
    /// Topics that write their segments under another folder from now on.
    pub topics: u64,
    /// Intents that were dropped; their objects stay.
    pub intents: u64,
    /// Lives whose objects are not looked through any more.
    pub lives: u64,
}
