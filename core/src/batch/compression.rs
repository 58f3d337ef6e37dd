//! The codecs of a batch's records. Decompression never allocates more than the given limit,
//! whatever the input claims.

use std::{
    cell::RefCell,
    fmt,
    io::{Read, Write},
    ops::Range,
    str::FromStr,
};

use bytes::Bytes;

use super::{BatchError, lz4};

/// A compression codec, with Kafka's name and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// No compression.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in the framing of Kafka's Java client.
    Snappy,
    /// LZ4 frames, the default.
    #[default]
    Lz4,
    /// Zstandard, which is read but not written.
    Zstd,
}

/// The header of the Java client's Snappy framing.
const XERIAL_HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
/// Uncompressed bytes of a block in that framing.
const XERIAL_BLOCK_SIZE: usize = 32 * 1024;
/// Upper bound of Snappy's compression ratio: three bytes copy up to 64.
const SNAPPY_MAX_RATIO: usize = 22;
/// The window that every Zstandard decoder must support. Larger windows are accepted only if the
/// limit allows that much output.
const MIN_ZSTD_WINDOW: usize = 8 << 20;
/// The largest buffer that a thread retains for the next batch.
const MAX_RETAINED_SCRATCH: usize = 1 << 20;

/// Buffers and tables for compressing and decompressing. There is one per thread, so that neither a
/// batch nor a builder allocates its own.
struct CodecScratch {
    lz4: lz4::Lz4Compressor,
    out: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<CodecScratch> = RefCell::new(CodecScratch { lz4: lz4::Lz4Compressor::new(), out: Vec::new() });
}

/// Calls `work` with the thread's scratch space. The output buffer has arbitrary contents.
fn with_scratch<T>(work: impl FnOnce(&mut CodecScratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        if scratch.out.capacity() > MAX_RETAINED_SCRATCH {
            scratch.out = Vec::new();
        }
        done
    })
}

impl Compression {
    /// All codecs, ordered by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Returns the codec with this number in the batch attributes.
    ///
    /// # Errors
    ///
    /// Fails with [`BatchError::UnsupportedCompression`] if the number is unknown.
    pub fn from_id(id: i16) -> Result<Self, BatchError> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.id() == id)
            .ok_or_else(|| BatchError::UnsupportedCompression(format!("there is no compression type {id}")))
    }

    /// Returns the number in the batch attributes.
    pub fn id(self) -> i16 {
        self as i16
    }

    /// Returns the name used in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses `records` after `head`. Leaves them uncompressed if head and compressed records
    /// exceed `most` bytes. Calls `finish` with the bytes and the codec that was used.
    pub(super) fn compress<T>(
        self,
        head: &[u8],
        records: &[u8],
        most: usize,
        finish: impl FnOnce(&mut [u8], Self) -> Result<T, BatchError>,
    ) -> Result<T, BatchError> {
        with_scratch(|CodecScratch { lz4, out }| {
            out.clear();
            out.extend_from_slice(head);
            match self {
                Self::None => out.extend_from_slice(records),
                Self::Gzip => compress_gzip(records, out)?,
                Self::Snappy => compress_snappy(records, out)?,
                Self::Lz4 => lz4.compress(records, out)?,
                Self::Zstd => {
                    let message = "zstd can be read but not written; use lz4".to_owned();
                    return Err(BatchError::UnsupportedCompression(message));
                }
            }
            if out.len() <= most {
                return finish(out, self);
            }
            out.truncate(head.len());
            out.extend_from_slice(records);
            finish(out, Self::None)
        })
    }

    /// Decompresses `records` to at most `limit` bytes.
    pub(super) fn decompress(self, records: &Bytes, limit: usize) -> Result<Bytes, BatchError> {
        if self == Self::None {
            return if records.len() > limit {
                Err(BatchError::DecompressedTooLarge(limit))
            } else {
                Ok(records.clone())
            };
        }
        with_scratch(|CodecScratch { out, .. }| {
            let written = match self {
                Self::None => 0,
                Self::Gzip => read_all(flate2::read::MultiGzDecoder::new(&records[..]), limit, out)?,
                Self::Snappy => decompress_snappy(records, limit, out)?,
                Self::Lz4 => lz4::decompress(records, limit, out)?,
                Self::Zstd => decompress_zstd(records, limit, out)?,
            };
            Ok(Bytes::copy_from_slice(&out[..written]))
        })
    }
}

pub(super) fn decompression_error(error: &dyn fmt::Display) -> BatchError {
    BatchError::Invalid(format!("the records cannot be decompressed: {error}"))
}

fn compression_error(error: &dyn fmt::Display) -> BatchError {
    BatchError::Invalid(format!("cannot compress: {error}"))
}

fn compress_gzip(records: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    encoder
        .write_all(records)
        .and_then(|()| encoder.try_finish())
        .map_err(|error| compression_error(&error))
}

fn compress_snappy(records: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
    out.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_SIZE) {
        let at = out.len() + 4;
        out.resize(at + snap::raw::max_compress_len(block.len()), 0);
        let size = encoder
            .compress(block, &mut out[at..])
            .map_err(|error| compression_error(&error))?;
        out[at - 4..at].copy_from_slice(&(size as u32).to_be_bytes());
        out.truncate(at + size);
    }
    Ok(())
}

/// Reads to the end; the buffer grows with the actual output.
fn read_all(reader: impl Read, limit: usize, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    out.clear();
    reader
        .take(limit as u64 + 1)
        .read_to_end(out)
        .map_err(|error| decompression_error(&error))?;
    if out.len() > limit {
        Err(BatchError::DecompressedTooLarge(limit))
    } else {
        Ok(out.len())
    }
}

fn decompress_zstd(records: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    out.clear();
    let mut rest = records;
    while !rest.is_empty() {
        let window = limit.max(MIN_ZSTD_WINDOW) as u64;
        let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(&mut rest, window);
        let decoder = decoder.map_err(|error| decompression_error(&error))?;
        let room = limit - out.len();
        let read = decoder
            .take(room as u64 + 1)
            .read_to_end(out)
            .map_err(|error| decompression_error(&error))?;
        if read > room {
            return Err(BatchError::DecompressedTooLarge(limit));
        }
    }
    Ok(out.len())
}

/// Decompresses Snappy with the Java client's framing or as one bare block.
fn decompress_snappy(records: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    out.clear();
    let mut decoder = snap::raw::Decoder::new();
    visit_snappy_blocks(records, |block| {
        let size = snap::raw::decompress_len(block).map_err(|error| decompression_error(&error))?;
        let at = out.len();
        if size > limit - at {
            return Err(BatchError::DecompressedTooLarge(limit));
        }
        check_snappy_claim(block, size)?;
        out.resize(at + size, 0);
        decoder
            .decompress(block, &mut out[at..])
            .map(drop)
            .map_err(|error| decompression_error(&error))
    })?;
    Ok(out.len())
}

/// Returns the size that Snappy's blocks claim to decompress to. Reads lengths only; fails if these
/// are damaged.
pub(super) fn max_snappy_size(records: &[u8]) -> Result<usize, BatchError> {
    let mut most: usize = 0;
    visit_snappy_blocks(records, |block| {
        let size = snap::raw::decompress_len(block).map_err(|error| decompression_error(&error))?;
        most = most.saturating_add(size);
        check_snappy_claim(block, size)
    })?;
    Ok(most)
}

/// Finds the next Snappy block: its range in `rest`, its decompressed size of at most `most`, and
/// whether blocks are framed. The pair says whether a block came before, and whether that one was
/// framed.
pub(super) fn next_snappy_block(
    rest: &[u8],
    (begun, framed): (bool, bool),
    most: usize,
) -> Result<(Range<usize>, usize, bool), BatchError> {
    let mut start = 0;
    let framed = if begun {
        framed
    } else {
        rest.starts_with(&XERIAL_HEADER[..8])
    };
    let mut end = rest.len();
    if framed {
        start = if begun { 0 } else { XERIAL_HEADER.len() };
        let length = rest.get(start..).and_then(<[u8]>::first_chunk);
        let length = length.ok_or_else(|| decompression_error(&"a block's length is cut short"))?;
        start += length.len();
        end = start.saturating_add(u32::from_be_bytes(*length) as usize);
    }
    let block = rest.get(start..end);
    let block = block.ok_or_else(|| decompression_error(&"a block is cut short"))?;
    let size = snap::raw::decompress_len(block).map_err(|error| decompression_error(&error))?;
    if size > most {
        return Err(BatchError::DecompressedTooLarge(most));
    }
    check_snappy_claim(block, size)?;
    Ok((start..end, size, framed))
}

/// Rejects a block that claims a larger size than the codec can produce, before any allocation.
fn check_snappy_claim(block: &[u8], size: usize) -> Result<(), BatchError> {
    if size > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(decompression_error(
            &"a snappy block claims more than it can hold",
        ));
    }
    Ok(())
}

/// Calls `visit` with every block, in order.
fn visit_snappy_blocks(
    records: &[u8],
    mut visit: impl FnMut(&[u8]) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    let Some(framed) = records.strip_prefix(&XERIAL_HEADER[..8]) else {
        return visit(records);
    };
    // Two version fields follow, in either order depending on the writer. Only version 1 exists.
    let mut rest = framed
        .get(8..)
        .ok_or_else(|| decompression_error(&"the snappy head is cut short"))?;
    while !rest.is_empty() {
        let (length, after) = rest
            .split_first_chunk()
            .ok_or_else(|| decompression_error(&"a block's length is cut short"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after
            .split_at_checked(length)
            .ok_or_else(|| decompression_error(&"a block is cut short"))?;
        visit(block)?;
        rest = after;
    }
    Ok(())
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("there is no compression {name:?}; use none, gzip, snappy, lz4 or zstd"))
    }
}
