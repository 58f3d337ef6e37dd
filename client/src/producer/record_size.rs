//! Size limits of records: the share of the buffer before compression, and the size of a request
//! after it. Checked by every `send`, so that a record that can never be sent is rejected at once.

use super::{
    builder::ProducerConfig,
    encode::{BatchEncoder, ProducerIdentity},
    record::RecordRef,
};
use crate::{
    config::MAX_MESSAGE_SIZE,
    error::{Error, Result},
};

/// Maximum overhead of a record beyond key, value and headers, and of a header beyond its name and
/// value.
const RECORD_OVERHEAD: usize = 36;
const HEADER_OVERHEAD: usize = 10;
/// Overhead of a request: batch header, topic name and framing.
const REQUEST_OVERHEAD: usize = 1024;
/// Maximum uncompressed size, however well a record compresses, because consumers must hold it.
const MAX_UNCOMPRESSED_BYTES: usize = MAX_MESSAGE_SIZE;

/// Returns the maximum size of a record before compression.
///
/// # Errors
/// [`Error::RecordTooLarge`] if it can fit neither into the buffer nor into a request.
pub(super) fn record_size(record: &RecordRef<'_>, config: &ProducerConfig) -> Result<usize> {
    let bytes = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|(name, value)| name.len() + bytes(*value) + HEADER_OVERHEAD)
        .sum();
    let size = RECORD_OVERHEAD + bytes(record.key) + bytes(record.value) + headers;
    if size > config.max_request_size - REQUEST_OVERHEAD || size > config.buffer_memory {
        check_compressed_size(record, size, config)?;
    }
    Ok(size)
}

/// Checks whether a record larger than a request fits into one after compression. It will be alone
/// in its batch, so compressing it alone is exact.
#[cold]
fn check_compressed_size(record: &RecordRef<'_>, size: usize, config: &ProducerConfig) -> Result<()> {
    let limit = config.buffer_memory.min(MAX_UNCOMPRESSED_BYTES);
    if size > limit {
        return Err(Error::RecordTooLarge { size, limit });
    }
    let mut alone = BatchEncoder::new(config.compression);
    let sealed = alone
        .append(record.timestamp.unwrap_or(0), record)
        .map_err(|error| streamhouse_core::Error::new(error.code(), error.to_string()))
        .and_then(|_| alone.seal(ProducerIdentity::NONE, -1))?;
    let limit = config.max_request_size - REQUEST_OVERHEAD;
    if sealed.len() > limit {
        return Err(Error::RecordTooLarge {
            size: sealed.len(),
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use streamhouse_core::batch::Compression;

    use super::*;

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..size).map(next).collect()
    }

    #[test]
    fn a_record_is_judged_as_it_is_sent() {
        let config = ProducerConfig::default();
        let ten = 10 << 20;
        assert!(record_size(&RecordRef::new(&vec![7; ten]), &config).unwrap() > ten);
        let refused = record_size(&RecordRef::new(&noise(ten)), &config).unwrap_err();
        assert!(
            matches!(refused, Error::RecordTooLarge { size, limit } if size > limit && limit < 8 << 20),
            "{refused}"
        );
        let plain = ProducerConfig {
            compression: Compression::None,
            ..config
        };
        assert!(record_size(&RecordRef::new(&vec![7; ten]), &plain).is_err());
    }

    #[test]
    fn a_record_has_to_fit_into_the_buffer_before_compression() {
        let config = ProducerConfig {
            buffer_memory: 2 << 20,
            ..ProducerConfig::default()
        };
        let refused = record_size(&RecordRef::new(&vec![7; 3 << 20]), &config).unwrap_err();
        assert!(matches!(refused, Error::RecordTooLarge { limit, .. } if limit == 2 << 20));
    }
}
