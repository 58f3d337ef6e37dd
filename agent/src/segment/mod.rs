//! The segment: a partition's batches of one stretch of offsets in one object, with what it takes to find and to trust
//! them. Written by the roller, read by fetch.
//!
//! ```text
//! | header: identity, CRC | block | block | ... | index: one entry a block | footer: where all that is, CRCs |
//! ```
//!
//! A block is a run of whole, stamped batches of about [`BLOCK`] bytes (or one larger batch). Its index entry holds its
//! first offset, position, length, greatest timestamp so far and CRC32C. Every byte of the object is covered by a CRC32C
//! of its own part, so that damage is found, named, and never served. All numbers are big-endian.

pub mod format;
pub mod index;
pub mod reader;
mod verify;
mod writer;

pub use format::{Identity, SegmentError, SegmentSummary};
pub use index::Index;
pub use verify::verify;
pub use writer::SegmentWriter;

/// The size from which a block is closed.
pub const BLOCK: usize = 64 * 1024;

#[cfg(test)]
mod tests;
