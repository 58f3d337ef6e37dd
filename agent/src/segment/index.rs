//! The sparse index of a segment: finds the block of an offset or a timestamp. It stays in its
//! serialized form; lookups are binary searches over fixed-size entries.

use std::ops::Range;

use bytes::Bytes;

use super::format::{ENTRY_LEN, FOOTER_LEN, SegmentError, SegmentFooter, check_crc};

/// Length of the suffix that contains index and footer of all but the largest segments.
pub const SUFFIX_LEN: u64 = 128 * 1024;

/// One block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentBlock {
    /// The first offset.
    pub base_offset: i64,
    /// Its position in the object.
    pub position: u64,
    /// The greatest timestamp of this block and all before it.
    pub max_timestamp: i64,
    /// Its size.
    pub length: u32,
    /// Its CRC32C.
    pub crc: u32,
}

impl SegmentBlock {
    /// Returns the byte range in the object.
    pub fn range(&self) -> Range<u64> {
        self.position..self.position.saturating_add(self.length.into())
    }

    /// Checks that `bytes` are this block as it was written.
    ///
    /// # Errors
    /// [`SegmentError::Crc`] if they are not.
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

    fn parse(entry: &[u8; ENTRY_LEN]) -> Self {
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

/// The validated index of a segment.
#[derive(Debug, Clone)]
pub struct SegmentIndex {
    footer: SegmentFooter,
    entries: Bytes,
}

impl SegmentIndex {
    /// Parses index and footer from the last bytes of a segment of `size` bytes, usually
    /// [`SUFFIX_LEN`] of them.
    ///
    /// # Errors
    /// [`SegmentError::SuffixTooShort`] if more bytes are needed, another [`SegmentError`] if index
    /// or footer are damaged.
    pub fn parse(suffix: &Bytes, size: u64) -> Result<Self, SegmentError> {
        let footer = SegmentFooter::parse(suffix, size)?;
        let needed = footer.index_len() + FOOTER_LEN as u64;
        let start = (suffix.len() as u64)
            .checked_sub(needed)
            .ok_or(SegmentError::SuffixTooShort { needed })?;
        let start = usize::try_from(start).map_err(|_| SegmentError::Truncated("the index"))?;
        let index = Self {
            entries: suffix.slice(start..suffix.len() - FOOTER_LEN),
            footer,
        };
        check_crc("index", &index.entries, index.footer.index_crc)?;
        index.check()?;
        Ok(index)
    }

    /// Checks that the blocks are consecutive and fill the space between header and index.
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

    /// Returns the footer.
    pub fn footer(&self) -> &SegmentFooter {
        &self.footer
    }

    /// Iterates over all blocks in order.
    pub fn blocks(&self) -> impl Iterator<Item = SegmentBlock> + '_ {
        self.entries
            .as_chunks::<ENTRY_LEN>()
            .0
            .iter()
            .map(SegmentBlock::parse)
    }

    fn entries(&self) -> &[[u8; ENTRY_LEN]] {
        self.entries.as_chunks::<ENTRY_LEN>().0
    }

    /// Returns the number of the block that contains `offset`; `None` outside the segment.
    pub fn locate(&self, offset: i64) -> Option<usize> {
        if offset < self.footer.base_offset || offset >= self.footer.end_offset {
            return None;
        }
        self.entries()
            .partition_point(|entry| SegmentBlock::parse(entry).base_offset <= offset)
            .checked_sub(1)
    }

    /// Returns the number of the first block with a record at or after `timestamp`; `None` if there
    /// is none.
    pub fn locate_timestamp(&self, timestamp: i64) -> Option<usize> {
        let number = self
            .entries()
            .partition_point(|entry| SegmentBlock::parse(entry).max_timestamp < timestamp);
        (number < self.entries().len()).then_some(number)
    }

    /// Returns the block of this number.
    pub fn block(&self, number: usize) -> Option<SegmentBlock> {
        self.entries().get(number).map(SegmentBlock::parse)
    }
}
