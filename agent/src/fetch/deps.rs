//! What fetch depends on.

use std::sync::Arc;

use super::foreign_logs::ForeignLogWatcher;
use crate::{
    directory::ClusterDirectory, log::LogReader, memory::ByteBudget, metrics::AgentMetrics,
    partition::tail::TailBudget, session::CurrentSession,
};

/// Dependencies of fetch.
#[derive(Debug, Clone)]
pub struct FetchDeps {
    /// Reads records that are no longer in a tail.
    pub log: LogReader,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// The active session, whose partitions are read from their tails.
    pub session: Arc<CurrentSession>,
    /// Budget of the tails, which readers share.
    pub tails: Arc<TailBudget>,
    /// Polls the logs of partitions that other agents lead, once for all waiting readers.
    pub foreign_logs: Arc<ForeignLogWatcher>,
    /// Budget of the responses.
    pub memory: ByteBudget,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Limits of one response.
    pub limits: FetchLimits,
}

/// Limits of one response.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Maximum number of bytes of a response, unless its first batch is larger.
    pub max_response_bytes: usize,
    /// Size of the largest batch that a producer can send.
    pub max_batch_bytes: usize,
}
