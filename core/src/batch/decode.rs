//! Reading records out of a batch, one by one, without a copy each: keys, values and headers are slices of the batch, or
//! of its decompressed records.

use bytes::Bytes;

use super::{BatchError, BatchHeader, HEADER_LEN, TimestampType, varint};

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// `None` is null, which is not the same as empty.
    pub key: Option<Bytes>,
    /// `None` is null: a tombstone.
    pub value: Option<Bytes>,
    /// In the order written.
    pub headers: Headers,
}

/// The headers of a record, read when asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    bytes: Bytes,
    count: usize,
}

impl Headers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keys and values, in the order written; keys may stand more than once.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + '_ {
        let mut position = 0;
        // They were checked when the record was read, so nothing is left out here.
        (0..self.count).map_while(move |_| {
            let key = slice(&self.bytes, &mut position).ok()??;
            let value = slice(&self.bytes, &mut position).ok()?;
            Some((key, value))
        })
    }
}

/// The records of one batch. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    bytes: Bytes,
    position: usize,
    left: i32,
}

impl Records {
    /// Opens one whole batch, decompressing to at most `max_uncompressed` bytes. The CRC is the caller's to check
    /// ([`verify_crc`](super::verify_crc)).
    pub fn decode(batch: Bytes, max_uncompressed: usize) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&batch)?;
        let compressed = batch.slice(HEADER_LEN..header.size());
        let bytes = header.compression()?.decompress(&compressed, max_uncompressed)?;
        if header.record_count < 0 {
            return Err(BatchError::Invalid(format!("record count {} is negative", header.record_count)));
        }
        Ok(Self { header, bytes, position: 0, left: header.record_count })
    }

    /// The head of the batch.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The head, and the decompressed records.
    pub(super) fn parts(&self) -> (&BatchHeader, &[u8]) {
        (&self.header, &self.bytes)
    }

    fn read(&mut self) -> Result<Record, BatchError> {
        let size = length(&self.bytes, &mut self.position)?.ok_or_else(|| invalid("a record has a negative length"))?;
        let end = self.position + size;
        let record = self.bytes.slice(self.position..end);
        self.position = end;
        let mut at = 1; // attributes, unused
        let timestamp_delta = varint::get(&record, &mut at)?;
        let offset_delta = varint::get(&record, &mut at)?;
        if !(0..=i64::from(self.header.last_offset_delta)).contains(&offset_delta) {
            return Err(invalid("a record's offset lies outside its batch"));
        }
        let key = slice(&record, &mut at)?;
        let value = slice(&record, &mut at)?;
        let count = varint::get(&record, &mut at)?;
        let count = usize::try_from(count).map_err(|_| invalid("a record has a negative number of headers"))?;
        let start = at;
        for _ in 0..count {
            slice(&record, &mut at)?.ok_or_else(|| invalid("a header's key is null"))?;
            slice(&record, &mut at)?;
        }
        if at != record.len() {
            return Err(invalid("a record is longer than its fields"));
        }
        let timestamp = match self.header.timestamp_type() {
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        let headers = Headers { bytes: record.slice(start..at), count };
        Ok(Record { offset: self.header.base_offset.wrapping_add(offset_delta), timestamp, key, value, headers })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = self.bytes.len() - self.position;
            self.position = self.bytes.len();
            return (rest > 0).then(|| Err(invalid("bytes follow the last record")));
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
            self.position = self.bytes.len();
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A record has at least seven bytes, whatever the count claims.
        let most = (self.bytes.len() - self.position) / 7 + 1;
        (0, Some(most.min(usize::try_from(self.left).unwrap_or(0) + 1)))
    }
}

fn invalid(message: &str) -> BatchError {
    BatchError::Invalid(message.to_owned())
}

/// Reads a length and checks that so many bytes follow; `None` for -1.
fn length(bytes: &[u8], position: &mut usize) -> Result<Option<usize>, BatchError> {
    let length = varint::get(bytes, position)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| invalid("a length is negative"))?;
    let have = bytes.len() - *position;
    if length > have {
        return Err(BatchError::Truncated { needed: length, have });
    }
    Ok(Some(length))
}

fn slice(bytes: &Bytes, position: &mut usize) -> Result<Option<Bytes>, BatchError> {
    Ok(length(bytes, position)?.map(|length| {
        let slice = bytes.slice(*position..*position + length);
        *position += length;
        slice
    }))
}
