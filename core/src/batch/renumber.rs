//! Changes the header of a batch that is certain not to have been stored: another producer id,
//! epoch and sequence, or the time of the append.

use super::{BatchError, BatchHeader, header};

/// The bit of the attributes, in their second byte, that marks log append times.
const LOG_APPEND_TIME: u8 = 8;

/// Rewrites the producer fields and the CRC of one whole batch.
///
/// # Errors
///
/// Fails if the header cannot be parsed.
pub fn renumber(
    batch: &mut [u8],
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
) -> Result<(), BatchError> {
    let size = BatchHeader::parse(batch)?.size();
    let batch = &mut batch[..size];
    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    let crc = header::compute_crc(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

/// Gives all records of one whole batch the time `now_ms`: its timestamps become log append times.
///
/// # Errors
///
/// Fails if the header cannot be parsed.
pub fn stamp_append_time(batch: &mut [u8], now_ms: i64) -> Result<(), BatchError> {
    let size = BatchHeader::parse(batch)?.size();
    let batch = &mut batch[..size];
    batch[22] |= LOG_APPEND_TIME;
    batch[35..43].copy_from_slice(&now_ms.to_be_bytes());
    let crc = header::compute_crc(batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, Compression, DecodedRecords, TimestampType, verify_crc};
    use super::*;

    #[test]
    fn a_renumbered_batch_is_whole() {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        builder.set_producer(1, 2, 3);
        builder.append::<&[u8], &[u8]>(0, None, Some(b"v"), &[]).unwrap();
        let mut batch = builder.finish().unwrap().to_vec();
        renumber(&mut batch, 40, 0, 50).unwrap();
        verify_crc(&batch).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.base_sequence),
            (40, 0, 50)
        );
    }

    #[test]
    fn records_have_the_time_of_the_append() {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        for time in [5, 9000] {
            builder
                .append::<&[u8], &[u8]>(time, None, Some(b"v"), &[])
                .unwrap();
        }
        let mut batch = builder.finish().unwrap().to_vec();
        stamp_append_time(&mut batch, 700).unwrap();
        verify_crc(&batch).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        let records = DecodedRecords::decode(batch.into(), 1 << 20).unwrap();
        assert!(records.into_iter().all(|record| record.unwrap().timestamp == 700));
    }
}
