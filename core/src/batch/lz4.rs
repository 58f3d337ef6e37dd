//! LZ4 frames: written as Kafka's clients write them (independent blocks of 64 KiB, no checksums,
//! since the batch's CRC covers them) and read with any flags.
//!
//! Blocks are handled by `lz4_flex`; frames are parsed here, because its frame types allocate what
//! each frame claims, and this is the hot path of every producer and consumer.

mod reader;

use std::hash::Hasher as _;

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};
use twox_hash::XxHash32;

pub(super) use self::reader::Lz4FrameReader;
use super::BatchError;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1 with independent blocks; blocks of 64 KiB; and the checksum of these two bytes.
const DESCRIPTOR: [u8; 3] = [0x60, 0x40, 0x82];
/// Uncompressed bytes of a block: the most for which the small hash table suffices.
const BLOCK_SIZE: usize = 64 * 1024 - 2;
/// Flag in a block's size: the block is stored uncompressed.
const STORED_FLAG: u32 = 1 << 31;
/// How far back a linked block refers, in bytes.
const WINDOW: usize = 64 * 1024;
/// Upper bound of the compression ratio.
const MAX_RATIO: usize = 255;

/// Reusable state of the compressor.
pub(super) struct Lz4Compressor {
    table: CompressTable,
    block: Vec<u8>,
}

impl Lz4Compressor {
    pub(super) fn new() -> Self {
        Self {
            table: CompressTable::small(),
            block: vec![0; get_maximum_output_size(BLOCK_SIZE)],
        }
    }

    /// Appends `input` as one frame.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&DESCRIPTOR);
        for block in input.chunks(BLOCK_SIZE) {
            let size = compress_into_with_table(block, &mut self.block, &mut self.table)
                .map_err(|error| BatchError::Invalid(format!("cannot compress: {error}")))?;
            let (size, bytes) = if size < block.len() {
                (size as u32, &self.block[..size])
            } else {
                (block.len() as u32 | STORED_FLAG, block)
            };
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(bytes);
        }
        out.extend_from_slice(&[0; 4]);
        Ok(())
    }
}

/// The parsed flags of a frame.
struct Lz4Frame {
    linked: bool,
    block_checksums: bool,
    content_size: Option<u64>,
    content_checksum: bool,
    max_block: usize,
}

/// Decompresses consecutive frames into `out`, which it overwrites and extends as needed. Returns
/// how many bytes it wrote, at most `limit`. `out` never grows beyond what the input can decompress
/// to.
pub(super) fn decompress(mut input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    let mut written = 0;
    while !input.is_empty() {
        let frame = Lz4Frame::read_header(&mut input)?;
        written = frame.decompress_blocks(&mut input, limit, out, written)?;
    }
    Ok(written)
}

/// Returns an upper bound of the decompressed size of consecutive frames. Reads headers and lengths
/// only; fails if these are damaged.
pub(super) fn max_decompressed_size(mut input: &[u8]) -> Result<usize, BatchError> {
    let mut most: usize = 0;
    while !input.is_empty() {
        let frame = Lz4Frame::read_header(&mut input)?;
        most = most.saturating_add(frame.max_content_size(&mut input)?);
    }
    Ok(most)
}

impl Lz4Frame {
    /// Does the same for one frame, see [`bound`], and moves `input` past it.
    fn max_content_size(&self, input: &mut &[u8]) -> Result<usize, BatchError> {
        let mut most: usize = 0;
        while let Some((block, stored)) = self.next_block(input)? {
            most = most.saturating_add(self.max_block_size(block, stored));
        }
        if self.content_checksum {
            take(input, 4)?;
        }
        match self.content_size.map(usize::try_from) {
            Some(Ok(size)) if size <= most => Ok(size),
            Some(_) => Err(invalid_frame(
                "the LZ4 frame claims a larger content size than it can hold",
            )),
            None => Ok(most),
        }
    }

    /// Returns the next block as stored in the frame, and whether it is uncompressed; `None` at the
    /// frame's end mark. Skips the block's checksum.
    fn next_block<'a>(&self, input: &mut &'a [u8]) -> Result<Option<(&'a [u8], bool)>, BatchError> {
        let size = u32::from_le_bytes(to_array(take(input, 4)?));
        if size == 0 {
            return Ok(None);
        }
        let block = take(input, (size & !STORED_FLAG) as usize)?;
        if block.len() > self.max_block {
            return Err(invalid_frame("an LZ4 block is larger than the frame allows"));
        }
        if self.block_checksums {
            take(input, 4)?;
        }
        Ok(Some((block, size & STORED_FLAG != 0)))
    }

    /// Returns an upper bound of a block's decompressed size.
    fn max_block_size(&self, block: &[u8], stored: bool) -> usize {
        if stored {
            block.len()
        } else {
            self.max_block.min(block.len().saturating_mul(MAX_RATIO))
        }
    }

    fn read_header(input: &mut &[u8]) -> Result<Self, BatchError> {
        if take(input, 4)? != MAGIC {
            return Err(invalid_frame("the compressed records are not an LZ4 frame"));
        }
        let start = *input;
        let descriptor = take(input, 2)?;
        let (flags, size) = (descriptor[0], descriptor[1]);
        if flags >> 6 != 1 || flags & 0b10 != 0 || size & 0x8f != 0 || size < 0x40 {
            return Err(invalid_frame("the LZ4 frame is not of version 1"));
        }
        if flags & 1 != 0 {
            return Err(invalid_frame(
                "the LZ4 frame needs a dictionary, which is not supported",
            ));
        }
        let content_size = match flags & 8 {
            0 => None,
            _ => Some(u64::from_le_bytes(to_array(take(input, 8)?))),
        };
        let described = &start[..start.len() - input.len()];
        if take(input, 1)?[0] != (xxhash(described) >> 8) as u8 {
            return Err(invalid_frame("the LZ4 frame's header checksum is wrong"));
        }
        Ok(Self {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_size,
            content_checksum: flags & 4 != 0,
            max_block: 1 << (8 + 2 * (size >> 4)),
        })
    }

    fn decompress_blocks(
        &self,
        input: &mut &[u8],
        limit: usize,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<usize, BatchError> {
        let mut end = start;
        loop {
            let size = u32::from_le_bytes(to_array(take(input, 4)?));
            if size == 0 {
                break;
            }
            let block = take(input, (size & !STORED_FLAG) as usize)?;
            if block.len() > self.max_block {
                return Err(invalid_frame("an LZ4 block is larger than the frame allows"));
            }
            if self.block_checksums && xxhash(block) != u32::from_le_bytes(to_array(take(input, 4)?)) {
                return Err(invalid_frame("an LZ4 block's checksum is wrong"));
            }
            let window = if self.linked {
                end.saturating_sub(WINDOW).max(start)
            } else {
                end
            };
            end = self.decompress_block(block, size & STORED_FLAG != 0, limit, out, window..end)?;
        }
        let content = &out[start..end];
        if self.content_checksum && xxhash(content) != u32::from_le_bytes(to_array(take(input, 4)?)) {
            return Err(invalid_frame("the LZ4 frame's content checksum is wrong"));
        }
        if self.content_size.is_some_and(|size| size != content.len() as u64) {
            return Err(invalid_frame(
                "the LZ4 frame's content differs from its stated size",
            ));
        }
        Ok(end)
    }

    /// Decompresses one block after `window`. Returns the end of the output.
    fn decompress_block(
        &self,
        block: &[u8],
        stored: bool,
        limit: usize,
        out: &mut Vec<u8>,
        window: std::ops::Range<usize>,
    ) -> Result<usize, BatchError> {
        let most = self.max_block_size(block, stored);
        let room = most.min(limit - window.end);
        if out.len() < window.end + room {
            out.resize(window.end + room, 0);
        }
        let (before, after) = out.split_at_mut(window.end);
        let target = &mut after[..room];
        if stored {
            target
                .get_mut(..block.len())
                .ok_or(BatchError::DecompressedTooLarge(limit))?
                .copy_from_slice(block);
            return Ok(window.end + block.len());
        }
        let before = &before[window.start..];
        let written = if before.is_empty() {
            decompress_into(block, target)
        } else {
            decompress_into_with_dict(block, target, before)
        };
        match written {
            Ok(written) => Ok(window.end + written),
            Err(DecompressError::OutputTooSmall { .. }) if room < most => {
                Err(BatchError::DecompressedTooLarge(limit))
            }
            Err(error) => Err(BatchError::Invalid(format!(
                "the records cannot be decompressed: {error}"
            ))),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], BatchError> {
    let (taken, rest) = input
        .split_at_checked(length)
        .ok_or_else(|| invalid_frame("the LZ4 frame is cut short"))?;
    *input = rest;
    Ok(taken)
}

fn to_array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn xxhash(bytes: &[u8]) -> u32 {
    let mut hasher = XxHash32::with_seed(0);
    hasher.write(bytes);
    hasher.finish_32()
}

fn invalid_frame(message: &str) -> BatchError {
    BatchError::Invalid(message.to_owned())
}

#[cfg(test)]
mod tests;
