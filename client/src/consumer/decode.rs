//! [`Decoded`]: a fetched batch, checked once (CRC, codec, structure), whose records are then read without failing and
//! without a copy. A batch that unpacks to more than [`CHUNK`] comes in parts, each decoded when the one before was read.

use std::fmt;

use bytes::Bytes;
use streamhouse_core::batch::{BatchError, Chunks, HeadersView, Records as BatchRecords, Views, verify_crc};

use super::records::ConsumerRecord;

/// What of one batch is held decompressed at once, unless a single record is larger.
const CHUNK: usize = 8 << 20;
/// The most that one record, or the window of its codec, may take.
const MAX_RECORD: usize = 128 << 20;

/// The headers of a record, not read yet.
pub(super) type HeadersRef<'a> = HeadersView<'a>;

/// A batch that was checked, or a part of it.
pub(super) struct Decoded {
    records: BatchRecords,
    start: i64,
    end: i64,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded")
            .field("header", self.records.header())
            .finish_non_exhaustive()
    }
}

impl Decoded {
    /// Checks and decompresses one whole batch, or its first part; then with what the others are to be had from.
    pub(super) fn open(batch: &Bytes) -> Result<(Self, Option<Chunks>), BatchError> {
        verify_crc(batch)?;
        match BatchRecords::decode(batch.clone(), CHUNK) {
            Ok(records) => {
                records.check()?;
                let (start, end) = (records.header().base_offset, records.header().next_offset());
                Ok((Self { records, start, end }, None))
            }
            Err(BatchError::Bomb(_)) => {
                let mut chunks = Chunks::new(batch, MAX_RECORD)?;
                let first = Self::next_of(&mut chunks)?;
                Ok((first, Some(chunks)))
            }
            Err(error) => Err(error),
        }
    }

    /// The next part of a batch that is not finished.
    pub(super) fn next_of(chunks: &mut Chunks) -> Result<Self, BatchError> {
        let chunk = chunks
            .next_chunk(CHUNK)?
            .ok_or_else(|| BatchError::Invalid("the batch has no records".to_owned()))?;
        Ok(Self {
            records: chunk.records,
            start: chunk.start,
            end: chunk.end,
        })
    }

    /// The offset at which it begins.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// The offset after its last record.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Bytes of its records, decompressed.
    pub(super) fn bytes(&self) -> usize {
        self.records.decompressed_len()
    }

    /// Its decompressed records, to slice fields from.
    pub(super) fn source(&self) -> &Bytes {
        self.records.decompressed_bytes()
    }

    /// Whether these bytes stand anywhere in its records: if not, no header of theirs has this name.
    pub(super) fn mentions(&self, text: &str) -> bool {
        memchr::memmem::find(self.records.decompressed(), text.as_bytes()).is_some()
    }

    /// How many records it has.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.records.header().record_count).unwrap_or(0)
    }

    /// Its records from an offset on.
    pub(super) fn iter_from(&self, offset: i64) -> DecodedIter<'_> {
        let mut views = self.records.views();
        views.skip_to(offset);
        DecodedIter {
            views,
            source: self.source(),
        }
    }
}

/// The records of a batch; topic and partition are the caller's to fill in.
#[derive(Debug)]
pub(super) struct DecodedIter<'a> {
    views: Views<'a>,
    source: &'a Bytes,
}

impl<'a> Iterator for DecodedIter<'a> {
    type Item = ConsumerRecord<'a>;

    fn next(&mut self) -> Option<ConsumerRecord<'a>> {
        // The batch was checked as a whole, so an error cannot come up any more.
        let view = self.views.next()?.ok()?;
        Some(ConsumerRecord {
            topic: "",
            partition: 0,
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key,
            value: view.value,
            headers: view.headers,
            source: self.source,
        })
    }
}

/// Names and values; a name that is not UTF-8 shows as the replacement character.
pub(super) fn headers(headers: HeadersRef<'_>) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    headers
        .iter()
        .map(|(key, value)| (std::str::from_utf8(key).unwrap_or("\u{fffd}"), value))
}
