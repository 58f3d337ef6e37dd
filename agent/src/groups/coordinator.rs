//! The group coordinator: owns the groups of the coordinator slots that this agent leads, passes
//! events to their state machines, and persists what must survive before it replies. The lease
//! keeper assigns and releases slots; [`GroupGrpcService`](super::GroupGrpcService) and other
//! protocols call the rest.
//!
//! A call checks the request against the limits, finds the slot of the group, applies the change to
//! a copy of the group, stores the copy if the change must survive, puts it in place, and replies.
//! If storing fails, nothing has changed. If the lease turns out to be lost, the whole slot is
//! dropped and every pending call fails with NOT_COORDINATOR.

mod admin;
mod change;
mod consumer_membership;
mod membership;
mod offset_deletion;
mod offsets;
mod report;
mod slot;
mod ticker;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;
use streamhouse_core::{Error, ErrorCode, murmur2::group_slot, time::Entropy};
use streamhouse_metadata::{Error as StoreError, GROUP_SLOTS, Lease, MetadataStore};
use tokio::time::Instant;

use self::slot::CoordinatorSlot;
use super::{group_directory::GroupDirectory, limits::GroupLimits, state::MemberId, state::ReplyTicket};
use crate::metrics::AgentMetrics;

pub use membership::JoinOutcome;

/// The dependencies of a coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorDeps {
    /// Stores groups and offsets.
    pub store: Arc<dyn MetadataStore>,
    /// Generates member ids.
    pub entropy: Arc<dyn Entropy>,
    /// Resolves partitions and coordinators.
    pub cluster: Arc<dyn GroupDirectory>,
    /// Receives the coordinator's metrics.
    pub metrics: Arc<AgentMetrics>,
    /// Limits for clients' requests.
    pub limits: GroupLimits,
}

/// The state shared by the coordinator and its slots.
#[derive(Debug)]
struct CoordinatorContext {
    deps: CoordinatorDeps,
    /// The origin of the state machines' clock.
    start: Instant,
    tickets: AtomicU64,
    /// Approximate memory of all groups in bytes.
    memory_bytes: AtomicUsize,
}

impl CoordinatorContext {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn next_ticket(&self) -> ReplyTicket {
        ReplyTicket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Generates a unique member id; `prefix` makes it readable.
    fn new_member_id(&self, prefix: &str) -> MemberId {
        let entropy = &self.deps.entropy;
        format!("{prefix}-{:016x}{:016x}", entropy.next_u64(), entropy.next_u64()).into()
    }
}

/// Coordinates the groups of the coordinator slots that this agent leads.
#[derive(Debug)]
pub struct GroupCoordinator {
    shared: Arc<CoordinatorContext>,
    slots: RwLock<HashMap<i32, Arc<CoordinatorSlot>>>,
}

impl GroupCoordinator {
    /// Creates a coordinator from its dependencies.
    pub fn new(deps: CoordinatorDeps) -> Arc<Self> {
        let shared = CoordinatorContext {
            deps,
            start: Instant::now(),
            tickets: AtomicU64::new(1),
            memory_bytes: AtomicUsize::new(0),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            slots: RwLock::default(),
        })
    }

    /// Returns the dependencies.
    pub fn deps(&self) -> &CoordinatorDeps {
        &self.shared.deps
    }

    /// Returns the approximate memory of all groups in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes.load(Ordering::Relaxed)
    }

    /// Returns whether this agent has the slot of a group, loaded or not.
    pub fn has_slot_of(&self, group_id: &str) -> bool {
        self.slots.read().contains_key(&group_slot(group_id, GROUP_SLOTS))
    }

    /// Returns the slot of a group.
    ///
    /// # Errors
    /// NOT_COORDINATOR if another agent leads it, COORDINATOR_LOAD_IN_PROGRESS while its groups are
    /// loaded.
    fn serving_slot(&self, group_id: &str) -> Result<Arc<CoordinatorSlot>, Error> {
        let slot = self
            .slots
            .read()
            .get(&group_slot(group_id, GROUP_SLOTS))
            .cloned()
            .ok_or_else(not_coordinator)?;
        slot.ensure_serving()?;
        Ok(slot)
    }
}

/// Called by the lease keeper only.
impl GroupCoordinator {
    /// Starts to coordinate the slot under this lease; when this returns, its groups are served.
    ///
    /// # Errors
    /// If the slot's groups cannot be loaded; the slot is not served then.
    pub async fn acquire(&self, number: i32, lease: Lease) -> Result<(), StoreError> {
        self.release(number).await;
        let slot = CoordinatorSlot::new(self.shared.clone(), number, lease);
        self.slots.write().insert(number, slot.clone());
        match slot.load().await {
            Ok(groups) => {
                tokio::spawn(ticker::run(slot));
                tracing::debug!(
                    slot = number,
                    epoch = lease.epoch,
                    groups,
                    "started to coordinate a slot"
                );
                Ok(())
            }
            Err(error) => {
                slot.stop_serving();
                self.slots.write().retain(|_, held| !Arc::ptr_eq(held, &slot));
                Err(error)
            }
        }
    }

    /// Stops coordinating the slot, which moved or is about to move: when this returns, nothing
    /// more is written for it. Waits only briefly for writes under way: a store that does not
    /// respond must not delay the next coordinator.
    pub async fn release(&self, number: i32) {
        let slot = self.slots.write().remove(&number);
        if let Some(slot) = slot {
            slot.retire().await;
            tracing::debug!(slot = number, "stopped coordinating a slot");
        }
    }
}

impl Drop for GroupCoordinator {
    fn drop(&mut self) {
        for slot in self.slots.get_mut().values() {
            slot.stop_serving();
        }
    }
}

fn not_coordinator() -> Error {
    Error::new(
        ErrorCode::NotCoordinator,
        "this agent is not the coordinator of the group; look the coordinator up again",
    )
}

#[cfg(test)]
mod tests;
