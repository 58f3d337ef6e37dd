//! Decodes the records of a batch one by one without copying: keys, values and headers are slices
//! of the batch or of its decompressed records.

use bytes::Bytes;

use super::{
    BatchError, BatchHeader, HEADER_LEN,
    view::{self, HeadersView, RecordView, RecordViews},
};

/// A record with owned fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key. `None` is null, which differs from empty.
    pub key: Option<Bytes>,
    /// The value. `None` is null: a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in the order written.
    pub headers: RecordHeaders,
}

/// The headers of a record, decoded on demand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordHeaders {
    bytes: Bytes,
    count: usize,
}

impl RecordHeaders {
    /// Returns the number of headers.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over keys and values in the order written. Keys may repeat.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + '_ {
        let view = HeadersView {
            bytes: &self.bytes,
            count: self.count,
        };
        view.iter().map(|(key, value)| {
            (
                self.bytes.slice_ref(key),
                value.map(|value| self.bytes.slice_ref(value)),
            )
        })
    }
}

/// Iterates over the records of one batch. Ends after the first error.
#[derive(Debug, Clone)]
pub struct DecodedRecords {
    header: BatchHeader,
    bytes: Bytes,
    position: usize,
    remaining: i32,
}

impl DecodedRecords {
    /// Opens one whole batch and decompresses its records to at most `max_uncompressed` bytes. Does
    /// not check the CRC; the caller does, with [`verify_crc`](super::verify_crc).
    ///
    /// # Errors
    ///
    /// Fails if the header or the compressed records are damaged, or if the records decompress to
    /// more than the limit.
    pub fn decode(batch: Bytes, max_uncompressed: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&batch)?;
        let compressed = batch.slice(HEADER_LEN..header.size());
        let bytes = header.compression()?.decompress(&compressed, max_uncompressed)?;
        if header.record_count < 0 {
            return Err(BatchError::Invalid(format!(
                "record count {} is negative",
                header.record_count
            )));
        }
        Ok(Self {
            header,
            bytes,
            position: 0,
            remaining: header.record_count,
        })
    }

    /// Creates the iterator over decompressed records; `header` holds their count.
    pub(super) fn from_chunk(header: BatchHeader, bytes: Bytes) -> Self {
        Self {
            header,
            bytes,
            position: 0,
            remaining: header.record_count,
        }
    }

    /// Returns the batch header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Returns the decompressed records. Fields of views can be sliced from them without copying.
    pub fn decompressed_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Iterates over all records of the batch as views, regardless of this iterator's position.
    pub fn views(&self) -> RecordViews<'_> {
        RecordViews::new(&self.header, &self.bytes)
    }

    /// Validates every record once: structure, count, and offsets that rise within the batch's
    /// range.
    ///
    /// # Errors
    ///
    /// Fails with [`BatchError::Invalid`] or [`BatchError::Truncated`] at the first damaged record.
    pub fn check(&self) -> Result<(), BatchError> {
        let mut before = -1;
        for record in self.views() {
            let offset = record?.offset.wrapping_sub(self.header.base_offset);
            if offset <= before {
                return Err(BatchError::invalid(
                    "the offsets of a batch's records do not rise",
                ));
            }
            before = offset;
        }
        Ok(())
    }

    /// Returns the encoded records, decompressed.
    pub fn decompressed(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the size of the decompressed records in bytes.
    pub fn decompressed_len(&self) -> usize {
        self.decompressed().len()
    }

    fn read_record(&mut self) -> Result<Record, BatchError> {
        let RecordView {
            offset,
            timestamp,
            key,
            value,
            headers,
        } = view::read_record(&self.header, &self.bytes, &mut self.position)?;
        let owned = |field: &[u8]| self.bytes.slice_ref(field);
        Ok(Record {
            offset,
            timestamp,
            key: key.map(owned),
            value: value.map(owned),
            headers: RecordHeaders {
                bytes: owned(headers.bytes),
                count: headers.count,
            },
        })
    }
}

impl Iterator for DecodedRecords {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining == 0 {
            let rest = self.bytes.len() - self.position;
            self.position = self.bytes.len();
            return (rest > 0).then(|| Err(BatchError::invalid("bytes follow the last record")));
        }
        self.remaining -= 1;
        let record = self.read_record();
        if record.is_err() {
            self.remaining = 0;
            self.position = self.bytes.len();
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A record takes at least seven bytes, whatever the count claims.
        let most = (self.bytes.len() - self.position) / 7 + 1;
        (
            0,
            Some(most.min(usize::try_from(self.remaining).unwrap_or(0) + 1)),
        )
    }
}
