//! The group coordinator: owns the groups of the coordinator slots that this agent leads, passes
//! events to their state machines, and persists what must survive before it replies. The lease
//! keeper assigns and releases slots; [`GroupsService`](super::GroupsService) and other protocols
//! call the rest.
//!
//! A call checks the request against the limits, finds the [`slot`], applies the change to a copy
//! of the group, stores the copy if the change must survive, puts it in place, and replies. If
//! storing fails, nothing has changed. If the lease turns out to be lost, the whole slot is dropped
//! and every pending call fails with NOT_COORDINATOR.

mod admin;
mod change;
mod membership;
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

use async_trait::async_trait;
use parking_lot::RwLock;
use streamhouse_core::{Error, ErrorCode, murmur2::group_slot, time::Entropy};
use streamhouse_metadata::{Error as StoreError, GROUP_SLOTS, Lease, MetadataStore};
use tokio::time::Instant;

use self::slot::Slot;
use super::{cluster::Cluster, limits::GroupLimits, state::MemberId, state::Ticket};
use crate::{leases::Slots, metrics::Metrics, node::Node};

pub use membership::JoinAnswer;

/// The dependencies of a coordinator.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Stores groups and offsets.
    pub store: Arc<dyn MetadataStore>,
    /// Generates member ids.
    pub entropy: Arc<dyn Entropy>,
    /// Resolves partitions and coordinators.
    pub cluster: Arc<dyn Cluster>,
    /// Receives the coordinator's metrics.
    pub metrics: Arc<Metrics>,
    /// Limits for clients' requests.
    pub limits: GroupLimits,
}

/// The state shared by the coordinator and its slots.
#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// The origin of the state machines' clock.
    start: Instant,
    tickets: AtomicU64,
    /// Approximate memory of all groups in bytes.
    bytes: AtomicUsize,
}

impl Shared {
    fn now(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Generates a unique member id; `prefix` makes it readable.
    fn member_id(&self, prefix: &str) -> MemberId {
        let entropy = &self.parts.entropy;
        format!("{prefix}-{:016x}{:016x}", entropy.next_u64(), entropy.next_u64()).into()
    }
}

/// Coordinates the groups of the coordinator slots that this agent leads.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    slots: RwLock<HashMap<i32, Arc<Slot>>>,
}

impl Coordinator {
    /// Creates the coordinator of an agent.
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        let limits = if node.settings.dev {
            GroupLimits::dev()
        } else {
            GroupLimits::default()
        };
        Self::from_parts(Parts {
            store: node.metadata.clone(),
            entropy: node.entropy.clone(),
            cluster: node.directory.clone(),
            metrics: node.metrics.clone(),
            limits,
        })
    }

    /// Creates a coordinator from its dependencies.
    pub fn from_parts(parts: Parts) -> Arc<Self> {
        let shared = Shared {
            parts,
            start: Instant::now(),
            tickets: AtomicU64::new(1),
            bytes: AtomicUsize::new(0),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            slots: RwLock::default(),
        })
    }

    /// Returns the dependencies.
    pub fn parts(&self) -> &Parts {
        &self.shared.parts
    }

    /// Returns the approximate memory of all groups in bytes.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Returns the slot of a group.
    ///
    /// # Errors
    /// NOT_COORDINATOR if another agent leads it, COORDINATOR_LOAD_IN_PROGRESS while its groups are
    /// loaded.
    fn slot(&self, group_id: &str) -> Result<Arc<Slot>, Error> {
        let slot = self
            .slots
            .read()
            .get(&group_slot(group_id, GROUP_SLOTS))
            .cloned()
            .ok_or_else(not_coordinator)?;
        slot.check()?;
        Ok(slot)
    }
}

#[async_trait]
impl Slots for Coordinator {
    async fn acquire(&self, number: i32, lease: Lease) -> Result<(), StoreError> {
        self.release(number).await;
        let slot = Slot::new(self.shared.clone(), number, lease);
        self.slots.write().insert(number, slot.clone());
        match slot.load().await {
            Ok(groups) => {
                tracing::debug!(
                    slot = number,
                    epoch = lease.epoch,
                    groups,
                    "started to coordinate a slot"
                );
                Ok(())
            }
            Err(error) => {
                slot.drop_out();
                self.slots.write().retain(|_, held| !Arc::ptr_eq(held, &slot));
                Err(error)
            }
        }
    }

    async fn release(&self, number: i32) {
        let slot = self.slots.write().remove(&number);
        if let Some(slot) = slot {
            slot.retire().await;
            tracing::debug!(slot = number, "stopped coordinating a slot");
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        for slot in self.slots.get_mut().values() {
            slot.drop_out();
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
