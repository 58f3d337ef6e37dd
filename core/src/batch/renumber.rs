//! Assigns another producer id, epoch and sequence to a batch that is certain not to have been
//! stored.

use super::{BatchError, BatchHeader, header};

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

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, Compression, verify_crc};
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
}
