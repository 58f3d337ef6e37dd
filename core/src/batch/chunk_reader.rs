//! Decodes a batch in parts ([`BatchChunkReader`]), so that a batch that decompresses to far more
//! than its size on the wire is never held in memory as a whole.
//!
//! Called by consumers for batches larger than their fetch buffer. Every part holds whole records
//! and is a [`DecodedRecords`] of its own.

use std::{
    fmt,
    io::{self, Read},
};

use bytes::{Buf, Bytes, buf::Reader};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::{
    BatchError, BatchHeader, Compression, DecodedRecords, HEADER_LEN,
    compression::{decompression_error, next_snappy_block},
    lz4::Lz4FrameReader,
    varint, view,
};

/// The decompressed bytes of a batch's records, read on demand.
type DecompressedReader = Box<dyn Read + Send>;

/// Decodes the records of one batch in parts.
///
/// Does not check the CRC; the caller does, with [`verify_crc`](super::verify_crc).
pub struct BatchChunkReader {
    header: BatchHeader,
    unpacked: DecompressedReader,
    /// The beginning of a record whose end has not been read yet.
    partial_record: Vec<u8>,
    remaining: i32,
    /// Offset of the last record returned, relative to the base offset.
    last_delta: i64,
    max_record_bytes: usize,
}

/// Some of the records of a batch.
#[derive(Debug, Clone)]
pub struct RecordChunk {
    /// The records, already validated as by [`DecodedRecords::check`].
    pub records: DecodedRecords,
    /// The offset at which this part begins: the end of the previous part.
    pub start: i64,
    /// The offset after the last record of this part; for the last part, the offset after the
    /// batch.
    pub end: i64,
}

impl BatchChunkReader {
    /// Opens one whole batch. `most` bounds the bytes of a single record and the window of the
    /// codec.
    ///
    /// # Errors
    ///
    /// Fails if the header is damaged or names an unknown codec.
    pub fn new(batch: &Bytes, most: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(batch)?;
        let records = batch.slice(HEADER_LEN..header.size());
        let unpacked: DecompressedReader = match header.compression()? {
            Compression::None => Box::new(records.reader()),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(records.reader())),
            Compression::Snappy => Box::new(SnappyReader::new(records, most)),
            Compression::Lz4 => Box::new(Lz4FrameReader::new(records)),
            Compression::Zstd => Box::new(ZstdReader::new(records, most)),
        };
        Ok(Self {
            header,
            unpacked,
            partial_record: Vec::new(),
            remaining: header.record_count,
            last_delta: -1,
            max_record_bytes: most,
        })
    }

    /// Returns whether all records have been returned.
    pub fn is_finished(&self) -> bool {
        self.remaining <= 0
    }

    /// Returns the next records: as many whole ones as fit into `room` bytes, and at least one.
    /// Returns `None` after the last record.
    ///
    /// # Errors
    ///
    /// Fails if the records are damaged or one of them is larger than allowed. No records follow an
    /// error.
    pub fn next_chunk(&mut self, room: usize) -> Result<Option<RecordChunk>, BatchError> {
        if self.remaining <= 0 {
            return Ok(None);
        }
        let chunk = self.read_chunk(room);
        if chunk.is_err() {
            self.remaining = 0;
        }
        chunk.map(Some)
    }

    fn read_chunk(&mut self, room: usize) -> Result<RecordChunk, BatchError> {
        let mut bytes = std::mem::take(&mut self.partial_record);
        let mut wanted = room.max(1);
        let (end, count) = loop {
            let all = !self.fill(&mut bytes, wanted)?;
            let whole = count_whole_records(&bytes, self.remaining);
            if whole.1 > 0 {
                break whole;
            }
            if all {
                return Err(BatchError::invalid("a record is cut short"));
            }
            wanted = self.required_len(&bytes)?.max(wanted + 1);
        };
        self.partial_record = bytes.split_off(end);
        self.remaining -= count;
        if self.remaining == 0 && (!self.partial_record.is_empty() || self.fill(&mut Vec::new(), 1)?) {
            return Err(BatchError::invalid("bytes follow the last record"));
        }
        let header = BatchHeader {
            record_count: count,
            ..self.header
        };
        self.check(DecodedRecords::from_chunk(header, bytes.into()))
    }

    /// Reads until `bytes` holds `wanted` bytes or the input ends. Returns whether it holds them.
    fn fill(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> Result<bool, BatchError> {
        let mut have = bytes.len();
        bytes.resize(wanted.max(have), 0);
        while have < wanted {
            match self.unpacked.read(&mut bytes[have..]) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(into_batch_error(error)),
            }
        }
        bytes.truncate(have);
        Ok(have >= wanted)
    }

    /// Returns how many bytes are needed to hold the record at the start of `bytes`, as far as they
    /// reveal it.
    fn required_len(&self, bytes: &[u8]) -> Result<usize, BatchError> {
        let mut at = 0;
        let Ok(length) = varint::get(bytes, &mut at) else {
            return Ok(bytes.len() + 1);
        };
        let length =
            usize::try_from(length).map_err(|_| BatchError::invalid("a record's length is negative"))?;
        match at
            .checked_add(length)
            .filter(|needed| *needed <= self.max_record_bytes)
        {
            Some(needed) => Ok(needed),
            None => Err(BatchError::DecompressedTooLarge(self.max_record_bytes)),
        }
    }

    /// Validates every record once, see [`DecodedRecords::check`].
    fn check(&mut self, records: DecodedRecords) -> Result<RecordChunk, BatchError> {
        let base = self.header.base_offset;
        let start = base.wrapping_add(self.last_delta).wrapping_add(1);
        for record in records.views() {
            let delta = record?.offset.wrapping_sub(base);
            if delta <= self.last_delta {
                return Err(BatchError::invalid(
                    "the offsets of a batch's records do not rise",
                ));
            }
            self.last_delta = delta;
        }
        let end = if self.remaining == 0 {
            self.header.next_offset()
        } else {
            base.wrapping_add(self.last_delta).wrapping_add(1)
        };
        Ok(RecordChunk { records, start, end })
    }
}

impl fmt::Debug for BatchChunkReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks")
            .field("header", &self.header)
            .field("left", &self.remaining)
            .finish_non_exhaustive()
    }
}

/// Returns the end of the last whole record, and the number of whole records, at most `most`.
fn count_whole_records(bytes: &[u8], most: i32) -> (usize, i32) {
    let (mut end, mut count) = (0, 0);
    while count < most {
        let mut at = end;
        match view::read_record_end(bytes, &mut at) {
            Some(next) if next > end => end = next,
            _ => break,
        }
        count += 1;
    }
    (end, count)
}

/// Unwraps the [`BatchError`] that this module's own readers report; other codecs report errors of
/// their own.
fn into_batch_error(error: io::Error) -> BatchError {
    match error.downcast::<BatchError>() {
        Ok(error) => error,
        Err(error) => decompression_error(&error),
    }
}

/// Decompresses Snappy block by block. A bare block, as written by clients other than the Java one,
/// is decompressed as a whole.
struct SnappyReader {
    input: Bytes,
    max_block_bytes: usize,
    begun: bool,
    framed: bool,
    block: Vec<u8>,
    at: usize,
}

impl SnappyReader {
    fn new(input: Bytes, most: usize) -> Self {
        Self {
            input,
            max_block_bytes: most,
            begun: false,
            framed: false,
            block: Vec::new(),
            at: 0,
        }
    }

    fn next_block(&mut self) -> Result<bool, BatchError> {
        while self.at == self.block.len() {
            if self.input.is_empty() {
                return Ok(false);
            }
            let (taken, size, framed) =
                next_snappy_block(&self.input, (self.begun, self.framed), self.max_block_bytes)?;
            (self.begun, self.framed) = (true, framed);
            self.block.clear();
            self.block.resize(size, 0);
            self.at = 0;
            snap::raw::Decoder::new()
                .decompress(&self.input[taken.clone()], &mut self.block)
                .map_err(|error| decompression_error(&error))?;
            self.input.advance(taken.end);
        }
        Ok(true)
    }
}

impl Read for SnappyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.next_block().map_err(io::Error::other)? {
            return Ok(0);
        }
        let size = buf.len().min(self.block.len() - self.at);
        buf[..size].copy_from_slice(&self.block[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// Decompresses consecutive Zstandard frames.
struct ZstdReader {
    state: ZstdState,
    window: u64,
}

enum ZstdState {
    BetweenFrames(Reader<Bytes>),
    InFrame(Box<StreamingDecoder<Reader<Bytes>, FrameDecoder>>),
    Finished,
}

impl ZstdReader {
    fn new(input: Bytes, most: usize) -> Self {
        Self {
            state: ZstdState::BetweenFrames(input.reader()),
            window: most as u64,
        }
    }
}

impl Read for ZstdReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, ZstdState::Finished) {
                ZstdState::Finished => return Ok(0),
                ZstdState::BetweenFrames(rest) if rest.get_ref().is_empty() => return Ok(0),
                ZstdState::BetweenFrames(rest) => {
                    let decoder = StreamingDecoder::new_with_max_window_size(rest, self.window);
                    self.state = ZstdState::InFrame(Box::new(decoder.map_err(io::Error::other)?));
                }
                ZstdState::InFrame(mut decoder) => match decoder.read(buf)? {
                    0 => self.state = ZstdState::BetweenFrames(decoder.into_inner()),
                    read => {
                        self.state = ZstdState::InFrame(decoder);
                        return Ok(read);
                    }
                },
            }
        }
    }
}
