//! The coordinator: keeps the groups of the slots that this agent leads, carries events to their state machines, stores what
//! must survive before it answers. The lease keeper gives it slots and takes them; [`GroupsService`](super::GroupsService)
//! and other protocols call the rest.
//!
//! A call goes: check the request's bounds, find the [`slot`], change the group in a copy, store it where the change must
//! survive, put the copy in place, answer. When storing fails nothing has happened. When the lease turns out to be lost, the
//! whole slot is dropped and everybody who waits is told NOT_COORDINATOR.

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

/// What a coordinator is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where groups and offsets are stored.
    pub store: Arc<dyn MetadataStore>,
    /// For member ids.
    pub entropy: Arc<dyn Entropy>,
    /// Names and coordinators.
    pub cluster: Arc<dyn Cluster>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// What clients may ask for.
    pub limits: GroupLimits,
}

/// What the coordinator and its slots share.
#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// The zero of the state machines' time.
    start: Instant,
    tickets: AtomicU64,
    /// Memory that groups take, roughly.
    bytes: AtomicUsize,
}

impl Shared {
    fn now(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// A member id that was never given before; `prefix` makes it readable.
    fn member_id(&self, prefix: &str) -> MemberId {
        let entropy = &self.parts.entropy;
        format!("{prefix}-{:016x}{:016x}", entropy.next_u64(), entropy.next_u64()).into()
    }
}

/// Coordinates the groups of the slots that this agent leads.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    slots: RwLock<HashMap<i32, Arc<Slot>>>,
}

impl Coordinator {
    /// The coordinator of this agent.
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

    /// A coordinator made of these parts.
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

    /// What it is made of.
    pub fn parts(&self) -> &Parts {
        &self.shared.parts
    }

    /// The memory that groups take here, roughly.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// The slot of a group: NOT_COORDINATOR when another agent leads it, COORDINATOR_LOAD_IN_PROGRESS while it is read.
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
                    "coordinates a slot of groups"
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
            tracing::debug!(slot = number, "coordinates a slot of groups no more");
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
        "this agent does not coordinate the group; find its coordinator again",
    )
}

#[cfg(test)]
mod tests;
