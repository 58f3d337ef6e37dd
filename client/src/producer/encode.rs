//! [`Encoder`]: the record batch codec, as the producer uses it.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error as CoreError,
    batch::{BatchBuilder, BatchError, Compression, Record as BatchRecord, Records, renumber},
};

use super::record::RecordRef;

/// Who wrote a batch, for the cluster to recognise a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

impl Identity {
    /// Of a producer that is not idempotent.
    pub(super) const NONE: Self = Self { id: -1, epoch: -1 };
}

/// A batch under construction.
#[derive(Debug)]
pub(super) struct Encoder(BatchBuilder);

impl Encoder {
    pub(super) fn new(compression: Compression) -> Self {
        Self(BatchBuilder::new(compression))
    }

    /// Appends a record; returns its place in the batch.
    pub(super) fn append(&mut self, timestamp: i64, record: &RecordRef<'_>) -> Result<u32, BatchError> {
        let index = self
            .0
            .append(timestamp, record.key, record.value, record.headers)?;
        Ok(index.unsigned_abs())
    }

    /// [`Encoder::append`] of a record that was in another batch.
    pub(super) fn append_again(&mut self, record: &BatchRecord) -> Result<u32, BatchError> {
        let headers: Vec<_> = record.headers.iter().collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = self.0.append(record.timestamp, key, value, &headers)?;
        Ok(index.unsigned_abs())
    }

    /// Its size so far, not compressed.
    pub(super) fn size(&self) -> usize {
        self.0.size_bytes()
    }

    pub(super) fn records(&self) -> u32 {
        self.0.len().unsigned_abs()
    }

    /// Compresses and closes the batch; the encoder is empty again. The result is never larger than [`Encoder::size`].
    pub(super) fn seal(&mut self, identity: Identity, sequence: i32) -> Result<Bytes, CoreError> {
        self.0.set_producer(identity.id, identity.epoch, sequence);
        self.0.finish_smallest().map_err(core_error)
    }

    /// Forgets its records.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn core_error(error: BatchError) -> CoreError {
    CoreError::new(error.code(), error.to_string())
}

/// The records of a sealed batch.
pub(super) fn records_of(batch: &Bytes) -> Result<Vec<BatchRecord>, CoreError> {
    // What an encoder took is no bomb.
    let records = Records::decode(batch.clone(), i32::MAX as usize).map_err(core_error)?;
    records.collect::<Result<_, _>>().map_err(core_error)
}

/// A sealed batch as two, each with half of the records, under no identity; and how many records these are.
pub(super) fn halves(batch: &Bytes, compression: Compression) -> Result<[(Bytes, u32); 2], CoreError> {
    let records = records_of(batch)?;
    let (first, second) = records.split_at(records.len() / 2);
    let seal = |half: &[BatchRecord]| {
        let mut encoder = Encoder::new(compression);
        for record in half {
            encoder.append_again(record).map_err(core_error)?;
        }
        let count = encoder.records();
        Ok::<_, CoreError>((encoder.seal(Identity::NONE, -1)?, count))
    };
    Ok([seal(first)?, seal(second)?])
}

/// The batch under another identity and sequence.
pub(super) fn restamp(batch: &Bytes, identity: Identity, sequence: i32) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    // It was sealed by an encoder, so it parses; were it damaged, the agent would refuse it by its CRC.
    let _ = renumber(&mut bytes, identity.id, identity.epoch, sequence);
    bytes.freeze()
}
