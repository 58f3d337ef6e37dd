//! The vocabulary shared by all crates of StreamHouse: ids, record batches, protocol, error codes,
//! settings, security, back-off, and the interfaces for time and randomness. Depends on no other
//! crate of the workspace.

pub mod backoff;
pub mod batch;
pub mod consumer_protocol;
pub mod core_dumps;
pub mod error;
pub mod ids;
pub mod kafka;
pub mod listen;
pub mod murmur2;
pub mod protocol;
pub mod security;
pub mod settings;
pub mod time;
pub mod topic_config;
pub mod trace;

pub use error::{Error, ErrorCode};
pub use ids::{Incarnation, PartitionUid, TopicPartition};
