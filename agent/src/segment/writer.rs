//! Builds a segment in memory, batch by batch.

use bytes::Bytes;
use streamhouse_core::batch::BatchHeader;

use super::{
    BLOCK_SIZE,
    format::{
        ENTRY_LEN, FOOTER_LEN, SegmentError, SegmentFooter, SegmentIdentity, SegmentSummary, crc32c,
        write_header,
    },
    index::SegmentBlock,
};

/// Growth of the buffer: doubling would briefly need twice the memory of the segment.
const BUFFER_GROWTH: usize = 8 << 20;

/// A segment under construction; uses about as much memory as the segment.
#[derive(Debug)]
pub struct SegmentWriter {
    identity: SegmentIdentity,
    out: Vec<u8>,
    data_position: usize,
    blocks: Vec<SegmentBlock>,
    block_start: usize,
    block_offset: i64,
    next_offset: i64,
    max_timestamp: i64,
    batches: u32,
    records: u64,
}

impl SegmentWriter {
    /// Creates an empty segment.
    pub fn new(identity: &SegmentIdentity) -> Self {
        Self {
            identity: identity.clone(),
            out: Vec::new(),
            data_position: 0,
            blocks: Vec::new(),
            block_start: 0,
            block_offset: identity.base_offset,
            next_offset: identity.base_offset,
            max_timestamp: i64::MIN,
            batches: 0,
            records: 0,
        }
    }

    /// Appends a stamped batch, which must begin where the previous one ended.
    ///
    /// # Errors
    /// [`SegmentError::Gap`] if it does not; [`SegmentError::Inconsistent`] if the segment gets too
    /// large.
    pub fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), SegmentError> {
        if header.base_offset != self.next_offset || header.next_offset() <= header.base_offset {
            return Err(SegmentError::Gap {
                expected: self.next_offset,
                found: header.base_offset,
            });
        }
        if self.out.is_empty() {
            write_header(&self.identity, &mut self.out)?;
            self.data_position = self.out.len();
            self.block_start = self.out.len();
        }
        if self.out.len() - self.block_start >= BLOCK_SIZE {
            self.close_block()?;
        }
        if self.out.capacity() - self.out.len() < batch.len() {
            self.out.reserve_exact(batch.len().max(BUFFER_GROWTH));
        }
        self.out.extend_from_slice(batch);
        self.batches = self.batches.checked_add(1).ok_or_else(too_large)?;
        self.records += u64::try_from(header.next_offset() - header.base_offset).unwrap_or_default();
        self.next_offset = header.next_offset();
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), SegmentError> {
        let bytes = &self.out[self.block_start..];
        self.blocks.push(SegmentBlock {
            base_offset: self.block_offset,
            position: self.block_start as u64,
            max_timestamp: self.max_timestamp,
            length: u32::try_from(bytes.len()).map_err(|_| too_large())?,
            crc: crc32c(bytes),
        });
        self.block_start = self.out.len();
        self.block_offset = self.next_offset;
        Ok(())
    }

    /// Returns the first offset of the next batch.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Returns the number of bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns whether no batch was appended yet.
    pub fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// Completes the object.
    ///
    /// # Errors
    /// [`SegmentError::Empty`] without any batch.
    pub fn finish(mut self) -> Result<(Bytes, SegmentSummary), SegmentError> {
        if self.is_empty() {
            return Err(SegmentError::Empty);
        }
        self.close_block()?;
        let index_position = self.out.len();
        self.out.reserve_exact(self.blocks.len() * ENTRY_LEN + FOOTER_LEN);
        for block in &self.blocks {
            block.write(&mut self.out);
        }
        let footer = SegmentFooter {
            data_position: self.data_position as u64,
            index_position: index_position as u64,
            blocks: u32::try_from(self.blocks.len()).map_err(|_| too_large())?,
            batches: self.batches,
            records: self.records,
            base_offset: self.identity.base_offset,
            end_offset: self.next_offset,
            max_timestamp: self.max_timestamp,
            header_crc: crc32c(&self.out[..self.data_position]),
            index_crc: crc32c(&self.out[index_position..]),
        };
        footer.write(&mut self.out);
        let summary = SegmentSummary {
            base_offset: footer.base_offset,
            end_offset: footer.end_offset,
            max_timestamp: footer.max_timestamp,
            size_bytes: self.out.len() as u64,
        };
        Ok((self.out.into(), summary))
    }
}

fn too_large() -> SegmentError {
    SegmentError::Inconsistent("the segment is too large".to_owned())
}
