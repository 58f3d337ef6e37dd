//! The budgets of what this agent holds for readers and for the segment roller: a permit a byte, taken before the bytes are
//! there and given back when they are gone. How large each is follows from the settings: see
//! [`MemoryBudgets`]. Producers' bytes have their own budget in the writer, the
//! caches bound themselves.

use std::sync::Arc;

use streamhouse_core::settings::MemoryBudgets;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// So many permits one semaphore can hand out at once.
const MOST_AT_ONCE: usize = u32::MAX as usize;

/// A budget in bytes.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    permits: Arc<Semaphore>,
    capacity: usize,
}

impl ByteBudget {
    /// Room for this many bytes.
    pub fn new(capacity: u64) -> Self {
        let capacity = usize::try_from(capacity)
            .unwrap_or(usize::MAX)
            .min(MOST_AT_ONCE)
            .min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
        }
    }

    /// The size of the budget.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.capacity.saturating_sub(self.permits.available_permits())
    }

    /// Waits for room, in the order of those who ask; for all of it where more is asked for.
    ///
    /// # Errors
    /// Never, as long as nobody closes the budget, and nobody does.
    pub async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        let permits = self.permits.clone();
        permits.acquire_many_owned(self.permits_of(bytes)).await
    }

    /// Takes room if there is some at once.
    ///
    /// # Errors
    /// When there is not.
    pub fn try_take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        let permits = self.permits.clone();
        permits.try_acquire_many_owned(self.permits_of(bytes))
    }

    fn permits_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.capacity)).unwrap_or(u32::MAX)
    }
}

/// The budgets of readers and of the segment roller.
#[derive(Debug)]
pub struct ReadMemory {
    /// Answers to fetches, twice their size, from the reading until the last byte has left.
    pub fetch: ByteBudget,
    /// What reads of older batches put together, while they do.
    pub cold_reads: ByteBudget,
    /// The segment that is being written.
    pub roll: ByteBudget,
}

impl ReadMemory {
    /// As large as they are documented.
    pub fn new(budgets: &MemoryBudgets) -> Self {
        Self {
            fetch: ByteBudget::new(budgets.fetch),
            cold_reads: ByteBudget::new(budgets.cold_reads),
            roll: ByteBudget::new(budgets.roll),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_taken_than_there_is() {
        let budget = ByteBudget::new(100);
        let some = budget.take(60).await.unwrap();
        assert_eq!((budget.used(), budget.capacity()), (60, 100));
        assert!(budget.try_take(41).is_err());
        let rest = budget.try_take(40).unwrap();
        drop(some);
        drop(rest);
        assert_eq!(budget.used(), 0);
        // Who asks for more than there is gets all of it, alone.
        let all = budget.take(1_000).await.unwrap();
        assert_eq!(budget.used(), 100);
        drop(all);
    }
}
