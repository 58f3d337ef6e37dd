//! Memory of forwarded requests, from when they are taken up until they are answered. Records and
//! single calls have budgets of their own, so that no amount of records keeps a group's heartbeats
//! from the coordinator.

use streamhouse_core::{Error, ErrorCode};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};

use crate::memory::ByteBudget;

/// How long a request may wait for memory before it is refused.
const ADMISSION_TIMEOUT: Duration = Duration::from_millis(250);
/// Retry delay for clients when memory is full.
const RETRY_AFTER_MS: u32 = 100;
/// The largest small call. Every heartbeat is one, and most joins and commits are.
const SMALL_CALL_BYTES: usize = 4 << 10;

/// Memory of one forwarded request.
#[derive(Debug)]
pub(super) struct ForwardPermit {
    _share: Option<OwnedSemaphorePermit>,
    _memory: OwnedSemaphorePermit,
}

/// Admits requests to bounded memory.
#[derive(Debug)]
pub(super) struct ForwardAdmission {
    /// Budget of arriving requests.
    memory: ByteBudget,
    /// How much of it forwarded requests may take together.
    share: ByteBudget,
    /// Budget of small calls.
    small_calls: ByteBudget,
    /// Budget of the others, but for those that are larger than it.
    large_calls: ByteBudget,
}

impl ForwardAdmission {
    /// Admits records to half of `memory`, the budget of arriving requests, and calls to
    /// `call_memory` bytes.
    pub(super) fn new(memory: ByteBudget, call_memory: u64) -> Self {
        // The other half is for requests that arrive, which other agents may be waiting for.
        let share = ByteBudget::new(memory.capacity() as u64 / 2);
        let large_calls = call_memory / 4;
        Self {
            memory,
            share,
            small_calls: ByteBudget::new(call_memory - large_calls),
            large_calls: ByteBudget::new(large_calls),
        }
    }

    /// Waits a limited time for this many bytes, and refuses the request if they do not become
    /// free. A request that is larger than the share takes all of it.
    pub(super) async fn acquire(&self, bytes: usize) -> Result<ForwardPermit, Error> {
        let bytes = bytes.min(self.share.capacity());
        acquire(&self.memory, Some(&self.share), bytes).await
    }

    /// As [`acquire`](Self::acquire), for a single call. One that is larger than the budget of
    /// calls is admitted like records.
    pub(super) async fn acquire_call(&self, bytes: usize) -> Result<ForwardPermit, Error> {
        if bytes <= SMALL_CALL_BYTES {
            acquire(&self.small_calls, None, bytes).await
        } else if bytes <= self.large_calls.capacity() {
            acquire(&self.large_calls, None, bytes).await
        } else {
            self.acquire(bytes).await
        }
    }
}

/// Acquires bytes of `memory` and, before, of the share that limits how much of it may be taken.
async fn acquire(
    memory: &ByteBudget,
    share: Option<&ByteBudget>,
    bytes: usize,
) -> Result<ForwardPermit, Error> {
    let acquired = async {
        let share = match share {
            Some(share) => Some(share.acquire(bytes).await.ok()?),
            None => None,
        };
        let memory = memory.acquire(bytes).await.ok()?;
        Some(ForwardPermit {
            _share: share,
            _memory: memory,
        })
    };
    match timeout(ADMISSION_TIMEOUT, acquired).await {
        Ok(Some(permit)) => Ok(permit),
        _ => Err(Error::new(
            ErrorCode::ResourceExhausted,
            "the agent's memory for requests that it forwards is full; slow down",
        )
        .with_retry_after_ms(RETRY_AFTER_MS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn forwarded_requests_leave_half_of_the_memory_to_those_that_arrive() {
        let memory = ByteBudget::new(100);
        let admission = ForwardAdmission::new(memory.clone(), 0);
        let one = admission.acquire(30).await.unwrap();
        let refused = admission.acquire(30).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        assert!(refused.retry_after_ms() > 0);
        assert_eq!(memory.used(), 30, "a refused request takes nothing");
        drop(one);
        let large = admission.acquire(1000).await.unwrap();
        assert_eq!(memory.used(), 50);
        let arriving = memory.acquire(50).await.unwrap();
        drop((large, arriving));
        let arriving = memory.acquire(80).await.unwrap();
        assert!(admission.acquire(30).await.is_err(), "it does not wait for ever");
        drop(arriving);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn heartbeats_are_admitted_whatever_records_and_larger_calls_take() {
        let memory = ByteBudget::new(100);
        let admission = ForwardAdmission::new(memory.clone(), 64 << 10);
        let all = memory.acquire(100).await.unwrap();
        assert!(admission.acquire(1).await.is_err(), "records find no memory");
        let commits = admission.acquire_call(16 << 10).await.unwrap();
        let refused = admission.acquire_call(5 << 10).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        assert!(
            admission.acquire_call(17 << 10).await.is_err(),
            "a call that is larger than the budget of calls waits with the records"
        );
        let mut heartbeats = Vec::new();
        for _ in 0..24 {
            heartbeats.push(admission.acquire_call(2 << 10).await.unwrap());
        }
        assert!(
            admission.acquire_call(1).await.is_err(),
            "their number is bounded"
        );
        heartbeats.pop();
        heartbeats.push(admission.acquire_call(2 << 10).await.unwrap());
        drop((all, commits, heartbeats));
        assert_eq!(memory.used(), 0);
        assert_eq!(admission.small_calls.used() + admission.large_calls.used(), 0);
    }
}
