//! Leases decide which partitions and coordinator slots this agent leads. The [`keeper`] registers
//! the agent, renews its lease and ends its incarnation in time; [`watch`] keeps the directory
//! fresh; [`reconcile`] follows the snapshot and takes what [`plan`] assigns; [`handover`] moves
//! leases to other agents, for balance and for the [`drain`]; [`peers`] detects dead agents.
//!
//! Safety does not depend on this module: every write is fenced by (holder, epoch) in its own
//! transaction (INV-L1). It adds that an agent stops promising before its lease ends, that
//! everything has a leader soon, and that a moving lease is unavailable only for a flush and a
//! round trip.

mod deps;
pub mod drain;
pub mod handover;
pub mod keeper;
pub mod lease_set;
pub mod peers;
pub mod plan;
pub mod reconcile;
pub mod watch;

pub use deps::LeaseDeps;
pub use keeper::LeaseKeeper;
