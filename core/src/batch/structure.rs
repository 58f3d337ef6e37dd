//! Whether what is inside a batch can be what its head says, as far as that is to be seen without decompressing. Called by
//! [`validate`](super::validate) after the CRC, which only says that the bytes are those that the producer sent.
//!
//! - Records as they are: their lengths lead from one to the next and to the end, their offsets count from 0 on. What else
//!   is in a record would take twice the time to read.
//! - Compressed records: the codec's frame is there and whole, and it can unpack to as many records as the head claims.

use super::{BatchError, BatchHeader, Compression, compression, lz4, varint, view};

/// The fewest bytes of a record: its length, attributes, two deltas, the lengths of key and value, the count of headers.
const LEAST_RECORD: usize = 7;
/// What one byte of gzip unpacks to at most: 258 bytes take at least two bits.
const GZIP_MAX_RATIO: usize = 1032;
/// The head and the end of a gzip stream.
const GZIP_FRAME: usize = 18;
/// The most that a block of zstd unpacks to, and the fewest bytes that it takes.
const ZSTD_BLOCK: (usize, usize) = (128 << 10, 4);
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frames that decoders skip begin with one of sixteen numbers.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Checks `records`, the bytes behind the head.
pub(super) fn check(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let count = usize::try_from(header.record_count).unwrap_or(0);
    let most = match header.compression()? {
        Compression::None => records.len(),
        Compression::Gzip => gzip(records)?,
        Compression::Snappy => compression::snappy_bound(records)?,
        Compression::Lz4 => lz4::bound(records)?,
        Compression::Zstd => zstd(records)?,
    };
    if count.saturating_mul(LEAST_RECORD) > most {
        return Err(BatchError::Invalid(format!(
            "{count} records cannot be in {} bytes",
            records.len()
        )));
    }
    if header.compression()? == Compression::None {
        walk(header, records)?;
    }
    Ok(())
}

/// Goes from record to record.
fn walk(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let mut position = 0;
    for delta in 0..i64::from(header.record_count) {
        let mut at = position;
        position = view::end_of_record(records, &mut at).ok_or_else(|| invalid("a record is cut short"))?;
        let record = &records[at..position];
        let mut at = 1; // behind the attributes
        varint::get(record, &mut at)?; // the delta of time
        if varint::get(record, &mut at)? != delta {
            return Err(invalid("the offsets of a batch's records do not count from 0 on"));
        }
    }
    if position != records.len() {
        return Err(invalid("bytes follow the last record"));
    }
    Ok(())
}

fn gzip(records: &[u8]) -> Result<usize, BatchError> {
    if !records.starts_with(&[0x1f, 0x8b, 8]) || records.len() <= GZIP_FRAME {
        return Err(invalid("this is no gzip stream"));
    }
    Ok((records.len() - GZIP_FRAME).saturating_mul(GZIP_MAX_RATIO))
}

fn zstd(records: &[u8]) -> Result<usize, BatchError> {
    let skippable = records.first().is_some_and(|byte| byte & 0xf0 == 0x50)
        && records
            .get(1..)
            .is_some_and(|rest| rest.starts_with(&ZSTD_SKIPPABLE));
    if !records.starts_with(&ZSTD_MAGIC) && !skippable {
        return Err(invalid("this is no zstd frame"));
    }
    let (unpacked, packed) = ZSTD_BLOCK;
    Ok((records.len() / packed).saturating_mul(unpacked))
}

fn invalid(message: &str) -> BatchError {
    BatchError::Invalid(message.to_owned())
}
