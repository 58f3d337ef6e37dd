//! What the background jobs depend on.

use std::sync::Arc;

use streamhouse_core::time::{Clock, Entropy};
use streamhouse_metadata::MetadataStore;
use tokio::time::Duration;

use crate::{
    directory::ClusterDirectory, failpoint::FailPointRegistry, log::LogReader, memory::ByteBudget,
    metrics::AgentMetrics, ownership::OwnershipVerifier, session::CurrentSession, store::ObjectStore,
};

/// Dependencies of the background jobs.
#[derive(Debug, Clone)]
pub struct MaintenanceDeps {
    /// Decides what is rolled, shortened and deleted.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where segments are stored, and what is deleted from.
    pub store: Arc<dyn ObjectStore>,
    /// Reads what is rolled.
    pub log: LogReader,
    /// Marks the bucket with the timeline.
    pub ownership: Arc<OwnershipVerifier>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// The active session, whose partitions are maintained.
    pub session: Arc<CurrentSession>,
    /// Time of the last success of each job.
    pub clock: Arc<dyn Clock>,
    /// Source of jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Budget of the segment that is being written.
    pub memory: ByteBudget,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Fail points of tests.
    pub failpoints: Arc<FailPointRegistry>,
    /// Sizes and ages that the jobs go by.
    pub limits: MaintenanceLimits,
}

/// Sizes and ages that the background jobs go by.
#[derive(Debug, Clone, Copy)]
pub struct MaintenanceLimits {
    /// How long an unreferenced object is kept: longer than the longest read.
    pub object_grace: Duration,
    /// How long committed offsets of a group without members are kept.
    pub offsets_retention: Duration,
    /// Size of the largest WAL object, in bytes.
    pub max_object_bytes: usize,
}
