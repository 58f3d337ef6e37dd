//! Records borrowed from a decoded batch: the fast path of consumers, without a reference count per
//! field. [`DecodedRecords::check`](super::DecodedRecords::check) validates a batch once; views of
//! a validated batch never fail.

use super::{BatchError, BatchHeader, TimestampType, varint};

/// A record that borrows from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key. `None` is null, which differs from empty.
    pub key: Option<&'a [u8]>,
    /// The value. `None` is null: a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in the order written.
    pub headers: HeadersView<'a>,
}

/// The headers of a record, decoded on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadersView<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: usize,
}

impl<'a> HeadersView<'a> {
    /// Returns the number of headers.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over keys and values in the order written. Keys may repeat.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let (bytes, mut position) = (self.bytes, 0);
        // The headers were validated with the record, so none is skipped here.
        (0..self.count).map_while(move |_| {
            let key = read_field(bytes, &mut position).ok()??;
            Some((key, read_field(bytes, &mut position).ok()?))
        })
    }
}

/// Iterates over the records of a batch as views. Ends after the first error.
#[derive(Debug, Clone)]
pub struct RecordViews<'a> {
    header: &'a BatchHeader,
    bytes: &'a [u8],
    position: usize,
    remaining: i32,
}

impl<'a> RecordViews<'a> {
    /// Creates the iterator over decompressed records; `header` holds their count.
    pub(super) fn new(header: &'a BatchHeader, bytes: &'a [u8]) -> Self {
        Self {
            header,
            bytes,
            position: 0,
            remaining: header.record_count,
        }
    }

    /// Skips the records before `offset`, decoding only their lengths and deltas.
    pub fn skip_to(&mut self, offset: i64) {
        while self.remaining > 0 {
            let mut at = self.position;
            let Some(end) = read_record_end(self.bytes, &mut at) else {
                return;
            };
            let mut peek = at + 1;
            let deltas = varint::get(self.bytes, &mut peek).and_then(|_| varint::get(self.bytes, &mut peek));
            let Ok(delta) = deltas else { return };
            if self.header.base_offset.wrapping_add(delta) >= offset {
                return;
            }
            self.position = end;
            self.remaining -= 1;
        }
    }
}

impl<'a> Iterator for RecordViews<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining <= 0 {
            let rest = self.bytes.len() - self.position;
            self.position = self.bytes.len();
            return (rest > 0).then(|| Err(BatchError::invalid("bytes follow the last record")));
        }
        self.remaining -= 1;
        let record = read_record(self.header, self.bytes, &mut self.position);
        if record.is_err() {
            self.remaining = 0;
            self.position = self.bytes.len();
        }
        Some(record)
    }
}

/// Decodes the record at `position` of the decompressed records and moves `position` past it.
pub(super) fn read_record<'a>(
    header: &BatchHeader,
    bytes: &'a [u8],
    position: &mut usize,
) -> Result<RecordView<'a>, BatchError> {
    let mut at = *position;
    let end = read_record_end(bytes, &mut at).ok_or_else(|| BatchError::invalid("a record is cut short"))?;
    *position = end;
    let record = &bytes[at..end];
    let mut at = 1; // attributes, unused
    let timestamp_delta = varint::get(record, &mut at)?;
    let offset_delta = varint::get(record, &mut at)?;
    if !(0..=i64::from(header.last_offset_delta)).contains(&offset_delta) {
        return Err(BatchError::invalid("a record's offset lies outside its batch"));
    }
    let key = read_field(record, &mut at)?;
    let value = read_field(record, &mut at)?;
    let count = usize::try_from(varint::get(record, &mut at)?)
        .map_err(|_| BatchError::invalid("a record has a negative number of headers"))?;
    let start = at;
    for _ in 0..count {
        read_field(record, &mut at)?.ok_or_else(|| BatchError::invalid("a header's key is null"))?;
        read_field(record, &mut at)?;
    }
    if at != record.len() {
        return Err(BatchError::invalid("a record is longer than its fields"));
    }
    let timestamp = match header.timestamp_type() {
        TimestampType::CreateTime => header.base_timestamp.wrapping_add(timestamp_delta),
        TimestampType::LogAppendTime => header.max_timestamp,
    };
    let offset = header.base_offset.wrapping_add(offset_delta);
    let headers = HeadersView {
        bytes: &record[start..],
        count,
    };
    Ok(RecordView {
        offset,
        timestamp,
        key,
        value,
        headers,
    })
}

/// Decodes a record's length. Moves `position` to the record's first byte and returns its end.
pub(super) fn read_record_end(bytes: &[u8], position: &mut usize) -> Option<usize> {
    let length = usize::try_from(varint::get(bytes, position).ok()?).ok()?;
    position.checked_add(length).filter(|end| *end <= bytes.len())
}

fn read_field<'a>(bytes: &'a [u8], position: &mut usize) -> Result<Option<&'a [u8]>, BatchError> {
    let length = varint::get(bytes, position)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| BatchError::invalid("a length is negative"))?;
    let rest = bytes.get(*position..).unwrap_or_default();
    let field = rest.get(..length).ok_or(BatchError::Truncated {
        needed: length,
        have: rest.len(),
    })?;
    *position += length;
    Ok(Some(field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{BatchBuilder, Compression, DecodedRecords, HEADER_LEN};

    fn batch(values: &[&[u8]]) -> bytes::Bytes {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        for (value, timestamp) in values.iter().zip(7..) {
            let headers = [(&b"h"[..], Some(*value)), (&b"null"[..], None)];
            builder
                .append(timestamp, Some(b"k"), Some(value), &headers)
                .unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn views_are_what_owned_records_are() {
        let records = DecodedRecords::decode(batch(&[b"a", b"", b"ccc"]), 1 << 20).unwrap();
        records.check().unwrap();
        for (view, owned) in records.views().zip(records.clone()) {
            let (view, owned) = (view.unwrap(), owned.unwrap());
            assert_eq!((view.offset, view.timestamp), (owned.offset, owned.timestamp));
            assert_eq!(
                (view.key, view.value),
                (owned.key.as_deref(), owned.value.as_deref())
            );
            let headers: Vec<_> = owned.headers.iter().collect();
            assert_eq!(view.headers.len(), headers.len());
            for ((key, value), (owned_key, owned_value)) in view.headers.iter().zip(&headers) {
                assert_eq!((key, value), (&owned_key[..], owned_value.as_deref()));
            }
        }
    }

    #[test]
    fn skipping_stops_at_the_offset() {
        let records = DecodedRecords::decode(batch(&[b"a", b"b", b"c"]), 1 << 20).unwrap();
        for from in 0..5 {
            let mut views = records.views();
            views.skip_to(from);
            let offsets: Vec<_> = views.map(|view| view.unwrap().offset).collect();
            assert_eq!(offsets, (from..3).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn damaged_records_are_an_error_or_records_but_never_a_panic(at in 0_usize..200, byte: u8, count: i32) {
            let mut builder = BatchBuilder::new(Compression::None);
            for value in 0..5_u8 {
                builder.append::<&[u8], &[u8]>(0, Some(&[value; 9]), None, &[(b"x", None)]).unwrap();
            }
            let mut bytes = builder.finish().unwrap().to_vec();
            let at = HEADER_LEN + at % (bytes.len() - HEADER_LEN);
            bytes[at] ^= byte;
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            if let Ok(records) = DecodedRecords::decode(bytes.into(), 1 << 20) {
                let _ = records.check();
                let mut views = records.views();
                views.skip_to(i64::from(byte));
                views.filter_map(Result::ok).for_each(|view| { let _ = view.headers.iter().count(); });
            }
        }
    }
}
