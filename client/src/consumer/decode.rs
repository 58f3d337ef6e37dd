//! [`Decoded`]: a fetched batch, checked once (CRC, codec, structure), whose records are then read without failing and
//! without a copy.

use std::fmt;

use bytes::Bytes;
use streamhouse_core::batch::{BatchError, HeadersView, Records as BatchRecords, Views, verify_crc};

use super::records::ConsumerRecord;

/// The most that one batch may decompress to.
const MAX_DECOMPRESSED: usize = 128 << 20;

/// The headers of a record, not read yet.
pub(super) type HeadersRef<'a> = HeadersView<'a>;

/// A batch that was checked.
pub(super) struct Decoded {
    records: BatchRecords,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoded")
            .field("header", self.records.header())
            .finish_non_exhaustive()
    }
}

impl Decoded {
    /// Checks and decompresses one whole batch.
    pub(super) fn new(batch: Bytes) -> Result<Self, BatchError> {
        verify_crc(&batch)?;
        let records = BatchRecords::decode(batch, MAX_DECOMPRESSED)?;
        records.check()?;
        Ok(Self { records })
    }

    /// The offset after its last record.
    pub(super) fn end(&self) -> i64 {
        self.records.header().next_offset()
    }

    /// Bytes of its records, decompressed.
    pub(super) fn bytes(&self) -> usize {
        self.records.decompressed_len()
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
        DecodedIter { views }
    }
}

/// The records of a batch; topic and partition are the caller's to fill in.
#[derive(Debug)]
pub(super) struct DecodedIter<'a> {
    views: Views<'a>,
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
        })
    }
}

/// Names and values; a name that is not UTF-8 shows as the replacement character.
pub(super) fn headers(headers: HeadersRef<'_>) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
    headers
        .iter()
        .map(|(key, value)| (std::str::from_utf8(key).unwrap_or("\u{fffd}"), value))
}
