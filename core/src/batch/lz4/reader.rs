//! Decompresses LZ4 frames block by block, for batches too large to be decompressed as a whole.
//! Holds one block and the window before it.

use std::{
    hash::Hasher as _,
    io::{self, Read},
};

use bytes::Bytes;
use twox_hash::XxHash32;

use super::{Lz4Frame, STORED_FLAG, WINDOW, invalid_frame, take, to_array, xxhash};
use crate::batch::BatchError;

/// Reads the content of consecutive frames.
pub(in crate::batch) struct Lz4FrameReader {
    input: Bytes,
    position: usize,
    frame: Option<OpenFrame>,
    /// The window, followed by the block being returned.
    out: Vec<u8>,
    at: usize,
    end: usize,
}

/// The frame being read.
struct OpenFrame {
    frame: Lz4Frame,
    hasher: XxHash32,
    unpacked: u64,
}

impl Lz4FrameReader {
    pub(in crate::batch) fn new(input: Bytes) -> Self {
        Self {
            input,
            position: 0,
            frame: None,
            out: Vec::new(),
            at: 0,
            end: 0,
        }
    }

    /// Decompresses the next block that is not empty. Returns whether there was one.
    fn next_block(&mut self) -> Result<bool, BatchError> {
        while self.at == self.end {
            let mut rest = &self.input[self.position..];
            let Some(open) = &mut self.frame else {
                if rest.is_empty() {
                    return Ok(false);
                }
                self.frame = Some(OpenFrame {
                    frame: Lz4Frame::read_header(&mut rest)?,
                    hasher: XxHash32::with_seed(0),
                    unpacked: 0,
                });
                (self.at, self.end) = (0, 0);
                self.position = self.input.len() - rest.len();
                continue;
            };
            let size = u32::from_le_bytes(to_array(take(&mut rest, 4)?));
            if size == 0 {
                open.finish(&mut rest)?;
                self.frame = None;
                self.position = self.input.len() - rest.len();
                continue;
            }
            let block = take(&mut rest, (size & !STORED_FLAG) as usize)?;
            let frame = &open.frame;
            if block.len() > frame.max_block {
                return Err(invalid_frame("an LZ4 block is larger than the frame allows"));
            }
            if frame.block_checksums && xxhash(block) != u32::from_le_bytes(to_array(take(&mut rest, 4)?)) {
                return Err(invalid_frame("an LZ4 block's checksum is wrong"));
            }
            let window = if frame.linked { self.end.min(WINDOW) } else { 0 };
            self.out.copy_within(self.end - window..self.end, 0);
            let limit = window + frame.max_block;
            self.end =
                frame.decompress_block(block, size & STORED_FLAG != 0, limit, &mut self.out, 0..window)?;
            self.at = window;
            open.unpacked += (self.end - window) as u64;
            if open.frame.content_checksum {
                open.hasher.write(&self.out[window..self.end]);
            }
            self.position = self.input.len() - rest.len();
        }
        Ok(true)
    }
}

impl OpenFrame {
    /// Checks the checksum and content size after the last block.
    fn finish(&self, rest: &mut &[u8]) -> Result<(), BatchError> {
        if self.frame.content_checksum
            && self.hasher.finish_32() != u32::from_le_bytes(to_array(take(rest, 4)?))
        {
            return Err(invalid_frame("the LZ4 frame's content checksum is wrong"));
        }
        if self.frame.content_size.is_some_and(|size| size != self.unpacked) {
            return Err(invalid_frame(
                "the LZ4 frame's content differs from its stated size",
            ));
        }
        Ok(())
    }
}

impl Read for Lz4FrameReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.next_block().map_err(io::Error::other)? {
            return Ok(0);
        }
        let size = buf.len().min(self.end - self.at);
        buf[..size].copy_from_slice(&self.out[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}
