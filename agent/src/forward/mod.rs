//! Forwards requests of clients to the agent that leads, for clients that cannot reach it
//! themselves. Called by [`server`](crate::server) for calls that came by a listener which allows
//! it; the other agent serves a forwarded request like one of its own clients, and never forwards
//! it again.
//!
//! Nothing is acknowledged here: an answer is the leader's. If there is none, the error says
//! whether the request can have had an effect. A stream's parts for one partition go to one agent
//! at a time, over one stream, so their order is kept.
//!
//! Memory of forwarded records is taken from the budget of arriving requests, at most half of it:
//! agents that forward to each other can never wait for each other's memory. Calls of groups have a
//! small budget of their own.

mod admission;
mod calls;
mod client;
mod connect;
mod merge;
mod peer_stream;
mod pool;
mod produce;
mod routes;

use std::sync::Arc;

use streamhouse_core::{Incarnation, time::Clock};
use streamhouse_metadata::{AgentEntry, PartitionEntry};

pub(crate) use self::merge::merge_results;
use self::{admission::ForwardAdmission, pool::PeerPool};
pub use self::{
    calls::CALL_TIMEOUT,
    pool::ForwardLimits,
    produce::{ForwardedProduce, ProduceForwarder},
};
use crate::{
    directory::{ClusterDirectory, ClusterView},
    memory::ByteBudget,
    metrics::AgentMetrics,
    security::ClientSecurity,
    session::CurrentSession,
    tls::ListenerCertificate,
};

/// Dependencies of the forwarder.
#[derive(Debug, Clone)]
pub struct ForwardDeps {
    /// The cluster as of the newest snapshot: who leads, and where.
    pub directory: Arc<ClusterDirectory>,
    /// The active session: this agent.
    pub session: Arc<CurrentSession>,
    /// Vouches for clients.
    pub security: Arc<ClientSecurity>,
    /// Time of what this agent vouches for.
    pub clock: Arc<dyn Clock>,
    /// Budget of arriving requests.
    pub request_memory: ByteBudget,
    /// Memory of single calls, in bytes.
    pub call_memory: u64,
    /// Certificate of the gRPC listener; other agents then have one as well.
    pub tls: Option<Arc<ListenerCertificate>>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Largest answer that is accepted, in bytes.
    pub max_answer_bytes: usize,
    /// Limits of connections.
    pub limits: ForwardLimits,
}

/// Forwards requests to other agents.
#[derive(Debug)]
pub struct PeerForwarder {
    deps: ForwardDeps,
    admission: ForwardAdmission,
    pool: Arc<PeerPool>,
}

impl PeerForwarder {
    /// Creates a forwarder without connections.
    pub fn new(deps: ForwardDeps) -> Arc<Self> {
        Arc::new(Self {
            admission: ForwardAdmission::new(deps.request_memory.clone(), deps.call_memory),
            pool: PeerPool::new(deps.tls.clone(), deps.metrics.clone(), deps.limits),
            deps,
        })
    }

    /// Returns the incarnation of this agent, if it has one.
    fn own_incarnation(&self) -> Option<Incarnation> {
        self.deps.session.get().map(|session| session.incarnation)
    }

    /// Returns the other agent that leads a partition or coordinator slot; `None` if this agent
    /// does, or none.
    pub fn leading_peer<'a>(&self, view: &'a ClusterView, record: &PartitionEntry) -> Option<&'a AgentEntry> {
        let holder = record
            .holder
            .filter(|holder| Some(*holder) != self.own_incarnation())?;
        view.agent(holder).filter(|agent| !agent.grpc_address.is_empty())
    }
}

#[cfg(test)]
mod tests;
