//! Memory of requests: their bytes and what they are decoded to. Requests of both protocols share a
//! budget. Produce requests may have a part of it, because they wait for the memory of their
//! batches: when the object store is slow, heartbeats and fetches pass. So may clients that have
//! not authenticated: they cannot keep the others from being served.

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
    /// What clients that have not authenticated may have of it.
    unauthenticated: ByteBudget,
    is_authenticated: bool,
}

impl RequestBudgets {
    pub(super) fn new(all: ByteBudget, produce: ByteBudget, unauthenticated: ByteBudget) -> Self {
        Self {
            all,
            produce,
            unauthenticated,
            is_authenticated: true,
        }
    }

    /// Changes whether the requests are those of a client that has authenticated.
    pub(super) fn set_authenticated(&mut self, is_authenticated: bool) {
        self.is_authenticated = is_authenticated;
    }

    /// Returns the budget of the part that the requests of an API may have.
    fn part(&self, api_key: i16) -> Option<&ByteBudget> {
        match self.is_authenticated {
            false => Some(&self.unauthenticated),
            true => is_produce(api_key).then_some(&self.produce),
        }
    }

    /// Returns the memory of a request of this length if there is some at once.
    pub(super) fn try_acquire(&self, api_key: i16, length: usize) -> Option<RequestMemory> {
        let bytes = wanted(api_key, length);
        let part = match self.part(api_key) {
            Some(part) => Some(part.try_acquire(bytes).ok()?),
            None => None,
        };
        let all = self.all.try_acquire(bytes).ok()?;
        Some(RequestMemory::new(all, part))
    }

    /// Waits for the memory of a request of this length.
    ///
    /// # Errors
    /// Never: the budgets are not closed.
    pub(super) async fn acquire(&self, api_key: i16, length: usize) -> io::Result<RequestMemory> {
        let bytes = wanted(api_key, length);
        let part = match self.part(api_key) {
            Some(part) => Some(part.acquire(bytes).await.map_err(io::Error::other)?),
            None => None,
        };
        let all = self.all.acquire(bytes).await.map_err(io::Error::other)?;
        Ok(RequestMemory::new(all, part))
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
    part: Option<OwnedSemaphorePermit>,
}

impl RequestMemory {
    fn new(all: OwnedSemaphorePermit, part: Option<OwnedSemaphorePermit>) -> Self {
        Self(Arc::new(Mutex::new(HeldMemory { all, part })))
    }

    /// Gives back all but this many bytes.
    pub(super) fn shrink_to(&self, bytes: usize) {
        let mut held = self.0.lock();
        let HeldMemory { all, part } = &mut *held;
        for permit in [Some(all), part.as_mut()].into_iter().flatten() {
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
        let [all, part, little] = [100_000, 50_000, 0].map(ByteBudget::new);
        let budgets = RequestBudgets::new(all, part, little);
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

    #[tokio::test]
    async fn clients_that_have_not_authenticated_have_a_part_of_the_memory_only() {
        let [all, produce, part] = [100_000, 50_000, 30_000].map(ByteBudget::new);
        let others = RequestBudgets::new(all, produce, part);
        let mut budgets = others.clone();
        budgets.set_authenticated(false);
        let handshake = ApiKey::SaslHandshake.number();
        let taken: Vec<_> = (0..100)
            .map_while(|_| budgets.try_acquire(handshake, 1_000))
            .collect();
        assert!(!taken.is_empty() && budgets.all.used() <= 30_000);
        assert!(budgets.try_acquire(handshake, 1_000).is_none());
        assert!(others.try_acquire(handshake, 1_000).is_some());
        drop(taken);
        assert_eq!(budgets.all.used(), 0);
    }
}
