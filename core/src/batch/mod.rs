//! Kafka's RecordBatch v2: the format of records on the wire, in memory and at rest. Producers
//! encode batches, agents validate and stamp them without decompressing, consumers decode them
//! lazily.
//!
//! ```text
//! base_offset 8 | length 4 | leader_epoch 4 | magic 1 | crc 4 || attributes 2 | last_offset_delta 4 | base_timestamp 8 |
//! max_timestamp 8 | producer_id 8 | producer_epoch 2 | base_sequence 4 | record_count 4 | records, maybe compressed
//! ```
//!
//! The CRC32C covers everything after it. Base offset and leader epoch lie outside, so stamping
//! them rewrites 12 bytes.

mod chunk_reader;
mod compression;
mod decode;
mod encode;
mod header;
mod lz4;
mod renumber;
mod structure;
#[cfg(test)]
mod tests;
mod validate;
mod varint;
mod view;

pub use chunk_reader::{BatchChunkReader, RecordChunk};
pub use compression::Compression;
pub use decode::{DecodedRecords, Record, RecordHeaders};
pub use encode::BatchBuilder;
pub use header::{
    BatchHeader, BatchIter, HEADER_LEN, OwnedBatchIter, TimestampType, stamp, stamp_all, verify_crc,
};
pub use renumber::{renumber, stamp_append_time};
pub use validate::{BatchLimits, validate};
pub use view::{HeadersView, RecordView, RecordViews};

use crate::error::ErrorCode;

/// The reason why a batch is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch ends too early.
    #[error("the batch is truncated: {needed} bytes are needed, {have} are present")]
    Truncated {
        /// Bytes needed at least.
        needed: usize,
        /// Bytes present.
        have: usize,
    },
    /// The batch is not a RecordBatch v2.
    #[error("magic {0} is not supported; use record batches of magic 2")]
    UnsupportedMagic(i8),
    /// The bytes do not match the stored CRC.
    #[error("the stored CRC is {stored:#010x}, but the CRC of the bytes is {computed:#010x}")]
    WrongCrc {
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// The batch is larger than allowed.
    #[error(
        "the batch has {size} bytes, the limit is {limit}; send smaller batches or raise max.message.bytes"
    )]
    TooLarge {
        /// Size of the batch, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The batch is larger than allowed once it is decompressed.
    #[error("the batch decompresses to more than {0} bytes")]
    DecompressedTooLarge(usize),
    /// The codec is unknown or cannot be written.
    #[error("{0}")]
    UnsupportedCompression(String),
    /// Parts of the batch contradict each other.
    #[error("{0}")]
    Invalid(String),
}

impl BatchError {
    /// Returns the error for records that contradict the format.
    fn invalid(message: &str) -> Self {
        Self::Invalid(message.to_owned())
    }

    /// Returns the error code that clients receive.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. } | Self::WrongCrc { .. } => ErrorCode::CorruptMessage,
            Self::UnsupportedMagic(_) => ErrorCode::UnsupportedForMessageFormat,
            Self::TooLarge { .. } | Self::DecompressedTooLarge(_) => ErrorCode::MessageTooLarge,
            Self::UnsupportedCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::Invalid(_) => ErrorCode::InvalidRecord,
        }
    }
}
