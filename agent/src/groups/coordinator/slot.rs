//! One coordinator slot under one lease: its groups in memory, and the gate for every write. After
//! the slot is retired, nothing is written for it and every pending call fails.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use streamhouse_core::{Error, ErrorCode};
use streamhouse_metadata::{Error as StoreError, GroupQuery, Lease};
use tokio::{
    sync::{Notify, RwLock, oneshot},
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{CoordinatorContext, not_coordinator};
use crate::{
    groups::{
        any_group::AnyGroup,
        state::{GroupReply, ReplyTicket},
    },
    invariant::Invariant,
};

/// Time for writes under way after the slot is retired.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// The due time of a group without timers.
pub(super) const NEVER_DUE: i64 = i64::MAX;

/// A coordinator slot under one lease.
#[derive(Debug)]
pub(super) struct CoordinatorSlot {
    pub(super) shared: Arc<CoordinatorContext>,
    pub(super) number: i32,
    pub(super) lease: Lease,
    loaded: AtomicBool,
    pub(super) retired: CancellationToken,
    /// Cancelled when the writes under way have used up their time.
    writes_abandoned: CancellationToken,
    pub(super) entries: Mutex<HashMap<Arc<str>, Arc<GroupEntry>>>,
    /// Held for reading during writes to the store; the write lock proves that none is under way.
    writes: RwLock<()>,
    /// Wakes the ticker if something is due earlier than planned.
    pub(super) due_earlier: Notify,
    /// When the ticker wakes up next.
    pub(super) wake_at: AtomicI64,
}

/// The entry of one group in a slot.
#[derive(Debug)]
pub(super) struct GroupEntry {
    pub(super) id: Arc<str>,
    pub(super) state: Arc<tokio::sync::Mutex<GroupEntryState>>,
    /// Serializes the commits of one group in the order of their arrival (INV-C1). Locked before
    /// `state`.
    pub(super) commits: Arc<tokio::sync::Mutex<()>>,
    /// When the group's timers are due.
    due: AtomicI64,
}

/// A group in memory with the calls that wait for a reply.
pub(super) struct GroupEntryState {
    shared: Arc<CoordinatorContext>,
    /// `None` while the group has no members: its state is in the store.
    pub(super) group: Option<AnyGroup>,
    pub(super) waiting: HashMap<ReplyTicket, oneshot::Sender<Result<GroupReply, Error>>>,
    /// The bytes that this entry is charged in [`CoordinatorContext::memory_bytes`].
    charged_bytes: usize,
}

impl fmt::Debug for GroupEntryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("group", &self.group)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl GroupEntryState {
    /// Replaces the group; one without members is dropped from memory, since the store has it.
    pub(super) fn set_group(&mut self, group: Option<AnyGroup>) {
        self.group = group.filter(|group| !group.is_vacant());
        let bytes = self.group.as_ref().map_or(0, AnyGroup::memory_bytes);
        self.shared.memory_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shared
            .memory_bytes
            .fetch_sub(self.charged_bytes, Ordering::Relaxed);
        self.charged_bytes = bytes;
    }

    fn is_idle(&self) -> bool {
        self.group.is_none() && self.waiting.is_empty()
    }
}

impl Drop for GroupEntryState {
    fn drop(&mut self) {
        self.shared
            .memory_bytes
            .fetch_sub(self.charged_bytes, Ordering::Relaxed);
    }
}

impl GroupEntry {
    fn new(shared: Arc<CoordinatorContext>, id: Arc<str>) -> Self {
        let state = GroupEntryState {
            shared,
            group: None,
            waiting: HashMap::new(),
            charged_bytes: 0,
        };
        Self {
            id,
            state: Arc::new(tokio::sync::Mutex::new(state)),
            commits: Arc::default(),
            due: AtomicI64::new(NEVER_DUE),
        }
    }

    pub(super) fn due(&self) -> i64 {
        self.due.load(Ordering::Acquire)
    }

    /// Returns whether the entry is neither referenced nor holds anything.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.state.try_lock().is_ok_and(|state| state.is_idle())
    }
}

impl CoordinatorSlot {
    pub(super) fn new(shared: Arc<CoordinatorContext>, number: i32, lease: Lease) -> Arc<Self> {
        Arc::new(Self {
            shared,
            number,
            lease,
            loaded: AtomicBool::new(false),
            retired: CancellationToken::new(),
            writes_abandoned: CancellationToken::new(),
            entries: Mutex::default(),
            writes: RwLock::new(()),
            due_earlier: Notify::new(),
            wake_at: AtomicI64::new(NEVER_DUE),
        })
    }

    /// Loads the groups with members, then starts to serve. Returns their number. Their timers run
    /// once the caller has spawned the slot's ticker.
    pub(super) async fn load(&self) -> Result<usize, StoreError> {
        let records = self
            .shared
            .deps
            .store
            .groups(&GroupQuery::Slot(self.number))
            .await?;
        let now = self.shared.now_ms();
        let mut groups = 0;
        for record in records.into_iter().filter(|record| !record.state.is_empty()) {
            let group = self.decode_group(&record.group_id, record.generation, &record.state, now);
            if group.is_vacant() {
                continue;
            }
            let cell = self.get_or_create_entry(&record.group_id);
            let mut state = cell.state.lock().await;
            let due = group.deadline();
            state.set_group(Some(group));
            drop(state);
            self.set_due(&cell, due.unwrap_or(NEVER_DUE));
            groups += 1;
        }
        self.loaded.store(true, Ordering::Release);
        Ok(groups)
    }

    /// Decodes a stored group. If that fails, the group continues without members, which have to
    /// join again.
    pub(super) fn decode_group(&self, group_id: &str, generation: i32, state: &[u8], now: i64) -> AnyGroup {
        let limits = &self.shared.deps.limits;
        AnyGroup::load(limits, generation, state, now).unwrap_or_else(|error| {
            tracing::error!(group_id, %error, "the stored group cannot be decoded; its members have to join again");
            AnyGroup::without_members(limits, generation, state)
        })
    }

    /// Returns an error unless the slot serves.
    pub(super) fn ensure_serving(&self) -> Result<(), Error> {
        if self.retired.is_cancelled() {
            return Err(not_coordinator());
        }
        if !self.loaded.load(Ordering::Acquire) {
            let error = Error::new(
                ErrorCode::CoordinatorLoadInProgress,
                "the coordinator is still loading its groups",
            );
            return Err(error.with_retry_after_ms(50));
        }
        Ok(())
    }

    /// Stops serving. Writes under way are fenced by the lease, or succeed while it is still valid.
    pub(super) fn stop_serving(&self) {
        self.retired.cancel();
    }

    /// Stops serving; after it returned, nothing is written either. Writes that the store does not
    /// answer in time are abandoned: the lease fences them, and their outcome is unknown to the
    /// callers.
    pub(super) async fn retire(&self) {
        self.stop_serving();
        if timeout(FINAL_WRITE_TIMEOUT, self.writes.write()).await.is_err() {
            tracing::warn!(
                slot = self.number,
                "the metadata store does not respond; abandoning a group's write"
            );
            self.writes_abandoned.cancel();
        }
        let _none_under_way = self.writes.write().await;
        self.entries.lock().clear();
    }

    /// Returns the entry of the group, created if needed.
    pub(super) fn get_or_create_entry(&self, group_id: &str) -> Arc<GroupEntry> {
        let mut cells = self.entries.lock();
        if let Some(cell) = cells.get(group_id) {
            return cell.clone();
        }
        let id: Arc<str> = group_id.into();
        let cell = Arc::new(GroupEntry::new(self.shared.clone(), id.clone()));
        cells.insert(id, cell.clone());
        if self.wake_at.load(Ordering::Acquire) == NEVER_DUE {
            // The ticker sleeps without a deadline; it must remove this entry when it is unused.
            self.due_earlier.notify_one();
        }
        cell
    }

    /// Returns the entry of the group, if it exists.
    pub(super) fn find_entry(&self, group_id: &str) -> Option<Arc<GroupEntry>> {
        self.entries.lock().get(group_id).cloned()
    }

    /// Sets when the group's timers are due.
    pub(super) fn set_due(&self, cell: &GroupEntry, due: i64) {
        cell.due.store(due, Ordering::Release);
        if due < self.wake_at.load(Ordering::Acquire) {
            self.due_earlier.notify_one();
        }
    }

    /// Reports a store whose generation is older than one that this coordinator wrote: the metadata
    /// went back in time, and the committed offsets of the group with it (INV-C1).
    pub(super) fn check_stored_generation(&self, group_id: &str, given: i32, stored: i32) {
        // A group without a row was deleted and starts anew.
        if (1..given).contains(&stored) {
            self.shared.deps.metrics.record_violation(Invariant::C1);
            tracing::error!(
                group_id,
                given,
                stored,
                "the metadata store has an older generation of a group than this agent wrote"
            );
        }
    }

    /// Runs one transaction for this slot. Stops serving if the lease is lost.
    pub(super) async fn run_transaction<T>(
        &self,
        transaction: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, GroupWriteError> {
        let _under_way = self.writes.read().await;
        if self.retired.is_cancelled() {
            return Err(GroupWriteError::Refused(not_coordinator()));
        }
        let outcome = tokio::select! {
            biased;
            outcome = transaction => outcome,
            () = self.writes_abandoned.cancelled() => {
                Err(StoreError::Unavailable("no response before the slot moved to another agent".to_owned()))
            }
        };
        outcome.map_err(|error| match error {
            StoreError::Fenced(_) | StoreError::Sealed(_) | StoreError::UnknownPartition(_) => {
                tracing::warn!(slot = self.number, %error, "lost a coordinator slot");
                self.stop_serving();
                GroupWriteError::Refused(not_coordinator())
            }
            StoreError::IllegalGeneration { given, stored } => GroupWriteError::Generation { given, stored },
            error => GroupWriteError::Refused(error.into()),
        })
    }
}

/// Why a write failed.
#[derive(Debug)]
pub(super) enum GroupWriteError {
    /// The stored generation is not that of the group in memory.
    Generation {
        /// The generation in memory.
        given: i32,
        /// The stored generation.
        stored: i32,
    },
    /// The error for the client.
    Refused(Error),
}
