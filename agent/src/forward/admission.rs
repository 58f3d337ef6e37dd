//! Memory of forwarded requests, from when they are taken up until they are answered.

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

/// Memory of one forwarded request.
#[derive(Debug)]
pub(super) struct ForwardPermit {
    _share: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

/// Admits requests to bounded memory.
#[derive(Debug)]
pub(super) struct ForwardAdmission {
    /// Budget of arriving requests.
    memory: ByteBudget,
    /// How much of it forwarded requests may take together.
    share: ByteBudget,
}

impl ForwardAdmission {
    pub(super) fn new(memory: ByteBudget) -> Self {
        // The other half is for requests that arrive, which other agents may be waiting for.
        let share = ByteBudget::new(memory.capacity() as u64 / 2);
        Self { memory, share }
    }

    /// Waits a limited time for this many bytes, and refuses the request if they do not become
    /// free. A request that is larger than the share takes all of it.
    pub(super) async fn acquire(&self, bytes: usize) -> Result<ForwardPermit, Error> {
        let bytes = bytes.min(self.share.capacity());
        let acquired = async {
            let share = self.share.acquire(bytes).await.ok()?;
            let memory = self.memory.acquire(bytes).await.ok()?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn forwarded_requests_leave_half_of_the_memory_to_those_that_arrive() {
        let memory = ByteBudget::new(100);
        let admission = ForwardAdmission::new(memory.clone());
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
}
