//! Checks that the records of a batch are consistent with its header, as far as possible without
//! decompressing. Called by [`validate`](super::validate) after the CRC, which only proves that the
//! bytes are those the producer sent.
//!
//! - Uncompressed records: each length leads to the next record and the last one to the end;
//!   offsets count from 0. The remaining fields are not read, which would take twice the time.
//! - Compressed records: the codec's frame is present and complete, and can hold as many records as
//!   the header claims.

use super::{BatchError, BatchHeader, Compression, compression, lz4, varint, view};

/// The smallest record: its length, attributes, two deltas, the lengths of key and value, and the
/// header count.
const MIN_RECORD_LEN: usize = 7;
/// Upper bound of gzip's compression ratio: 258 bytes take at least two bits.
const GZIP_MAX_RATIO: usize = 1032;
/// Bytes of the header and the trailer of a gzip stream.
const GZIP_FRAME_LEN: usize = 18;
/// The largest decompressed size of a Zstandard block, and its smallest compressed size.
const ZSTD_BLOCK: (usize, usize) = (128 << 10, 4);
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic numbers of skippable frames; the first byte is 0x50 to 0x5f.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Checks `records`, the bytes after the header.
pub(super) fn check(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let count = usize::try_from(header.record_count).unwrap_or(0);
    let most = match header.compression()? {
        Compression::None => records.len(),
        Compression::Gzip => max_gzip_size(records)?,
        Compression::Snappy => compression::max_snappy_size(records)?,
        Compression::Lz4 => lz4::max_decompressed_size(records)?,
        Compression::Zstd => max_zstd_size(records)?,
    };
    if count.saturating_mul(MIN_RECORD_LEN) > most {
        return Err(BatchError::Invalid(format!(
            "{count} records do not fit into {} bytes",
            records.len()
        )));
    }
    if header.compression()? == Compression::None {
        check_uncompressed_records(header, records)?;
    }
    Ok(())
}

/// Checks the lengths and offsets of uncompressed records.
fn check_uncompressed_records(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let mut position = 0;
    for delta in 0..i64::from(header.record_count) {
        let mut at = position;
        position = view::read_record_end(records, &mut at)
            .ok_or_else(|| BatchError::invalid("a record is cut short"))?;
        let record = &records[at..position];
        let mut at = 1; // after the attributes
        varint::get(record, &mut at)?; // the timestamp delta
        if varint::get(record, &mut at)? != delta {
            return Err(BatchError::invalid(
                "the offsets of a batch's records do not count from 0",
            ));
        }
    }
    if position != records.len() {
        return Err(BatchError::invalid("bytes follow the last record"));
    }
    Ok(())
}

fn max_gzip_size(records: &[u8]) -> Result<usize, BatchError> {
    if !records.starts_with(&[0x1f, 0x8b, 8]) || records.len() <= GZIP_FRAME_LEN {
        return Err(BatchError::invalid(
            "the compressed records are not a gzip stream",
        ));
    }
    Ok((records.len() - GZIP_FRAME_LEN).saturating_mul(GZIP_MAX_RATIO))
}

fn max_zstd_size(records: &[u8]) -> Result<usize, BatchError> {
    let skippable = records.first().is_some_and(|byte| byte & 0xf0 == 0x50)
        && records
            .get(1..)
            .is_some_and(|rest| rest.starts_with(&ZSTD_SKIPPABLE));
    if !records.starts_with(&ZSTD_MAGIC) && !skippable {
        return Err(BatchError::invalid("the compressed records are not a zstd frame"));
    }
    let (unpacked, packed) = ZSTD_BLOCK;
    Ok((records.len() / packed).saturating_mul(unpacked))
}
