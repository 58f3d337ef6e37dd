//! The fixed parts of a segment, header and footer, byte by byte; and the errors of the format.

use std::ops::Range;

use streamhouse_core::PartitionUid;
use uuid::Uuid;

/// The first bytes of every segment.
const HEADER_MAGIC: &[u8; 8] = b"SHSEGMT\x01";
/// The last bytes of every segment.
const FOOTER_MAGIC: &[u8; 8] = b"\x01TMGESHS";
/// The format version that this build reads and writes.
const VERSION: u16 = 1;
/// Length of the header without the cluster id and the CRC.
const HEADER_FIXED_LEN: usize = 8 + 2 + 2 + 16 + 4 + 8 + 4 + 8;
/// Maximum length of a cluster id in bytes.
const MAX_CLUSTER_ID_LEN: usize = 1024;
/// Length of an entry of the index.
pub(super) const ENTRY_LEN: usize = 8 + 8 + 8 + 4 + 4;
/// Length of the footer.
pub(super) const FOOTER_LEN: usize = 8 + 8 + 4 + 4 + 8 + 8 + 8 + 8 + 4 + 4 + 2 + 2 + 4 + 8;

/// An error in a segment, or in an attempt to write one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The object is too short.
    #[error("the segment is cut off: {0}")]
    Truncated(&'static str),
    /// The object is not a segment, or its magic is damaged.
    #[error("the {0} has the wrong magic")]
    Magic(&'static str),
    /// The segment was written by a newer build, or is damaged.
    #[error("the segment has format version {0}, this build reads {VERSION}; upgrade the agent")]
    Version(u16),
    /// A checksum does not match.
    #[error("the {part} is damaged: its CRC32C is {found:08x} instead of {expected:08x}")]
    Crc {
        /// Header, index, footer or block.
        part: String,
        /// The stored checksum.
        expected: u32,
        /// The computed checksum.
        found: u32,
    },
    /// A part contradicts itself or another one.
    #[error("the segment contradicts itself: {0}")]
    Inconsistent(String),
    /// An intact segment of something else.
    #[error("the segment belongs to another {0}")]
    Identity(String),
    /// A batch is malformed or damaged.
    #[error("the batch at byte {position} is damaged: {problem}")]
    Batch {
        /// Its position in the object.
        position: u64,
        /// The error of the batch codec.
        problem: String,
    },
    /// A batch that does not follow the previous one.
    #[error("the batch begins at offset {found}, expected {expected}")]
    Gap {
        /// The expected offset.
        expected: i64,
        /// The first offset of the batch.
        found: i64,
    },
    /// No batch was appended.
    #[error("a segment needs at least one batch")]
    Empty,
    /// The index is longer than the suffix that was read: read at least `needed` bytes.
    #[error("the index and footer have {needed} bytes; read at least that many")]
    SuffixTooShort {
        /// The size of index and footer.
        needed: u64,
    },
}

/// Identifies the segment: the log it belongs to, its writer and its first offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIdentity {
    /// The cluster's id.
    pub cluster_id: String,
    /// The topic's id; a topic that is deleted and created again has another one.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
    /// The partition's unique id, which is never reused.
    pub partition_uid: PartitionUid,
    /// The epoch of the writer.
    pub epoch: i32,
    /// The first offset.
    pub base_offset: i64,
}

/// What the metadata store records of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The first offset.
    pub base_offset: i64,
    /// The offset after the last.
    pub end_offset: i64,
    /// The greatest timestamp of a record.
    pub max_timestamp: i64,
    /// The size of the object.
    pub size_bytes: u64,
}

/// Computes the CRC32C of `bytes`, the only checksum of this format.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    // Only the low 32 bits are ever set for a 32-bit CRC.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

pub(super) fn check_crc(part: impl Into<String>, bytes: &[u8], expected: u32) -> Result<(), SegmentError> {
    let found = crc32c(bytes);
    if found == expected {
        Ok(())
    } else {
        Err(SegmentError::Crc {
            part: part.into(),
            expected,
            found,
        })
    }
}

/// Reads big-endian fields from the front of a slice.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], SegmentError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(SegmentError::Truncated("a field is missing"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(SegmentError::Truncated("a field is missing"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u64(&mut self) -> Result<u64, SegmentError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, SegmentError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, SegmentError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, SegmentError> {
        self.array().map(i32::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, SegmentError> {
        self.array().map(u16::from_be_bytes)
    }
}

/// Writes the header.
pub(super) fn write_header(identity: &SegmentIdentity, out: &mut Vec<u8>) -> Result<(), SegmentError> {
    let cluster_id = identity.cluster_id.as_bytes();
    if cluster_id.len() > MAX_CLUSTER_ID_LEN {
        return Err(SegmentError::Inconsistent(format!(
            "a cluster id has at most {MAX_CLUSTER_ID_LEN} bytes"
        )));
    }
    let start = out.len();
    out.extend_from_slice(HEADER_MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&u16::try_from(cluster_id.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(identity.topic_id.as_bytes());
    out.extend_from_slice(&identity.partition.to_be_bytes());
    out.extend_from_slice(&identity.partition_uid.0.to_be_bytes());
    out.extend_from_slice(&identity.epoch.to_be_bytes());
    out.extend_from_slice(&identity.base_offset.to_be_bytes());
    out.extend_from_slice(cluster_id);
    let crc = crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Parses the header at the front of `bytes`; returns the identity and the header's length.
///
/// # Errors
/// A [`SegmentError`] if the header is truncated, damaged or of another version.
pub fn parse_header(bytes: &[u8]) -> Result<(SegmentIdentity, usize), SegmentError> {
    let mut fields = FieldReader(bytes);
    if bytes.len() < HEADER_FIXED_LEN {
        return Err(SegmentError::Truncated("it is shorter than a header"));
    }
    if &fields.array::<8>()? != HEADER_MAGIC {
        return Err(SegmentError::Magic("header"));
    }
    let version = fields.u16()?;
    let id_length = usize::from(fields.u16()?);
    let length = HEADER_FIXED_LEN + id_length + 4;
    let Some((covered, crc)) = bytes.get(..length).and_then(<[u8]>::split_last_chunk::<4>) else {
        return Err(SegmentError::Truncated("it is shorter than its header"));
    };
    check_crc("header", covered, u32::from_be_bytes(*crc))?;
    if version != VERSION {
        return Err(SegmentError::Version(version));
    }
    let topic_id = Uuid::from_bytes(fields.array()?);
    let (partition, partition_uid) = (fields.i32()?, PartitionUid(fields.i64()?));
    let (epoch, base_offset) = (fields.i32()?, fields.i64()?);
    let cluster_id = String::from_utf8(fields.take(id_length)?.to_vec())
        .map_err(|_| SegmentError::Inconsistent("the cluster id is not UTF-8".to_owned()))?;
    Ok((
        SegmentIdentity {
            cluster_id,
            topic_id,
            partition,
            partition_uid,
            epoch,
            base_offset,
        },
        length,
    ))
}

/// The footer of a segment: the positions of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Where the first block begins.
    pub data_position: u64,
    /// Where the index begins.
    pub index_position: u64,
    /// Number of blocks, and of entries in the index.
    pub blocks: u32,
    /// Number of batches.
    pub batches: u32,
    /// Number of records.
    pub records: u64,
    /// The first offset.
    pub base_offset: i64,
    /// The offset after the last.
    pub end_offset: i64,
    /// The greatest timestamp.
    pub max_timestamp: i64,
    /// The header's CRC32C, CRC field included.
    pub header_crc: u32,
    /// The index's CRC32C.
    pub index_crc: u32,
}

impl SegmentFooter {
    /// Returns the byte range of the blocks.
    pub fn data_range(&self) -> Range<u64> {
        self.data_position..self.index_position
    }

    /// Returns the length of the index in bytes.
    pub fn index_len(&self) -> u64 {
        u64::from(self.blocks) * ENTRY_LEN as u64
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.data_position.to_be_bytes());
        out.extend_from_slice(&self.index_position.to_be_bytes());
        out.extend_from_slice(&self.blocks.to_be_bytes());
        out.extend_from_slice(&self.batches.to_be_bytes());
        out.extend_from_slice(&self.records.to_be_bytes());
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&self.end_offset.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.header_crc.to_be_bytes());
        out.extend_from_slice(&self.index_crc.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&0_u16.to_be_bytes());
        let crc = crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(FOOTER_MAGIC);
    }

    /// Parses the footer at the end of `suffix`, the last bytes of an object of `size` bytes.
    ///
    /// # Errors
    /// A [`SegmentError`] if the footer is truncated, damaged, of another version, or inconsistent
    /// with `size`.
    pub fn parse(suffix: &[u8], size: u64) -> Result<Self, SegmentError> {
        let Some((_, footer)) = suffix.split_last_chunk::<FOOTER_LEN>() else {
            return Err(SegmentError::Truncated("it is shorter than a footer"));
        };
        let (covered, end) = footer.split_at(FOOTER_LEN - 12);
        let mut end = FieldReader(end);
        let crc = end.u32()?;
        if &end.array::<8>()? != FOOTER_MAGIC {
            return Err(SegmentError::Magic("footer"));
        }
        check_crc("footer", covered, crc)?;
        let mut fields = FieldReader(covered);
        let footer = Self {
            data_position: fields.u64()?,
            index_position: fields.u64()?,
            blocks: fields.u32()?,
            batches: fields.u32()?,
            records: fields.u64()?,
            base_offset: fields.i64()?,
            end_offset: fields.i64()?,
            max_timestamp: fields.i64()?,
            header_crc: fields.u32()?,
            index_crc: fields.u32()?,
        };
        let version = fields.u16()?;
        if version != VERSION {
            return Err(SegmentError::Version(version));
        }
        footer.check(size)?;
        Ok(footer)
    }

    fn check(&self, size: u64) -> Result<(), SegmentError> {
        let end = self
            .index_position
            .checked_add(self.index_len())
            .and_then(|end| end.checked_add(FOOTER_LEN as u64));
        if end != Some(size) {
            return Err(SegmentError::Inconsistent(format!(
                "the footer does not match an object of {size} bytes"
            )));
        }
        if self.blocks == 0
            || self.data_position >= self.index_position
            || self.base_offset >= self.end_offset
        {
            return Err(SegmentError::Inconsistent(
                "the footer describes no batches".to_owned(),
            ));
        }
        Ok(())
    }
}
