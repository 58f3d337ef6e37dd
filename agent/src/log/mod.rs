//! Reads the logs of partitions that are no longer in a tail, and compares the bounds in the
//! metadata store with what a leader knows. Called by fetch, by the segment roller, by retention
//! and by the topic calls.
//!
//! Cold reads have a budget of their own, so that consumers that catch up cannot slow producers
//! down.

mod bounds;
mod errors;
mod read;
mod wal_run;

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_core::Error;
use streamhouse_metadata::{LogBounds, MetadataStore};
use tokio::sync::Semaphore;

pub(crate) use self::errors::unreadable_error;
pub use self::wal_run::WalRun;
use crate::{memory::ByteBudget, metrics::AgentMetrics, session::CurrentSession, store::blocks::BlockCache};

/// Spans looked up at once.
pub const MAX_SPANS: usize = 256;

/// Reads logs from both stores.
#[derive(Debug, Clone)]
pub struct LogReader {
    /// Where the bounds of the logs and the places of their records are.
    pub metadata: Arc<dyn MetadataStore>,
    /// Cache of the blocks read from the object store.
    pub blocks: BlockCache,
    /// One permit for each cold read that may run concurrently.
    pub turns: Arc<Semaphore>,
    /// Budget of the bytes that cold reads concatenate.
    pub memory: ByteBudget,
    /// The session that ends if the metadata store went back in time.
    pub session: Arc<CurrentSession>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
}

/// The result of a cold read.
#[derive(Debug)]
pub struct ColdRead {
    /// Whole batches, stamped; empty at the end of the log and outside its bounds.
    pub records: Bytes,
    /// The offset after the last record; the requested offset if there are no records.
    pub next_offset: i64,
    /// Bounds of the log at the time of the read.
    pub bounds: LogBounds,
}

/// Reason why a span could not be read.
#[derive(Debug)]
pub enum SpanError {
    /// Its object does not exist: the span has moved, or the object is lost.
    Missing(Error),
    /// Any other failure.
    Failed(Error),
}

impl From<SpanError> for Error {
    fn from(error: SpanError) -> Self {
        match error {
            SpanError::Missing(error) | SpanError::Failed(error) => error,
        }
    }
}
