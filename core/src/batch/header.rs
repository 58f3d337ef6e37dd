//! The fixed header of a RecordBatch v2: parsing without decompressing, the CRC, stamping.

use bytes::Bytes;

use super::{BatchError, Compression};

/// Bytes before the records.
pub const HEADER_LEN: usize = 61;
/// Bytes before those counted by `batch_length`.
const LENGTH_END: usize = 12;
/// Position of the first byte covered by the CRC.
const CRC_START: usize = 21;

/// A batch header. Sizes are in bytes, times in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record, stamped by the agent.
    pub base_offset: i64,
    /// Number of bytes after this field.
    pub batch_length: i32,
    /// Epoch of the partition's leader, stamped by the agent.
    pub leader_epoch: i32,
    /// CRC32C of everything after this field.
    pub crc: u32,
    /// Compression, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Number of offsets that the batch occupies, minus one.
    pub last_offset_delta: i32,
    /// Timestamp of the first record.
    pub base_timestamp: i64,
    /// Greatest timestamp of all records.
    pub max_timestamp: i64,
    /// Producer id; -1 if not idempotent.
    pub producer_id: i64,
    /// Producer epoch; -1 if not idempotent.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 if not idempotent.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

/// The meaning of a batch's timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// Set by the producer, per record.
    CreateTime,
    /// Set by the agent, once for the whole batch.
    LogAppendTime,
}

fn read_array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Parses the header of the batch at the start of `bytes`, which may hold more than one batch.
    /// Checks the magic and that the batch is complete, but neither the CRC nor the records.
    ///
    /// # Errors
    ///
    /// Fails if the batch is truncated, has another magic, or has a header with impossible lengths.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_LEN {
            return Err(BatchError::Truncated {
                needed: HEADER_LEN,
                have: bytes.len(),
            });
        }
        let magic = bytes[16] as i8;
        if magic != 2 {
            return Err(BatchError::UnsupportedMagic(magic));
        }
        let header = Self {
            base_offset: i64::from_be_bytes(read_array(bytes, 0)),
            batch_length: i32::from_be_bytes(read_array(bytes, 8)),
            leader_epoch: i32::from_be_bytes(read_array(bytes, 12)),
            crc: u32::from_be_bytes(read_array(bytes, 17)),
            attributes: i16::from_be_bytes(read_array(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(read_array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(read_array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(read_array(bytes, 35)),
            producer_id: i64::from_be_bytes(read_array(bytes, 43)),
            producer_epoch: i16::from_be_bytes(read_array(bytes, 51)),
            base_sequence: i32::from_be_bytes(read_array(bytes, 53)),
            record_count: i32::from_be_bytes(read_array(bytes, 57)),
        };
        if header.batch_length < (HEADER_LEN - LENGTH_END) as i32 {
            return Err(BatchError::Invalid(format!(
                "batch length {} is too short for a header",
                header.batch_length
            )));
        }
        if header.size() > bytes.len() {
            return Err(BatchError::Truncated {
                needed: header.size(),
                have: bytes.len(),
            });
        }
        if header.last_offset_delta < 0 {
            return Err(BatchError::Invalid(format!(
                "last offset delta {} is negative",
                header.last_offset_delta
            )));
        }
        Ok(header)
    }

    /// Returns the size of the whole batch, header included.
    pub fn size(&self) -> usize {
        LENGTH_END + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Returns the offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
            .saturating_add(1)
    }

    /// Returns the codec of the records.
    ///
    /// # Errors
    ///
    /// Fails with [`BatchError::UnsupportedCompression`] if the codec is unknown.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_id(self.attributes & 7)
    }

    /// Returns the meaning of the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & 8 == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Returns whether the batch is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 16 != 0
    }

    /// Returns whether the batch holds control records, which are never delivered to applications.
    pub fn is_control(&self) -> bool {
        self.attributes & 32 != 0
    }
}

/// Computes the CRC32C of one whole batch.
pub(super) fn compute_crc(batch: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[CRC_START..]) as u32
}

/// Checks the CRC of one whole batch.
///
/// # Errors
///
/// Fails with [`BatchError::WrongCrc`] if it differs, or if the header cannot be parsed.
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let stored = BatchHeader::parse(batch)?.crc;
    let computed = compute_crc(batch);
    if stored == computed {
        Ok(())
    } else {
        Err(BatchError::WrongCrc { stored, computed })
    }
}

/// Writes base offset and leader epoch into one whole batch. The CRC does not cover them.
pub fn stamp(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    if let Some(head) = batch.get_mut(..16) {
        head[..8].copy_from_slice(&base_offset.to_be_bytes());
        head[12..].copy_from_slice(&leader_epoch.to_be_bytes());
    }
}

/// Stamps consecutive batches with rising offsets from `base_offset`. Returns the offset after the
/// last record.
///
/// # Errors
///
/// Fails if a batch cannot be parsed.
pub fn stamp_all(batches: &mut [u8], base_offset: i64, leader_epoch: i32) -> Result<i64, BatchError> {
    let (mut offset, mut position) = (base_offset, 0);
    while position < batches.len() {
        let header = BatchHeader::parse(&batches[position..])?;
        stamp(&mut batches[position..], offset, leader_epoch);
        offset += i64::from(header.last_offset_delta) + 1;
        position += header.size();
    }
    Ok(offset)
}

/// Iterates over consecutive batches in a buffer. Ends after the first error.
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    rest: &'a [u8],
}

impl<'a> BatchIter<'a> {
    /// Creates an iterator over the batches of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Creates an iterator that yields the batches of `bytes` as slices of their own, without
    /// copying.
    pub fn owned(bytes: &Bytes) -> OwnedBatchIter {
        OwnedBatchIter { rest: bytes.clone() }
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match BatchHeader::parse(self.rest) {
            Ok(header) => {
                let (batch, rest) = self.rest.split_at(header.size());
                self.rest = rest;
                Ok((header, batch))
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

/// Iterates over consecutive batches as owned slices, see [`BatchIter::owned`].
#[derive(Debug, Clone)]
pub struct OwnedBatchIter {
    rest: Bytes,
}

impl Iterator for OwnedBatchIter {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match BatchHeader::parse(&self.rest) {
            Ok(header) => Ok((header, self.rest.split_to(header.size()))),
            Err(error) => {
                self.rest.clear();
                Err(error)
            }
        })
    }
}
