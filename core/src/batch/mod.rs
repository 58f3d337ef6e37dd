//! Kafka's RecordBatch v2: the batch format on the wire, in memory and at rest. Producers encode, agents check and stamp
//! without decompressing, consumers decode lazily.
//!
//! ```text
//! base_offset 8 | length 4 | leader_epoch 4 | magic 1 | crc 4 || attributes 2 | last_offset_delta 4 | base_timestamp 8 |
//! max_timestamp 8 | producer_id 8 | producer_epoch 2 | base_sequence 4 | record_count 4 | records, maybe compressed
//! ```
//!
//! The CRC32C covers what stands after it; base offset and leader epoch lie outside, so stamping them costs 12 bytes.

mod chunks;
mod compression;
mod decode;
mod encode;
mod header;
mod lz4;
mod renumber;
mod structure;
#[cfg(test)]
mod tests;
mod varint;
mod view;

pub use chunks::{Chunk, Chunks};
pub use compression::Compression;
pub use decode::{Headers, Record, Records};
pub use encode::BatchBuilder;
pub use header::{
    BatchHeader, Batches, HEADER_LEN, Limits, OwnedBatches, TimestampType, stamp, stamp_all, validate,
    verify_crc,
};
pub use renumber::renumber;
pub use view::{HeadersView, RecordView, Views};

use crate::error::ErrorCode;

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// It ends too early.
    #[error("the batch is cut short: {needed} bytes needed, {have} there")]
    Truncated {
        /// Bytes needed at least.
        needed: usize,
        /// Bytes there.
        have: usize,
    },
    /// It is no RecordBatch v2.
    #[error("magic {0} is not supported; only record batches of magic 2 are")]
    UnsupportedMagic(i8),
    /// Its bytes changed on the way.
    #[error("the CRC is {stored:#010x}, but the bytes have {computed:#010x}")]
    WrongCrc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// It is larger than allowed.
    #[error(
        "the batch has {size} bytes, {limit} are allowed; send smaller batches or raise max.message.bytes"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Decompressed, it is larger than allowed.
    #[error("the batch decompresses to more than {0} bytes")]
    Bomb(usize),
    /// Its codec is unknown, or cannot be written.
    #[error("{0}")]
    UnsupportedCompression(String),
    /// Its parts contradict each other.
    #[error("{0}")]
    Invalid(String),
}

impl BatchError {
    /// The code that clients see.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. } | Self::WrongCrc { .. } => ErrorCode::CorruptMessage,
            Self::UnsupportedMagic(_) => ErrorCode::UnsupportedForMessageFormat,
            Self::TooLarge { .. } | Self::Bomb(_) => ErrorCode::MessageTooLarge,
            Self::UnsupportedCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::Invalid(_) => ErrorCode::InvalidRecord,
        }
    }
}
