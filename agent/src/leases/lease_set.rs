//! The leases of one incarnation: what it leads, and what it has given away. Created by the keeper;
//! shared by the tasks of the incarnation.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::future::join_all;
use parking_lot::Mutex;
use streamhouse_core::backoff::{BackoffJitter, BackoffPolicy};
use streamhouse_metadata::{Error, Lease, PartitionUid, Result};
use tokio::{
    sync::Notify,
    time::{Duration, sleep, timeout},
};

use super::LeaseDeps;
use crate::{metrics::LeaseChange, produce::WalWriter, session::AgentSession};

/// Back-off between calls to a metadata store that is unreachable.
const RETRY_BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(1))
    .with_jitter(BackoffJitter::Around(0.5));

/// Maximum duration of one call, however long a lease lasts.
const MAX_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The leases of one incarnation.
#[derive(Debug)]
pub struct LeaseSet {
    pub(super) deps: Arc<LeaseDeps>,
    pub(super) session: Arc<AgentSession>,
    /// Writes the batches of the session.
    pub(super) writer: Arc<WalWriter>,
    /// Time limit of one call to the metadata store.
    call_timeout: Duration,
    /// Acquired coordinator slots with their leases.
    pub(super) slots: Mutex<HashMap<i32, Lease>>,
    /// Leases given away or about to be, with their epochs: an older snapshot must not bring them
    /// back.
    given: Mutex<HashMap<PartitionUid, i32>>,
    /// Unowned leases taken by this agent and not yet seen in a snapshot.
    pub(super) taken: Mutex<HashSet<PartitionUid>>,
    /// Serializes handovers.
    pub(super) handover_lock: tokio::sync::Mutex<()>,
    /// Requests another look at the same snapshot.
    pub(super) recheck: Notify,
}

impl LeaseSet {
    pub(super) fn new(
        deps: Arc<LeaseDeps>,
        session: Arc<AgentSession>,
        writer: Arc<WalWriter>,
        lease_ttl: Duration,
    ) -> Self {
        Self {
            deps,
            session,
            writer,
            call_timeout: lease_ttl.min(MAX_CALL_TIMEOUT),
            slots: Mutex::default(),
            given: Mutex::default(),
            taken: Mutex::default(),
            handover_lock: tokio::sync::Mutex::default(),
            recheck: Notify::new(),
        }
    }

    /// Marks the lease in this epoch as given away, whatever a snapshot says.
    pub(super) fn mark_given(&self, uid: PartitionUid, epoch: i32) {
        self.given.lock().insert(uid, epoch);
    }

    /// Undoes [`mark_given`](Self::mark_given) after a move that failed.
    pub(super) fn unmark_given(&self, uid: PartitionUid) {
        self.given.lock().remove(&uid);
    }

    /// Returns whether the lease in this epoch was given away.
    pub(super) fn is_given(&self, uid: PartitionUid, epoch: i32) -> bool {
        self.given.lock().get(&uid).is_some_and(|given| *given >= epoch)
    }

    /// Drops the marks that the newest snapshot reflects: only leases that it still assigns to this
    /// agent keep theirs.
    pub(super) fn prune_given(&self, ours: &HashMap<PartitionUid, i32>) {
        self.given
            .lock()
            .retain(|uid, given| ours.get(uid).is_some_and(|epoch| epoch <= given));
    }

    /// Bounds one call by the lease duration, so that no task of the keeper waits indefinitely.
    pub(super) async fn call_metadata<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.call_timeout;
        let answered = timeout(limit, call).await;
        answered.unwrap_or_else(|_| Err(Error::Unavailable(format!("no answer within {limit:?}"))))
    }

    /// Repeats a transaction until the metadata store responds or the incarnation ends.
    pub(super) async fn retry_until_answered<T, Call, Answer>(&self, what: &str, call: Call) -> Result<T>
    where
        Call: Fn() -> Answer,
        Answer: Future<Output = Result<T>>,
    {
        let insisting = async {
            let mut backoff = RETRY_BACKOFF.start();
            loop {
                match self.call_metadata(call()).await {
                    Err(Error::Unavailable(reason)) => {
                        tracing::warn!(reason, "{what} has to wait for the metadata store");
                        sleep(backoff.next_delay(&*self.deps.entropy)).await;
                    }
                    answer => return answer,
                }
            }
        };
        tokio::select! {
            biased;
            () = self.session.ended.cancelled() => Err(Error::Sealed(self.session.incarnation)),
            answer = insisting => answer,
        }
    }

    /// Ends the incarnation: nothing is promised and nothing is led any more.
    pub(super) async fn end_incarnation(&self) {
        self.session.ended.cancel();
        self.deps.session.end();
        self.deps.writer.end();
        let held = self.session.partitions.all();
        self.deps
            .metrics
            .record_lease_change(LeaseChange::IncarnationEnded, held.len());
        for partition in held {
            self.session.partitions.remove(partition.uid(), i32::MAX);
        }
        let slots: Vec<i32> = self.slots.lock().drain().map(|(slot, _)| slot).collect();
        self.release_slots(&slots).await;
    }

    /// Releases coordinator slots concurrently: each may wait briefly for writes under way.
    pub(super) async fn release_slots(&self, slots: &[i32]) {
        join_all(slots.iter().map(|slot| self.deps.groups.release(*slot))).await;
    }
}
