//! Connections to other agents: several for produce streams, which share the flow-control window of
//! their connection, and a few for single calls. All are bounded; over the bound, clients are asked
//! to slow down.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode, Incarnation};
use streamhouse_metadata::AgentEntry;
use tonic::transport::Channel;

use super::connect::open_channel;
use crate::{
    directory::ClusterView,
    metrics::{AgentMetrics, ForwardKind},
    tls::ListenerCertificate,
};

/// Retry delay for clients when all connections are in use.
const RETRY_AFTER_MS: u32 = 500;

/// Limits of the connections to one other agent.
#[derive(Debug, Clone, Copy)]
pub struct ForwardLimits {
    /// Maximum number of connections for produce streams.
    pub produce_connections: usize,
    /// Maximum number of produce streams of one connection. A stream that the other agent does not
    /// read takes up to half of the connection's window.
    pub streams_per_connection: usize,
    /// Maximum number of connections for single calls.
    pub call_connections: usize,
    /// Maximum number of concurrent calls of one connection.
    pub calls_per_connection: usize,
}

impl Default for ForwardLimits {
    fn default() -> Self {
        Self {
            produce_connections: 16,
            streams_per_connection: 64,
            call_connections: 4,
            calls_per_connection: 512,
        }
    }
}

impl ForwardLimits {
    /// Returns the maximum number of connections, and of users of each.
    fn of(self, kind: ForwardKind) -> (usize, usize) {
        match kind {
            ForwardKind::Produce => (self.produce_connections, self.streams_per_connection),
            ForwardKind::Call => (self.call_connections, self.calls_per_connection),
        }
    }
}

/// The connections to all other agents.
#[derive(Debug)]
pub(super) struct PeerPool {
    peers: Mutex<HashMap<Incarnation, PeerConnections>>,
    /// Never used twice, so that the return of a connection that was dropped finds no other.
    next_id: AtomicU64,
    tls: Option<Arc<ListenerCertificate>>,
    metrics: Arc<AgentMetrics>,
    limits: ForwardLimits,
    /// Used by leases, which return their connection.
    this: Weak<Self>,
}

/// The connections to one agent.
#[derive(Debug, Default)]
struct PeerConnections {
    produce: Vec<PooledConnection>,
    calls: Vec<PooledConnection>,
}

#[derive(Debug)]
struct PooledConnection {
    id: u64,
    channel: Channel,
    users: usize,
}

/// The use of a connection by one stream or call.
#[derive(Debug)]
pub(super) struct ConnectionLease {
    channel: Channel,
    pool: Weak<PeerPool>,
    peer: Incarnation,
    kind: ForwardKind,
    id: u64,
}

impl PeerPool {
    pub(super) fn new(
        tls: Option<Arc<ListenerCertificate>>,
        metrics: Arc<AgentMetrics>,
        limits: ForwardLimits,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            peers: Mutex::default(),
            next_id: AtomicU64::default(),
            tls,
            metrics,
            limits,
            this: this.clone(),
        })
    }

    /// Returns a connection to an agent for one more stream or call.
    ///
    /// # Errors
    /// `ResourceExhausted` if all are in use.
    pub(super) fn lease(
        &self,
        view: &ClusterView,
        peer: &AgentEntry,
        kind: ForwardKind,
    ) -> Result<ConnectionLease, Error> {
        let (max_connections, max_users) = self.limits.of(kind);
        let mut peers = self.peers.lock();
        if !peers.contains_key(&peer.incarnation) {
            self.drop_departed(&mut peers, view);
        }
        let pooled = peers.entry(peer.incarnation).or_default().of(kind);
        let lease = |connection: &mut PooledConnection| {
            connection.users += 1;
            ConnectionLease {
                channel: connection.channel.clone(),
                pool: self.this.clone(),
                peer: peer.incarnation,
                kind,
                id: connection.id,
            }
        };
        if let Some(connection) = pooled.iter_mut().find(|connection| connection.users < max_users) {
            return Ok(lease(connection));
        }
        if pooled.len() >= max_connections {
            return Err(Error::new(
                ErrorCode::ResourceExhausted,
                "this agent forwards for as many clients to the leader as it can; try again, or connect to another agent",
            )
            .with_retry_after_ms(RETRY_AFTER_MS));
        }
        let mut connection = PooledConnection {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            channel: open_channel(&peer.grpc_address, self.tls.as_ref())?,
            users: 0,
        };
        let leased = lease(&mut connection);
        pooled.push(connection);
        self.metrics.forward.add_connections(kind, 1);
        Ok(leased)
    }

    /// Drops the connections to agents that have ended; streams and calls in flight keep theirs.
    fn drop_departed(&self, peers: &mut HashMap<Incarnation, PeerConnections>, view: &ClusterView) {
        peers.retain(|incarnation, connections| {
            let live = view.agent(*incarnation).is_some();
            if !live {
                for kind in [ForwardKind::Produce, ForwardKind::Call] {
                    let dropped = i64::try_from(connections.of(kind).len()).unwrap_or(i64::MAX);
                    self.metrics.forward.add_connections(kind, -dropped);
                }
            }
            live
        });
    }

    /// Returns a connection. One that nobody uses any more is dropped, unless it is the last.
    fn release(&self, lease: &ConnectionLease) {
        let mut peers = self.peers.lock();
        let Some(connections) = peers.get_mut(&lease.peer) else {
            return;
        };
        let pooled = connections.of(lease.kind);
        let Some(at) = pooled.iter().position(|connection| connection.id == lease.id) else {
            return;
        };
        pooled[at].users -= 1;
        if pooled[at].users == 0 && pooled.len() > 1 {
            pooled.remove(at);
            self.metrics.forward.add_connections(lease.kind, -1);
        }
    }
}

impl PeerConnections {
    fn of(&mut self, kind: ForwardKind) -> &mut Vec<PooledConnection> {
        match kind {
            ForwardKind::Produce => &mut self.produce,
            ForwardKind::Call => &mut self.calls,
        }
    }
}

impl ConnectionLease {
    /// Returns the connection's channel.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.release(self);
        }
    }
}
