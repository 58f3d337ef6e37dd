//! Leader election: one replica works, the others are on standby. Called by `run`.
//!
//! A Lease (coordination.k8s.io/v1) names the holder. In reading order: [`state`] decides, without
//! side effects, what a replica does next from what it has observed and its own monotonic clock;
//! [`elector`] executes that and runs the work; [`fence`] rejects requests of an ended term;
//! [`kubernetes`] stores the Lease.
//!
//! Guarantees:
//! - **Never two leaders.** A leader stops by its own clock, counted from before it sent its last
//!   successful write ([`ElectionTiming::renew_deadline`]; its work is dropped
//!   [`ElectionTiming::grace_period`] later). Another replica takes over only after it has itself
//!   observed the Lease unchanged for the whole duration. Clocks of different replicas are never
//!   compared, so only their *rates* matter: the deadlines tolerate clocks whose speed differs by a
//!   sixth. Every write carries the version that it replaces, so one of two concurrent writes is
//!   rejected, and a write that arrives late changes nothing.
//! - **A suspended process** (such as a paused virtual machine) finds its term ended before it
//!   sends a request: the [`fence`] checks the clock before each write request.
//! - **A new leader is elected soon.** A replica that stops in an orderly way empties the holder
//!   once its work has ended, and another takes over at its next read, within
//!   [`ElectionTiming::retry_period`]. After a crash it takes the lease duration and one read.

pub mod elector;
pub mod fence;
pub mod kubernetes;
pub mod state;
pub mod store;
pub mod timer;

pub use elector::{ElectionEnvironment, ElectionOutcome, LeaderElector, LeaderTerm};
pub use fence::{TermEndedError, TermFence};
pub use kubernetes::KubernetesLeaseStore;
pub use state::{ElectionTiming, LeaseRecord, VersionedLease};
pub use store::{LeaseStore, LeaseStoreError};
pub use timer::{MonotonicTimer, SystemTimer};

#[cfg(test)]
mod tests;
