//! The StreamHouse agent: leases partitions, stores record batches in the object store, and serves
//! producers, consumers and consumer groups.
//!
//! ```text
//! server -> { produce, fetch, groups, topics } -> { log, partition, segment, store } -> { clock, metrics }
//!              ^ leases decide what it leads      maintenance works beside produce
//! ```

pub mod assembly;
pub mod backup;
pub mod check;
pub mod console;
pub mod deferred_metadata;
pub mod directory;
pub mod failpoint;
#[cfg(test)]
pub(crate) mod faulty_metadata;
pub mod fetch;
pub mod forward;
pub mod gauges;
pub mod groups;
pub mod health;
pub mod inspect;
pub mod invariant;
pub mod kafka;
pub mod leases;
pub mod listeners;
pub mod log;
pub mod maintenance;
pub mod memory;
pub mod metrics;
pub mod migrate;
pub mod ownership;
pub mod partition;
pub mod process;
pub mod produce;
pub mod purge;
pub mod recover;
pub mod security;
pub mod segment;
pub mod server;
pub mod session;
pub mod store;
pub mod tls;
pub mod topics;
pub mod traces;
pub mod user;
