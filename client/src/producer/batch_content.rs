//! [`BatchContent`]: the records of a sealed batch and all that moves with them, from sealing
//! through splits and retries to the outcome.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use tokio::time::Instant;

use super::{delivery::BatchTicket, partition_buffer::PinnedRecords};

/// The sealed records of a batch.
#[derive(Debug, Clone)]
pub(super) struct BatchContent {
    pub(super) bytes: Bytes,
    pub(super) records: u32,
    pub(super) ticket: Arc<BatchTicket>,
    /// When its oldest record was accepted.
    pub(super) opened: Instant,
    /// Bytes of the buffer that its records have reserved.
    pub(super) reserved: usize,
    /// Spans of its records, up to the number of links a span may have.
    pub(super) traced: Box<[SpanContext]>,
    /// The records whose partition was set explicitly.
    pub(super) pinned: PinnedRecords,
}
