//! Owns the registration of this agent with the metadata store: the [`AgentSession`], which ends
//! when the lease is lost. The lease keeper then registers again. What belongs to one registration
//! (led partitions, the writer) is never used by the next: its writes are fenced.
//!
//! Set by the lease keeper; read by every part that serves led partitions.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use streamhouse_core::Incarnation;
use tokio_util::sync::CancellationToken;

use crate::partition::LedPartitions;

/// One registration of this agent, from its incarnation's start until the lease is lost or
/// released.
#[derive(Debug)]
pub struct AgentSession {
    /// The incarnation that fences every write.
    pub incarnation: Incarnation,
    /// Numeric id of the agent (Kafka's broker id).
    pub node_id: i32,
    /// Partitions that this incarnation leads.
    pub partitions: LedPartitions,
    /// Cancelled when the incarnation has ended: nothing may be acknowledged after that.
    pub ended: CancellationToken,
}

impl AgentSession {
    /// Creates the session of a registration that was just made; it leads nothing yet.
    pub fn new(incarnation: Incarnation, node_id: i32) -> Self {
        Self {
            incarnation,
            node_id,
            partitions: LedPartitions::default(),
            ended: CancellationToken::new(),
        }
    }
}

/// The active session; empty between incarnations and after a drain.
#[derive(Debug, Default)]
pub struct CurrentSession {
    active: ArcSwapOption<AgentSession>,
}

impl CurrentSession {
    /// Returns the active session, if there is one.
    pub fn get(&self) -> Option<Arc<AgentSession>> {
        self.active.load_full()
    }

    /// Starts a session.
    pub fn start(&self, session: Arc<AgentSession>) {
        self.active.store(Some(session));
    }

    /// Ends the active session and returns it. Nothing is acknowledged any more.
    pub fn end(&self) -> Option<Arc<AgentSession>> {
        let session = self.active.swap(None)?;
        session.ended.cancel();
        Some(session)
    }
}
