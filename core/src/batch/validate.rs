//! Validates a batch as a producer sends it: what the header says, and with `structure` that the
//! records agree with it. Called by agents for each batch before it is stored.

use super::{
    BatchError,
    header::{BatchHeader, HEADER_LEN, compute_crc},
    structure,
};

/// The attribute bits that may be set: codec, timestamp type, transactional, control.
const KNOWN_ATTRIBUTES: i16 = 0x3f;

/// Limits that [`validate`] enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The largest batch, header included, in bytes.
    pub max_batch_bytes: usize,
}

/// Validates one whole batch as a producer sends it: size, magic, CRC, counts, sequence fields,
/// codec, attributes, timestamps, and that the records are consistent with the header. Never
/// decompresses.
///
/// # Errors
///
/// Fails with the first violation found; [`BatchError::code`] is the code for the producer.
pub fn validate(batch: &[u8], limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    if header.size() != batch.len() {
        return Err(BatchError::Invalid(format!(
            "{} bytes follow the batch",
            batch.len() - header.size()
        )));
    }
    if header.size() > limits.max_batch_bytes {
        return Err(BatchError::TooLarge {
            size: header.size(),
            limit: limits.max_batch_bytes,
        });
    }
    header.compression()?;
    let computed = compute_crc(batch);
    if header.crc != computed {
        return Err(BatchError::WrongCrc {
            stored: header.crc,
            computed,
        });
    }
    if header.record_count < 1 || i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        let (count, delta) = (header.record_count, header.last_offset_delta);
        return Err(BatchError::Invalid(format!(
            "record count {count} does not fit the last offset delta {delta}"
        )));
    }
    // Without a producer, epoch and sequence mean nothing, and some clients set them.
    let fields_fit = match header.producer_id {
        -1 => true,
        id => id >= 0 && header.producer_epoch >= 0 && header.base_sequence >= 0,
    };
    if !fields_fit {
        return Err(BatchError::Invalid(
            "producer id, producer epoch and base sequence contradict each other".to_owned(),
        ));
    }
    if header.attributes & !KNOWN_ATTRIBUTES != 0 {
        let attributes = header.attributes;
        return Err(BatchError::Invalid(format!(
            "the attributes {attributes:#06x} have a bit that producers do not set"
        )));
    }
    // Some clients leave the greatest timestamp out.
    if header.max_timestamp < header.base_timestamp && header.max_timestamp != -1 {
        let (max, base) = (header.max_timestamp, header.base_timestamp);
        return Err(BatchError::Invalid(format!(
            "the greatest timestamp {max} is less than the first one, {base}"
        )));
    }
    structure::check(&header, &batch[HEADER_LEN..])?;
    Ok(header)
}
