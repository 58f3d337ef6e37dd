//! The identity of a cluster, its timeline, and recovery from a divergence.

use std::collections::BTreeMap;

use super::Incarnation;

/// A point in the history of a cluster. Of two copies of a metadata store, the one with the lower
/// number is older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeline {
    /// Rises with each registration and with
    /// [`advance_timeline`](crate::MetadataStore::advance_timeline).
    pub number: u64,
    /// The greatest incarnation allocated so far.
    pub incarnation: Incarnation,
    /// The number of the producer id that was allocated last.
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

/// The state of the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterState {
    /// The id of the cluster, created with the store.
    pub cluster_id: String,
    /// The current timeline.
    pub timeline: Timeline,
    /// Whether a divergence was reported; see
    /// [`report_divergence`](crate::MetadataStore::report_divergence).
    pub diverged: bool,
    /// Whether an agent ever registered or a user ever created a topic.
    pub in_use: bool,
}

/// How far a recovery advances the versions of the snapshots: further than changes could between a
/// backup and its restoration.
pub(crate) const SKIPPED_VERSIONS: i64 = 1 << 32;

/// What a bucket contains beyond the state of the metadata store; see
/// [`recover`](crate::MetadataStore::recover).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryRequest {
    /// The greatest numbers that the bucket shows.
    pub observed: Timeline,
    /// The minimum number of uses of each topic name, from the folders of segments.
    pub topic_name_uses: BTreeMap<String, u64>,
}

/// The result of a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryOutcome {
    /// The timeline from which the history continues.
    pub timeline: Timeline,
    /// The number of topics that use a new folder for their segments.
    pub topics: u64,
    /// The number of dropped segment intents; their objects remain.
    pub intents: u64,
    /// The number of incarnations whose objects are no longer swept.
    pub incarnations: u64,
}
