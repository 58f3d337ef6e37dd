//! Memory of requests: their bytes and what they are decoded to. Requests of both protocols share a
//! budget. Produce requests may have a part of it, because they wait for the memory of their
//! batches: when the object store is slow, heartbeats and fetches pass.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use streamhouse_core::kafka::ApiKey;
use tokio::sync::OwnedSemaphorePermit;

use super::limits;
use crate::memory::ByteBudget;

/// The budgets that requests take memory from.
#[derive(Debug, Clone)]
pub(super) struct RequestBudgets {
    all: ByteBudget,
    /// What Produce requests may have of it.
    produce: ByteBudget,
}

impl RequestBudgets {
    pub(super) fn new(all: ByteBudget, produce: ByteBudget) -> Self {
        Self { all, produce }
    }

    /// Returns the memory of a request of this length if there is some at once.
    pub(super) fn try_acquire(&self, api_key: i16, length: usize) -> Option<RequestMemory> {
        let bytes = wanted(api_key, length);
        let produce = match is_produce(api_key) {
            true => Some(self.produce.try_acquire(bytes).ok()?),
            false => None,
        };
        let all = self.all.try_acquire(bytes).ok()?;
        Some(RequestMemory::new(all, produce))
    }

    /// Waits for the memory of a request of this length.
    ///
    /// # Errors
    /// Never: the budgets are not closed.
    pub(super) async fn acquire(&self, api_key: i16, length: usize) -> io::Result<RequestMemory> {
        let bytes = wanted(api_key, length);
        let produce = match is_produce(api_key) {
            true => Some(self.produce.acquire(bytes).await.map_err(io::Error::other)?),
            false => None,
        };
        let all = self.all.acquire(bytes).await.map_err(io::Error::other)?;
        Ok(RequestMemory::new(all, produce))
    }

    /// Returns the memory that is taken.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.all.used()
    }
}

fn is_produce(api_key: i16) -> bool {
    api_key == ApiKey::Produce.number()
}

/// Returns the memory of a request and of what it may be decoded to.
fn wanted(api_key: i16, length: usize) -> usize {
    length.saturating_add(limits::decoded_bytes(api_key, length))
}

/// Memory of a request: held until the last holder is dropped, the frame's bytes among them.
#[derive(Debug, Clone)]
pub(super) struct RequestMemory(Arc<Mutex<HeldMemory>>);

#[derive(Debug)]
struct HeldMemory {
    all: OwnedSemaphorePermit,
    produce: Option<OwnedSemaphorePermit>,
}

impl RequestMemory {
    fn new(all: OwnedSemaphorePermit, produce: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new(Mutex::new(HeldMemory { all, produce })))
    }

    /// Gives back all but this many bytes.
    pub(super) fn shrink_to(&self, bytes: usize) {
        let mut held = self.0.lock();
        let HeldMemory { all, produce } = &mut *held;
        for permit in [Some(all), produce.as_mut()].into_iter().flatten() {
            let spare = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(spare));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn produce_requests_have_a_part_of_the_memory_only() {
        let budgets = RequestBudgets::new(ByteBudget::new(100_000), ByteBudget::new(50_000));
        let (produce, other) = (ApiKey::Produce.number(), ApiKey::Heartbeat.number());
        let first = budgets.try_acquire(produce, 20_000).unwrap();
        assert!(budgets.try_acquire(produce, 1_000).is_none());
        assert!(budgets.try_acquire(other, 1_000).is_some());
        first.shrink_to(100);
        assert_eq!((budgets.all.used(), budgets.produce.used()), (100, 100));
        let second = budgets.try_acquire(produce, 20_000);
        assert!(second.is_some());
        drop((first, second));
        assert_eq!((budgets.all.used(), budgets.produce.used()), (0, 0));
    }
}
