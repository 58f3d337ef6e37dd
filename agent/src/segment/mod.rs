//! The segment format: one object with a partition's batches of a contiguous range of offsets, an
//! index to find them, and checksums. Written by the roller, read by fetch.
//!
//! ```text
//! | header: identity, CRC | block | block | ... | index: one entry per block | footer: positions |
//! ```
//!
//! A block is a run of whole, stamped batches of about [`BLOCK_SIZE`] bytes (or one larger batch).
//! Its index entry holds its first offset, position, length, greatest timestamp so far and CRC32C.
//! Every byte of the object is covered by the CRC32C of its part, so that damage is detected,
//! located, and never served. All numbers are big-endian.

pub mod format;
pub mod index;
pub mod reader;
mod verify;
mod writer;

pub use format::{SegmentError, SegmentIdentity, SegmentSummary};
pub use index::SegmentIndex;
pub use verify::verify_segment;
pub use writer::SegmentWriter;

/// Size from which on a block is closed.
pub const BLOCK_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests;
