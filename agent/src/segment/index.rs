//! The sparse index of a segment: which block holds an offset or a timestamp. It stays in its serialized form; looking up
//! is a binary search over fixed-size entries.

use std::ops::Range;

use bytes::Bytes;

use super::format::{FOOTER, Footer, SegmentError, check_crc};

/// The size of an entry.
pub(super) const ENTRY: usize = 8 + 8 + 8 + 4 + 4;
/// A suffix of this size holds index and footer of all but the largest segments.
pub const SUFFIX: u64 = 128 * 1024;

/// One block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The first offset.
    pub base_offset: i64,
    /// Where it begins in the object.
    pub position: u64,
    /// The greatest timestamp of this block and all before it.
    pub max_timestamp: i64,
    /// Its size.
    pub length: u32,
    /// Its CRC32C.
    pub crc: u32,
}

impl Block {
    /// Where it is in the object.
    pub fn range(&self) -> Range<u64> {
        self.position..self.position.saturating_add(self.length.into())
    }

    /// Whether `bytes` are this block as it was written.
    pub fn check(&self, bytes: &[u8]) -> Result<(), SegmentError> {
        check_crc(format!("block at byte {}", self.position), bytes, self.crc)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
    }

    fn parse(entry: &[u8; ENTRY]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *entry;
        let base_offset = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let [a, b, c, d, e, f, g, h, rest @ ..] = rest;
        let position = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let [a, b, c, d, e, f, g, h, rest @ ..] = rest;
        let max_timestamp = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let [a, b, c, d, rest @ ..] = rest;
        Self {
            base_offset,
            position,
            max_timestamp,
            length: u32::from_be_bytes([a, b, c, d]),
            crc: u32::from_be_bytes(rest),
        }
    }
}

/// A segment's index, checked.
#[derive(Debug, Clone)]
pub struct Index {
    footer: Footer,
    entries: Bytes,
}

impl Index {
    /// Reads index and footer from the last bytes of a segment of `size` bytes, usually [`SUFFIX`] of them. When they are
    /// too few, [`SegmentError::SuffixTooShort`] says how many it takes.
    pub fn parse(suffix: &Bytes, size: u64) -> Result<Self, SegmentError> {
        let footer = Footer::parse(suffix, size)?;
        let needed = footer.index_len() + FOOTER as u64;
        let start = (suffix.len() as u64)
            .checked_sub(needed)
            .ok_or(SegmentError::SuffixTooShort { needed })?;
        let start = usize::try_from(start).map_err(|_| SegmentError::Truncated("the index"))?;
        let index = Self {
            entries: suffix.slice(start..suffix.len() - FOOTER),
            footer,
        };
        check_crc("index", &index.entries, index.footer.index_crc)?;
        index.check()?;
        Ok(index)
    }

    /// Whether the blocks follow each other and fill the data between header and index.
    fn check(&self) -> Result<(), SegmentError> {
        let (mut position, mut offset, mut timestamp) =
            (self.footer.data_position, self.footer.base_offset, i64::MIN);
        for (number, block) in self.blocks().enumerate() {
            let in_order = if number == 0 {
                block.base_offset == offset
            } else {
                block.base_offset > offset
            };
            let sound = in_order
                && block.position == position
                && block.length > 0
                && block.base_offset < self.footer.end_offset
                && block.max_timestamp >= timestamp;
            if !sound {
                return Err(SegmentError::Inconsistent(format!(
                    "index entry {number} does not follow the one before"
                )));
            }
            (position, offset, timestamp) = (block.range().end, block.base_offset, block.max_timestamp);
        }
        if position != self.footer.index_position || timestamp != self.footer.max_timestamp {
            return Err(SegmentError::Inconsistent(
                "the index does not cover all blocks".to_owned(),
            ));
        }
        Ok(())
    }

    /// Where the parts of the segment are.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Every block, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.entries.as_chunks::<ENTRY>().0.iter().map(Block::parse)
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        self.entries.as_chunks::<ENTRY>().0
    }

    /// The number of the block that holds `offset`; `None` outside the segment.
    pub fn locate(&self, offset: i64) -> Option<usize> {
        if offset < self.footer.base_offset || offset >= self.footer.end_offset {
            return None;
        }
        self.entries()
            .partition_point(|entry| Block::parse(entry).base_offset <= offset)
            .checked_sub(1)
    }

    /// The number of the first block with a record at or after `timestamp`; `None` when there is none.
    pub fn locate_timestamp(&self, timestamp: i64) -> Option<usize> {
        let number = self
            .entries()
            .partition_point(|entry| Block::parse(entry).max_timestamp < timestamp);
        (number < self.entries().len()).then_some(number)
    }

    /// The block of this number.
    pub fn block(&self, number: usize) -> Option<Block> {
        self.entries().get(number).map(Block::parse)
    }
}
