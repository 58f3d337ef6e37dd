//! Leases decide what is ours. The [`keeper`] registers the agent, renews its lease and ends its life in time; [`watch`]
//! keeps the directory fresh; [`reconcile`] makes what is held follow the snapshot and takes what [`plan`] says;
//! [`handover`] gives leases away, for balance and for the [`drain`]; [`peers`] notices agents that died.
//!
//! Nothing here is needed for safety: every write is fenced by (holder, epoch) in its own transaction (INV-L1). What this
//! module adds is that an agent stops promising things before its lease ends, that everything has a leader soon, and that
//! a lease given away stands still only for a flush and a round trip.

pub mod drain;
pub mod handover;
pub mod keeper;
pub mod peers;
pub mod plan;
pub mod reconcile;
pub mod tenure;
pub mod watch;

use async_trait::async_trait;
use streamhouse_metadata::{Lease, Result};

pub use keeper::Keeper;

/// Who coordinates groups while a coordinator slot is ours. Called by the lease keeper only.
#[async_trait]
pub trait Slots: Send + Sync + std::fmt::Debug {
    /// The slot is ours under this lease; when this returns its groups are served.
    async fn acquire(&self, slot: i32, lease: Lease) -> Result<()>;

    /// The slot is not ours any more, or about to be another's: when this returns nothing is written for it. Waits for
    /// what is being written only for a moment: a store that does not answer must not hold up who comes next.
    async fn release(&self, slot: i32);
}
