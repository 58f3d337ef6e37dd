//! [`Encoder`]: the record batch codec, as the producer uses it.

use bytes::{Bytes, BytesMut};
use streamhouse_core::{
    Error as CoreError,
    batch::{BatchBuilder, BatchError, Compression, renumber},
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

    /// Its size so far, not compressed.
    pub(super) fn size(&self) -> usize {
        self.0.size_bytes()
    }

    pub(super) fn records(&self) -> u32 {
        self.0.len().unsigned_abs()
    }

    /// Compresses and closes the batch; the encoder is empty again.
    pub(super) fn seal(&mut self, identity: Identity, sequence: i32) -> Result<Bytes, CoreError> {
        self.0.set_producer(identity.id, identity.epoch, sequence);
        self.0
            .finish()
            .map_err(|error| CoreError::new(error.code(), error.to_string()))
    }

    /// Forgets its records.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The batch under another identity and sequence.
pub(super) fn restamp(batch: &Bytes, identity: Identity, sequence: i32) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    // It was sealed by an encoder, so it parses; were it damaged, the agent would refuse it by its CRC.
    let _ = renumber(&mut bytes, identity.id, identity.epoch, sequence);
    bytes.freeze()
}
