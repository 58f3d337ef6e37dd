//! Leader election: of several replicas one works, the others stand by. Called by `run`.
//!
//! A Lease (coordination.k8s.io/v1) names the holder. In reading order: [`state`] decides, purely, what a replica does next from what it
//! has seen and from its own monotonic clock; [`elector`] does it and runs the work; [`fence`] lets no request of an ended term out;
//! [`kubernetes`] is the Lease itself.
//!
//! What holds, and why:
//! - **Never two leaders.** A leader stops by its own clock, counted from before it sent its last successful write
//!   ([`Timing::renew_deadline`], and its work is gone [`Timing::grace`] later). Another takes over only after it has itself watched the
//!   Lease stay unchanged for the whole duration. No two clocks are ever compared, so only their *rates* matter: the deadlines leave
//!   room for clocks that differ in speed by a sixth. Every write carries the version that it replaces, so of two writes one is
//!   refused, and one that arrives late changes nothing.
//! - **A process that was stopped and goes on** (a paused virtual machine) finds its term over before it sends anything: the
//!   [`fence`] looks at the clock before each writing request.
//! - **Somebody leads soon.** A replica that ends in order empties the holder once its work is done, and the other takes over at its
//!   next look, within [`Timing::retry`]. After a crash it takes the duration and a look.

pub mod elector;
pub mod fence;
pub mod kubernetes;
pub mod state;
pub mod store;
pub mod timer;

pub use elector::{Elector, Ended, Seams, Term};
pub use fence::{Fence, TermOver};
pub use kubernetes::KubernetesLease;
pub use state::{Record, Stored, Timing};
pub use store::{LeaseStore, StoreError};
pub use timer::{SystemTimer, Timer};

#[cfg(test)]
mod tests;
