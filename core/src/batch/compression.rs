//! The codecs of a batch's records. Decompression never makes more than it is allowed to, whatever the input claims.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use bytes::Bytes;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::BatchError;

/// A codec, with Kafka's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// As they are.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in the framing of Kafka's Java client.
    Snappy,
    /// LZ4 frames: the default.
    #[default]
    Lz4,
    /// Zstandard; read, not written.
    Zstd,
}

/// The head of the Java client's snappy framing.
const XERIAL: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// Bytes of a block in that framing.
const XERIAL_BLOCK: usize = 32 * 1024;

impl Compression {
    /// The codec of a number in the attributes.
    pub fn from_id(id: i16) -> Result<Self, BatchError> {
        Ok(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            id => return Err(BatchError::UnsupportedCompression(format!("there is no compression type {id}"))),
        })
    }

    /// Its number in the attributes.
    pub fn id(self) -> i16 {
        self as i16
    }

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `records` compressed.
    pub(super) fn compress(self, records: &[u8], out: &mut Vec<u8>) -> Result<(), BatchError> {
        let failed = |error: &dyn fmt::Display| BatchError::Invalid(format!("cannot compress: {error}"));
        match self {
            Self::None => out.extend_from_slice(records),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(records).and_then(|()| encoder.try_finish()).map_err(|error| failed(&error))?;
            }
            Self::Snappy => {
                out.extend_from_slice(&XERIAL);
                let mut encoder = snap::raw::Encoder::new();
                for block in records.chunks(XERIAL_BLOCK) {
                    let block = encoder.compress_vec(block).map_err(|error| failed(&error))?;
                    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                    out.extend_from_slice(&block);
                }
            }
            Self::Lz4 => {
                let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(info, out);
                encoder.write_all(records).map_err(|error| failed(&error))?;
                encoder.finish().map_err(|error| failed(&error))?;
            }
            Self::Zstd => {
                let message = "zstd is read, not written; use lz4".to_owned();
                return Err(BatchError::UnsupportedCompression(message));
            }
        }
        Ok(())
    }

    /// `records` decompressed: at most `limit` bytes.
    pub(super) fn decompress(self, records: &Bytes, limit: usize) -> Result<Bytes, BatchError> {
        match self {
            Self::None if records.len() > limit => Err(BatchError::Bomb(limit)),
            Self::None => Ok(records.clone()),
            Self::Gzip => read_all(flate2::read::MultiGzDecoder::new(&records[..]), records.len(), limit),
            Self::Snappy => unsnap(records, limit),
            Self::Lz4 => read_all(FrameDecoder::new(&records[..]), records.len(), limit),
            Self::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(&records[..]);
                read_all(decoder.map_err(|error| damaged(&error))?, records.len(), limit)
            }
        }
    }
}

fn damaged(error: &dyn fmt::Display) -> BatchError {
    BatchError::Invalid(format!("the records cannot be decompressed: {error}"))
}

/// Reads to the end, growing with what is really there.
fn read_all(reader: impl Read, compressed: usize, limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::with_capacity(compressed.saturating_mul(3).min(limit));
    let mut bounded = reader.take(limit as u64 + 1);
    match bounded.read_to_end(&mut out) {
        Ok(_) if out.len() > limit => Err(BatchError::Bomb(limit)),
        Ok(_) => Ok(out.into()),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(BatchError::Bomb(limit)),
        Err(error) => Err(damaged(&error)),
    }
}

/// Snappy, with the Java client's framing or as one bare block.
fn unsnap(records: &Bytes, limit: usize) -> Result<Bytes, BatchError> {
    let framed = records.len() >= XERIAL.len() && records[..8] == XERIAL[..8];
    let mut rest: &[u8] = if framed { &records[XERIAL.len()..] } else { records };
    let mut out = Vec::new();
    let mut decoder = snap::raw::Decoder::new();
    while !rest.is_empty() {
        let block = if framed {
            let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| damaged(&"a block's length is cut short"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let block = after.get(..length).ok_or_else(|| damaged(&"a block is cut short"))?;
            rest = &after[length..];
            Cow::Borrowed(block)
        } else {
            Cow::Borrowed(std::mem::take(&mut rest))
        };
        let size = snap::raw::decompress_len(&block).map_err(|error| damaged(&error))?;
        // Snappy cannot expand more than this: a larger claim is a lie, and not worth an allocation.
        if size > block.len().saturating_mul(64).saturating_add(64) || out.len().saturating_add(size) > limit {
            return Err(BatchError::Bomb(limit));
        }
        out.extend_from_slice(&decoder.decompress_vec(&block).map_err(|error| damaged(&error))?);
    }
    Ok(out.into())
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| format!("there is no compression {name:?}; use none, gzip, snappy, lz4 or zstd"))
    }
}
