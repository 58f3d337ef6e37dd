//! The shared vocabulary of StreamHouse: ids, record batches, protocol, error codes, settings, and the seams for time and
//! randomness. Every other crate stands on this one; it stands on none of them.

pub mod batch;
pub mod consumer_protocol;
pub mod error;
pub mod ids;
pub mod murmur2;
pub mod protocol;
pub mod settings;
pub mod time;
pub mod topic_config;
pub mod trace;

pub use error::{Error, ErrorCode};
pub use ids::{Incarnation, PartitionUid, TopicPartition};
