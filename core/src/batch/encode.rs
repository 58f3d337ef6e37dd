//! Builds batches: records are encoded one by one into a buffer that is reused from batch to batch.

use bytes::Bytes;

use super::{BatchError, Compression, HEADER_LEN, header, varint};

/// Collects records and encodes them as a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

impl BatchBuilder {
    /// Creates an empty builder.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            records: Vec::new(),
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            producer: (-1, -1, -1),
        }
    }

    /// Appends a record and returns its offset within the batch.
    ///
    /// # Errors
    ///
    /// Fails with [`BatchError::TooLarge`] if the batch would exceed the format's limits.
    pub fn append<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(K, Option<V>)],
    ) -> Result<i32, BatchError> {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        let delta = self.count;
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let size = 1
            + varint::len(timestamp_delta)
            + varint::len(delta.into())
            + field_len(key)
            + field_len(value)
            + varint::len(headers.len() as i64)
            + headers
                .iter()
                .map(|(k, v)| field_len(Some(k.as_ref())) + field_len(v.as_ref().map(AsRef::as_ref)))
                .sum::<usize>();
        if self.records.len() + size > i32::MAX as usize - HEADER_LEN - 16 || delta == i32::MAX {
            return Err(BatchError::TooLarge {
                size: self.records.len() + size,
                limit: i32::MAX as usize,
            });
        }
        self.records.reserve(size + 5);
        varint::put(&mut self.records, size as i64);
        self.records.push(0);
        varint::put(&mut self.records, timestamp_delta);
        varint::put(&mut self.records, delta.into());
        self.put_field(key);
        self.put_field(value);
        varint::put(&mut self.records, headers.len() as i64);
        for (key, value) in headers {
            self.put_field(Some(key.as_ref()));
            self.put_field(value.as_ref().map(AsRef::as_ref));
        }
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(delta)
    }

    #[inline]
    fn put_field(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => varint::put(&mut self.records, -1),
            Some(bytes) => {
                varint::put(&mut self.records, bytes.len() as i64);
                self.records.extend_from_slice(bytes);
            }
        }
    }

    /// Returns the number of records.
    pub fn len(&self) -> i32 {
        self.count
    }

    /// Returns whether the builder holds no records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the uncompressed size so far, header included.
    pub fn size_bytes(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// Sets the producer id, producer epoch and base sequence, which make the batch idempotent.
    pub fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.producer = (id, epoch, base_sequence);
    }

    /// Encodes the batch with base offset 0 and leader epoch -1. Empties the builder but retains
    /// its buffer.
    ///
    /// # Errors
    ///
    /// Fails if there are no records, if compression fails, or if the batch exceeds the format's
    /// limits.
    pub fn finish(&mut self) -> Result<Bytes, BatchError> {
        self.finish_with(false)
    }

    /// Encodes the batch as [`BatchBuilder::finish`] does, but leaves the records uncompressed
    /// where compression would enlarge them: the batch has at most [`BatchBuilder::size_bytes`]
    /// bytes.
    ///
    /// # Errors
    ///
    /// Same as [`BatchBuilder::finish`].
    pub fn finish_smallest(&mut self) -> Result<Bytes, BatchError> {
        self.finish_with(true)
    }

    fn finish_with(&mut self, smallest: bool) -> Result<Bytes, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Invalid(
                "a batch needs at least one record".to_owned(),
            ));
        }
        let head = self.build_header();
        let most = if smallest { self.size_bytes() } else { usize::MAX };
        let batch = self
            .compression
            .compress(&head, &self.records, most, |batch, codec| {
                let size = batch.len();
                let length = i32::try_from(size - 12).map_err(|_| BatchError::TooLarge {
                    size,
                    limit: i32::MAX as usize,
                })?;
                batch[8..12].copy_from_slice(&length.to_be_bytes());
                batch[21..23].copy_from_slice(&codec.id().to_be_bytes());
                let crc = header::compute_crc(batch);
                batch[17..21].copy_from_slice(&crc.to_be_bytes());
                // Copied at its exact size: the batch may be queued for long, and buffers grow in
                // steps.
                Ok(Bytes::copy_from_slice(batch))
            })?;
        self.clear();
        Ok(batch)
    }

    /// Builds the header with length, codec and CRC still 0.
    fn build_header(&self) -> [u8; HEADER_LEN] {
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        let mut head = [0; HEADER_LEN];
        head[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
        head[16] = 2;
        head[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        head[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        head[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        head[43..51].copy_from_slice(&producer_id.to_be_bytes());
        head[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
        head[53..57].copy_from_slice(&base_sequence.to_be_bytes());
        head[57..].copy_from_slice(&self.count.to_be_bytes());
        head
    }

    /// Removes the records and the producer fields; retains the buffer.
    pub fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
        self.max_timestamp = i64::MIN;
        self.producer = (-1, -1, -1);
    }
}

#[inline]
fn field_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::len(bytes.len() as i64) + bytes.len())
}
