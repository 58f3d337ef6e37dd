//! The memory of answers: taken before anything is read, given back with the last byte that leaves.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};

use crate::node::Node;

/// How often an answer is in memory: as it was read, and as it is encoded for its reader.
pub(super) const COPIES: usize = 2;
/// Into so many parts the budget goes when not everybody can have what they ask for; fewer where the largest batch would not
/// fit into one.
const SHARES: usize = 16;
/// How long a fetch may wait for memory before it is sent back.
const ADMISSION_WAIT: Duration = Duration::from_secs(1);
/// What a reader is asked to wait when memory is full.
const RETRY_AFTER_MS: u32 = 100;

/// The memory of an answer, given back when it is dropped: with the last byte that leaves.
pub type Memory = Arc<OwnedSemaphorePermit>;

/// What a fetch wants of the budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Bytes that the reader asks for.
    pub(super) asked: usize,
    /// Permits without which it cannot go on, as it is known from a try.
    pub(super) least: usize,
}

/// Takes memory for the answer that is asked for, or, while others read much, for a smaller one: waits a moment for a share of
/// the budget, and sends the request back when there is none.
pub(super) async fn admit(node: &Node, wanted: Wanted) -> Result<OwnedSemaphorePermit, Error> {
    let budget = &node.memory.fetch;
    let all = wanted.asked.saturating_mul(COPIES).max(wanted.least);
    if let Ok(permit) = budget.try_take(all) {
        return Ok(permit);
    }
    let batch = node.settings.max_request_bytes.as_usize().saturating_mul(COPIES);
    let share = (budget.capacity() / SHARES).max(batch.min(budget.capacity() / 4));
    wait(node, all.min(share).max(wanted.least)).await
}

/// Keeps of `memory` what an answer of so many bytes occupies, and gives the rest back. One batch may be larger than what was
/// asked for, and is answered whole: then the error tells how much is needed.
pub(super) fn keep(memory: Option<OwnedSemaphorePermit>, bytes: usize) -> Result<Option<Memory>, usize> {
    let needed = bytes.saturating_mul(COPIES);
    let Some(mut memory) = memory else {
        return Ok(None);
    };
    if needed > memory.num_permits() {
        return Err(needed);
    }
    Ok(memory.split(needed).map(Arc::new))
}

/// Waits a moment for so many permits, or for all there are.
pub(super) async fn wait(node: &Node, permits: usize) -> Result<OwnedSemaphorePermit, Error> {
    match timeout(ADMISSION_WAIT, node.memory.fetch.take(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(full()),
    }
}

/// What a reader is told when there is no memory.
pub(super) fn full() -> Error {
    let error = Error::new(
        ErrorCode::ResourceExhausted,
        "the agent's memory for readers is full; slow down",
    );
    error.with_retry_after_ms(RETRY_AFTER_MS)
}
