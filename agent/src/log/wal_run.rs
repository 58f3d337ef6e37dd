//! A run of batches as it was read from a WAL object.

use bytes::{Bytes, BytesMut};
use streamhouse_core::batch::{self, BatchError};
use streamhouse_metadata::LogSpan;

use crate::partition::batch_selection::select_batches;

/// The verified batches of a WAL range, as they were stored: not stamped.
#[derive(Debug)]
pub struct WalRun {
    base_offset: i64,
    epoch: i32,
    bytes: Bytes,
}

impl WalRun {
    pub(super) fn new(span: &LogSpan, bytes: Bytes) -> Self {
        Self {
            base_offset: span.base_offset,
            epoch: span.epoch,
            bytes,
        }
    }

    /// Returns all batches, stamped.
    ///
    /// # Errors
    /// If a batch header cannot be parsed.
    pub fn stamped(&self) -> Result<Bytes, BatchError> {
        let mut out = BytesMut::with_capacity(self.bytes.len());
        self.append_stamped(self.base_offset, usize::MAX, &mut out)?;
        Ok(out.freeze())
    }

    /// Copies whole batches to `out`, stamped, beginning with the one that holds `from`, while
    /// `out` stays within `max_bytes`; the first batch whatever its size. Returns the offset after
    /// the last of them, and whether the run was copied to its end.
    ///
    /// # Errors
    /// If a batch header cannot be parsed.
    pub(super) fn append_stamped(
        &self,
        from: i64,
        max_bytes: usize,
        out: &mut BytesMut,
    ) -> Result<(i64, bool), BatchError> {
        let start = out.len();
        let selected = select_batches(&self.bytes, self.base_offset, from, max_bytes, start)?;
        out.extend_from_slice(&self.bytes[selected.bytes]);
        batch::stamp_all(&mut out[start..], selected.base_offset, self.epoch)?;
        Ok((selected.next_offset, selected.whole))
    }
}
