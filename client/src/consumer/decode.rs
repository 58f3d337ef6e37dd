//! [`DecodedBatch`]: a fetched batch, validated once (CRC, codec, structure), whose records are
//! then read without errors and without copies. A batch that decompresses to more than
//! [`DECODE_CHUNK_BYTES`] bytes is decoded in parts, each after the previous one was read.

use std::fmt;

use bytes::Bytes;
use streamhouse_core::batch::{
    BatchChunkReader, BatchError, DecodedRecords as BatchRecords, RecordView, RecordViews, verify_crc,
};

/// Most bytes of one batch that are decompressed at once, unless a single record is larger.
const DECODE_CHUNK_BYTES: usize = 8 << 20;
/// Largest record, and largest codec window, in bytes.
const MAX_RECORD_BYTES: usize = 128 << 20;

/// A validated batch, or a part of one.
pub(super) struct DecodedBatch {
    records: BatchRecords,
    start: i64,
    end: i64,
}

impl fmt::Debug for DecodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedBatch")
            .field("header", self.records.header())
            .finish_non_exhaustive()
    }
}

impl DecodedBatch {
    /// Validates and decompresses a batch, or its first part together with the source of the
    /// remaining parts.
    pub(super) fn decode_first(batch: &Bytes) -> Result<(Self, Option<BatchChunkReader>), BatchError> {
        verify_crc(batch)?;
        match BatchRecords::decode(batch.clone(), DECODE_CHUNK_BYTES) {
            Ok(records) => {
                records.check()?;
                let (start, end) = (records.header().base_offset, records.header().next_offset());
                Ok((Self { records, start, end }, None))
            }
            Err(BatchError::DecompressedTooLarge(_)) => {
                let mut chunks = BatchChunkReader::new(batch, MAX_RECORD_BYTES)?;
                let first = Self::decode_next(&mut chunks)?;
                Ok((first, Some(chunks)))
            }
            Err(error) => Err(error),
        }
    }

    /// Decodes the next part of a batch.
    pub(super) fn decode_next(chunks: &mut BatchChunkReader) -> Result<Self, BatchError> {
        let chunk = chunks
            .next_chunk(DECODE_CHUNK_BYTES)?
            .ok_or_else(|| BatchError::Invalid("the batch has no records".to_owned()))?;
        Ok(Self {
            records: chunk.records,
            start: chunk.start,
            end: chunk.end,
        })
    }

    /// Returns the first offset.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// Returns the offset after the last record.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Returns the size of the records in bytes, decompressed.
    pub(super) fn bytes(&self) -> usize {
        self.records.decompressed_len()
    }

    /// Returns the decompressed bytes, to slice fields from.
    pub(super) fn source(&self) -> &Bytes {
        self.records.decompressed_bytes()
    }

    /// Returns whether these bytes occur anywhere in the records. If not, no record has a header of
    /// this name.
    pub(super) fn contains_text(&self, text: &str) -> bool {
        memchr::memmem::find(self.records.decompressed(), text.as_bytes()).is_some()
    }

    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.records.header().record_count).unwrap_or(0)
    }

    /// Iterates over the records from an offset on.
    pub(super) fn iter_from(&self, offset: i64) -> DecodedBatchIter<'_> {
        let mut views = self.records.views();
        views.skip_to(offset);
        DecodedBatchIter { views }
    }
}

/// Iterator over the records of a batch.
#[derive(Debug)]
pub(super) struct DecodedBatchIter<'a> {
    views: RecordViews<'a>,
}

impl<'a> Iterator for DecodedBatchIter<'a> {
    type Item = RecordView<'a>;

    fn next(&mut self) -> Option<RecordView<'a>> {
        // The whole batch was validated, so this cannot fail.
        self.views.next()?.ok()
    }
}
