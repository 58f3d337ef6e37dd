//! Bounds the memory of fetch responses: acquired before anything is read, released when the last
//! byte has left.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};

use super::FetchDeps;
use crate::memory::ByteBudget;

/// Copies of a response in memory: as read, and as encoded for the client.
pub(super) const RESPONSE_COPIES: usize = 2;
/// Number of shares into which the budget is divided under contention; fewer if the largest batch
/// would not fit into one.
const BUDGET_SHARES: usize = 16;
/// How long a fetch may wait for memory before it is refused.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(1);
/// Retry delay for consumers when memory is full.
const RETRY_AFTER_MS: u32 = 100;

/// Memory of a response, released when dropped: with the last byte that leaves.
pub type ResponseMemory = Arc<OwnedSemaphorePermit>;

/// Memory that a fetch requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryRequest {
    /// Bytes that the consumer requests.
    pub(super) max_bytes: usize,
    /// Permits that are at least needed, as learned from a previous attempt.
    pub(super) min_permits: usize,
}

/// Acquires memory for the requested response or, under contention, for a smaller one: waits for a
/// share of the budget, and refuses the request if none becomes free.
pub(super) async fn admit_response(
    deps: &FetchDeps,
    wanted: MemoryRequest,
) -> Result<OwnedSemaphorePermit, Error> {
    let budget = &deps.memory;
    let all = wanted
        .max_bytes
        .saturating_mul(RESPONSE_COPIES)
        .max(wanted.min_permits);
    if let Ok(permit) = budget.try_acquire(all) {
        return Ok(permit);
    }
    let batch = deps.limits.max_batch_bytes.saturating_mul(RESPONSE_COPIES);
    let share = (budget.capacity() / BUDGET_SHARES).max(batch.min(budget.capacity() / 4));
    wait_for_permits(budget, all.min(share).max(wanted.min_permits)).await
}

/// Keeps the part of `memory` that a response of this size occupies, and releases the rest. A
/// single batch may be larger than requested and is returned whole: if it does not fit, the error
/// is the number of permits needed.
pub(super) fn shrink_to_response(
    memory: Option<OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<Option<ResponseMemory>, usize> {
    let needed = bytes.saturating_mul(RESPONSE_COPIES);
    let Some(mut memory) = memory else {
        return Ok(None);
    };
    if needed > memory.num_permits() {
        return Err(needed);
    }
    Ok(memory.split(needed).map(Arc::new))
}

/// Waits for this many permits, or for all if there are fewer.
pub(super) async fn wait_for_permits(
    budget: &ByteBudget,
    permits: usize,
) -> Result<OwnedSemaphorePermit, Error> {
    match timeout(ADMISSION_TIMEOUT, budget.acquire(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(memory_full_error()),
    }
}

/// Returns the error for consumers when there is no memory.
pub(super) fn memory_full_error() -> Error {
    let error = Error::new(
        ErrorCode::ResourceExhausted,
        "the agent's memory for readers is full; slow down",
    );
    error.with_retry_after_ms(RETRY_AFTER_MS)
}
