//! Shared by the integration tests: a cluster of real agents on a real PostgreSQL and MinIO
//! ([`TestCluster`]), a workload that records acknowledgements and compares the log with them
//! ([`DeliveryLedger`]), and the scripts of Kafka clients ([`scripts`]).

pub mod cluster;
pub mod kafka;
pub mod ledger;
pub mod raw;
pub mod scripts;

pub use cluster::TestCluster;
pub use ledger::{DeliveryLedger, RunningWorkload};

/// Compiles the examples of the client guide like those of an application.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client-guide.md")]
struct ClientGuide;

/// Compiles the tutorial of the Rust client.
#[cfg(doctest)]
#[doc = include_str!("../../docs/start/rust-client.md")]
struct ClientTutorial;

/// Compiles the examples of metrics of clients.
#[cfg(doctest)]
#[doc = include_str!("../../docs/observability.md")]
struct ObservabilityGuide;
