//! What belongs to one life of the agent while it leads: the life itself and the leases that go or went. Made by the keeper;
//! shared by the loops that run during the life.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::future::join_all;
use parking_lot::Mutex;
use streamhouse_metadata::{Error, Lease, PartitionUid, Result};
use tokio::{
    sync::Notify,
    time::{Duration, sleep, timeout},
};

use super::Slots;
use crate::{
    metrics::LeaseChange,
    node::{Life, Node},
};

/// How long to wait before asking an unreachable metadata store again: doubling between these.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long one call may take, however long a lease lasts.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// One life's leases.
#[derive(Debug)]
pub struct Tenure {
    pub(super) node: Arc<Node>,
    pub(super) groups: Arc<dyn Slots>,
    pub(super) life: Arc<Life>,
    /// Coordinator slots acquired, with their leases.
    pub(super) slots: Mutex<HashMap<i32, Lease>>,
    /// Leases that are being or were given away, with the epoch: a snapshot from before must not bring them back.
    given: Mutex<HashMap<PartitionUid, i32>>,
    /// Taken from nobody, not yet seen in a snapshot.
    pub(super) taken: Mutex<HashSet<PartitionUid>>,
    /// One hand-over at a time.
    pub(super) handing: tokio::sync::Mutex<()>,
    /// Asks for a look at the same snapshot again.
    pub(super) again: Notify,
}

impl Tenure {
    pub(super) fn new(node: Arc<Node>, groups: Arc<dyn Slots>, life: Arc<Life>) -> Self {
        Self {
            node,
            groups,
            life,
            slots: Mutex::default(),
            given: Mutex::default(),
            taken: Mutex::default(),
            handing: tokio::sync::Mutex::default(),
            again: Notify::new(),
        }
    }

    /// From now on the lease in this epoch is not ours, whatever a snapshot says.
    pub(super) fn give(&self, uid: PartitionUid, epoch: i32) {
        self.given.lock().insert(uid, epoch);
    }

    /// The lease was not given away after all.
    pub(super) fn keep(&self, uid: PartitionUid) {
        self.given.lock().remove(&uid);
    }

    /// Whether the lease in this epoch was given away.
    pub(super) fn gave(&self, uid: PartitionUid, epoch: i32) -> bool {
        self.given.lock().get(&uid).is_some_and(|given| *given >= epoch)
    }

    /// Forgets gifts that the newest snapshot knows of: of the leases that it calls ours, only these may still be given.
    pub(super) fn retain_given(&self, ours: &HashMap<PartitionUid, i32>) {
        self.given
            .lock()
            .retain(|uid, given| ours.get(uid).is_some_and(|epoch| epoch <= given));
    }

    /// One call, for as long as a lease lasts at most: whoever keeps leases waits for nothing without end.
    pub(super) async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.node.settings.lease_ttl.min(LONGEST_CALL);
        let answered = timeout(limit, call).await;
        answered.unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {limit:?}"))))
    }

    /// Repeats a transaction until the metadata store answers, or the life is over.
    pub(super) async fn insist<T, Call, Answer>(&self, what: &str, call: Call) -> Result<T>
    where
        Call: Fn() -> Answer,
        Answer: Future<Output = Result<T>>,
    {
        let insisting = async {
            let mut pause = RETRY.0;
            loop {
                match self.ask(call()).await {
                    Err(Error::Unavailable(reason)) => {
                        tracing::warn!(reason, "{what} has to wait for the metadata store");
                        sleep(pause.mul_f64(0.5 + self.node.entropy.fraction())).await;
                        pause = (pause * 2).min(RETRY.1);
                    }
                    answer => return answer,
                }
            }
        };
        tokio::select! {
            biased;
            () = self.life.over.cancelled() => Err(Error::Sealed(self.life.incarnation)),
            answer = insisting => answer,
        }
    }

    /// The life is over: nothing is promised and nothing held any more.
    pub(super) async fn end(&self) {
        self.life.over.cancel();
        self.node.life.store(None);
        let held = self.life.held.all();
        self.node.metrics.lease_changed(LeaseChange::LifeOver, held.len());
        for partition in held {
            self.life.held.remove(partition.uid(), i32::MAX);
        }
        let slots: Vec<i32> = self.slots.lock().drain().map(|(slot, _)| slot).collect();
        self.release(&slots).await;
    }

    /// Lets coordinator slots go, all at once: each may have to wait a moment for what is being written.
    pub(super) async fn release(&self, slots: &[i32]) {
        join_all(slots.iter().map(|slot| self.groups.release(*slot))).await;
    }
}
