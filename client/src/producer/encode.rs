//! [`BatchEncoder`]: the producer's use of the record batch codec.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error as ClusterError,
    batch::{BatchBuilder, BatchError, Compression, DecodedRecords, Record as BatchRecord, renumber},
};

use super::record::RecordRef;

/// Producer id and epoch of a batch, by which the cluster recognizes retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProducerIdentity {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

impl ProducerIdentity {
    /// Identity of a producer that is not idempotent.
    pub(super) const NONE: Self = Self { id: -1, epoch: -1 };
}

/// A batch under construction.
#[derive(Debug)]
pub(super) struct BatchEncoder(BatchBuilder);

impl BatchEncoder {
    pub(super) fn new(compression: Compression) -> Self {
        Self(BatchBuilder::new(compression))
    }

    /// Appends a record. Returns its index in the batch.
    pub(super) fn append(&mut self, timestamp: i64, record: &RecordRef<'_>) -> Result<u32, BatchError> {
        let index = self
            .0
            .append(timestamp, record.key, record.value, record.headers)?;
        Ok(index.unsigned_abs())
    }

    /// Like [`BatchEncoder::append`], for a record of another batch.
    pub(super) fn append_decoded(&mut self, record: &BatchRecord) -> Result<u32, BatchError> {
        let headers: Vec<_> = record.headers.iter().collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = self.0.append(record.timestamp, key, value, &headers)?;
        Ok(index.unsigned_abs())
    }

    /// Returns the size of the batch so far, uncompressed.
    pub(super) fn size(&self) -> usize {
        self.0.size_bytes()
    }

    pub(super) fn records(&self) -> u32 {
        self.0.len().unsigned_abs()
    }

    /// Compresses and closes the batch, and empties the encoder. The result is never larger than
    /// [`BatchEncoder::size`].
    pub(super) fn seal(&mut self, identity: ProducerIdentity, sequence: i32) -> Result<Bytes, ClusterError> {
        self.0.set_producer(identity.id, identity.epoch, sequence);
        self.0.finish_smallest().map_err(core_error)
    }

    /// Removes all records.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn core_error(error: BatchError) -> ClusterError {
    ClusterError::new(error.code(), error.to_string())
}

/// Decodes the records of a sealed batch.
pub(super) fn decode_records(batch: &Bytes) -> Result<Vec<BatchRecord>, ClusterError> {
    // No size limit is needed: the batch was encoded by this producer.
    let records = DecodedRecords::decode(batch.clone(), i32::MAX as usize).map_err(core_error)?;
    records.collect::<Result<_, _>>().map_err(core_error)
}

/// Splits a sealed batch into two, each with half of the records and without an identity. Returns
/// the number of records of each.
pub(super) fn split_in_half(
    batch: &Bytes,
    compression: Compression,
) -> Result<[(Bytes, u32); 2], ClusterError> {
    let records = decode_records(batch)?;
    let (first, second) = records.split_at(records.len() / 2);
    let seal = |half: &[BatchRecord]| {
        let mut encoder = BatchEncoder::new(compression);
        for record in half {
            encoder.append_decoded(record).map_err(core_error)?;
        }
        let count = encoder.records();
        Ok::<_, ClusterError>((encoder.seal(ProducerIdentity::NONE, -1)?, count))
    };
    Ok([seal(first)?, seal(second)?])
}

/// Returns the batch with another identity and sequence.
pub(super) fn restamp(batch: &Bytes, identity: ProducerIdentity, sequence: i32) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    // The batch was sealed by an encoder, so it parses; if it were damaged, the agent would reject
    // it by its CRC.
    let _ = renumber(&mut bytes, identity.id, identity.epoch, sequence);
    bytes.freeze()
}
