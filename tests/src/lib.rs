//! What the whole-system tests share: a cluster of real agents on a real PostgreSQL and a real MinIO ([`Cluster`]), and a
//! workload that remembers what was acknowledged and holds the log to it ([`Ledger`]).

pub mod cluster;
pub mod ledger;
pub mod raw;

pub use cluster::Cluster;
pub use ledger::{Ledger, Load};

/// The guide's examples are compiled as those of an application are, against the client and libraries of its choice.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client-guide.md")]
struct ClientGuide;
