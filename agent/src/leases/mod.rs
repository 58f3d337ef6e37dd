//! Leases decide which partitions and coordinator slots this agent leads. The [`keeper`] registers
//! the agent, renews its lease and ends its incarnation in time; [`watch`] keeps the directory
//! fresh; [`reconcile`] follows the snapshot and takes what [`plan`] assigns; [`handover`] moves
//! leases to other agents, for balance and for the [`drain`]; [`peers`] detects dead agents.
//!
//! Safety does not depend on this module: every write is fenced by (holder, epoch) in its own
//! transaction (INV-L1). It adds that an agent stops promising before its lease ends, that
//! everything has a leader soon, and that a moving lease is unavailable only for a flush and a
//! round trip.

pub mod drain;
pub mod handover;
pub mod keeper;
pub mod lease_set;
pub mod peers;
pub mod plan;
pub mod reconcile;
pub mod watch;

use async_trait::async_trait;
use streamhouse_metadata::{Lease, Result};

pub use keeper::LeaseKeeper;

/// Serves the groups of the coordinator slots that this agent leads. Called by the lease keeper
/// only.
#[async_trait]
pub trait CoordinatorSlots: Send + Sync + std::fmt::Debug {
    /// Starts to coordinate the slot under this lease; when this returns, its groups are served.
    ///
    /// # Errors
    /// Fails if the slot's groups cannot be loaded; the slot is not served then.
    async fn acquire(&self, slot: i32, lease: Lease) -> Result<()>;

    /// Stops coordinating the slot, which moved or is about to move: when this returns, nothing
    /// more is written for it. Waits only briefly for writes under way: a store that does not
    /// respond must not delay the next coordinator.
    async fn release(&self, slot: i32);
}
