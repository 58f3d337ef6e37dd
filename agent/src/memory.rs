//! Owns the memory budgets of readers and of the segment roller: one permit per byte, acquired
//! before the bytes are allocated and released when they are dropped. Their sizes follow from the
//! settings: see [`MemoryBudgets`]. Produced bytes have a budget of their own in the writer; caches
//! bound themselves.

use std::sync::Arc;

use streamhouse_core::settings::MemoryBudgets;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Maximum number of permits that a semaphore can issue at once.
const MAX_PERMITS: usize = u32::MAX as usize;

/// A budget in bytes.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    permits: Arc<Semaphore>,
    capacity: usize,
}

impl ByteBudget {
    /// Creates a budget of this many bytes.
    pub fn new(capacity: u64) -> Self {
        let capacity = usize::try_from(capacity)
            .unwrap_or(usize::MAX)
            .min(MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
        }
    }

    /// Returns the size of the budget.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of acquired bytes.
    pub fn used(&self) -> usize {
        self.capacity.saturating_sub(self.permits.available_permits())
    }

    /// Waits for this many bytes, in order of arrival; for the whole budget if more are requested.
    ///
    /// # Errors
    /// Never: the budget is not closed.
    pub async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, AcquireError> {
        let permits = self.permits.clone();
        permits.acquire_many_owned(self.permits_for(bytes)).await
    }

    /// Acquires this many bytes if they are available at once.
    ///
    /// # Errors
    /// If they are not available.
    pub fn try_acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        let permits = self.permits.clone();
        permits.try_acquire_many_owned(self.permits_for(bytes))
    }

    fn permits_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.capacity)).unwrap_or(u32::MAX)
    }
}

/// The budgets of readers and of the segment roller.
#[derive(Debug, Clone)]
pub struct ReadMemoryBudgets {
    /// Fetch responses, at twice their size, from the read until the last byte has left.
    pub fetch: ByteBudget,
    /// Bytes that cold reads concatenate, while they do.
    pub cold_reads: ByteBudget,
    /// The segment that is being written.
    pub roll: ByteBudget,
}

impl ReadMemoryBudgets {
    /// Creates the budgets in their documented sizes.
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
        let some = budget.acquire(60).await.unwrap();
        assert_eq!((budget.used(), budget.capacity()), (60, 100));
        assert!(budget.try_acquire(41).is_err());
        let rest = budget.try_acquire(40).unwrap();
        drop(some);
        drop(rest);
        assert_eq!(budget.used(), 0);
        // A request for more than the budget acquires all of it, exclusively.
        let all = budget.acquire(1_000).await.unwrap();
        assert_eq!(budget.used(), 100);
        drop(all);
    }
}
