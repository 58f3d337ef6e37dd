//! One coordinator slot under one lease: its groups in memory, and the gate that every write goes through. When the slot is
//! over, nothing is written for it any more and everybody who waits is told.

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

use super::{Shared, not_coordinator, ticker};
use crate::{
    groups::state::{Group, Reply, Ticket},
    invariant::Invariant,
};

/// How long what is being written may take once the slot is over.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// A due time that never comes.
pub(super) const NEVER: i64 = i64::MAX;

/// A slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    pub(super) number: i32,
    pub(super) lease: Lease,
    loaded: AtomicBool,
    pub(super) over: CancellationToken,
    /// Cancelled when what is being written has had its time.
    given_up: CancellationToken,
    pub(super) cells: Mutex<HashMap<Arc<str>, Arc<Cell>>>,
    /// Held for reading by writes to the store: who gets it for writing knows that none is under way.
    writes: RwLock<()>,
    /// Wakes the ticker when something is due earlier than it thought.
    pub(super) sooner: Notify,
    /// Until when the ticker sleeps.
    pub(super) wakes: AtomicI64,
}

/// One group's place in a slot.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) id: Arc<str>,
    pub(super) state: Arc<tokio::sync::Mutex<State>>,
    /// Commits of one group go one after the other, in the order they came (INV-C1). Taken before `state`.
    pub(super) commits: Arc<tokio::sync::Mutex<()>>,
    /// When the group's timers have something to do.
    due: AtomicI64,
}

/// A group in memory, and who waits for it.
pub(super) struct State {
    shared: Arc<Shared>,
    /// `None` while nobody is in it: what there is to know is in the store.
    pub(super) group: Option<Group>,
    pub(super) waiting: HashMap<Ticket, oneshot::Sender<Result<Reply, Error>>>,
    /// What it takes of [`Shared::bytes`].
    charged: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("group", &self.group)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Puts the group in place; one without members is forgotten, the store has it.
    pub(super) fn put(&mut self, group: Option<Group>) {
        self.group = group.filter(|group| !group.is_vacant());
        let bytes = self.group.as_ref().map_or(0, Group::bytes);
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(self.charged, Ordering::Relaxed);
        self.charged = bytes;
    }

    fn is_idle(&self) -> bool {
        self.group.is_none() && self.waiting.is_empty()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.shared.bytes.fetch_sub(self.charged, Ordering::Relaxed);
    }
}

impl Cell {
    fn new(shared: Arc<Shared>, id: Arc<str>) -> Self {
        let state = State {
            shared,
            group: None,
            waiting: HashMap::new(),
            charged: 0,
        };
        Self {
            id,
            state: Arc::new(tokio::sync::Mutex::new(state)),
            commits: Arc::default(),
            due: AtomicI64::new(NEVER),
        }
    }

    pub(super) fn due(&self) -> i64 {
        self.due.load(Ordering::Acquire)
    }

    /// Nobody uses it, and nothing is in it.
    pub(super) fn is_unused(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && self.state.try_lock().is_ok_and(|state| state.is_idle())
    }
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, number: i32, lease: Lease) -> Arc<Self> {
        Arc::new(Self {
            shared,
            number,
            lease,
            loaded: AtomicBool::new(false),
            over: CancellationToken::new(),
            given_up: CancellationToken::new(),
            cells: Mutex::default(),
            writes: RwLock::new(()),
            sooner: Notify::new(),
            wakes: AtomicI64::new(NEVER),
        })
    }

    /// Reads the groups that have members, then serves. Returns how many.
    pub(super) async fn load(self: &Arc<Self>) -> Result<usize, StoreError> {
        let records = self
            .shared
            .parts
            .store
            .groups(&GroupQuery::Slot(self.number))
            .await?;
        let now = self.shared.now();
        let mut groups = 0;
        for record in records.into_iter().filter(|record| !record.state.is_empty()) {
            let cell = self.cell(&record.group_id);
            let mut state = cell.state.lock().await;
            let group = self.read(&record.group_id, record.generation, &record.state, now);
            let due = group.deadline();
            state.put(Some(group));
            drop(state);
            self.set_due(&cell, due.unwrap_or(NEVER));
            groups += 1;
        }
        self.loaded.store(true, Ordering::Release);
        tokio::spawn(ticker::run(self.clone()));
        Ok(groups)
    }

    /// The stored group. One that cannot be read goes on without members, who will join again.
    pub(super) fn read(&self, group_id: &str, generation: i32, state: &[u8], now: i64) -> Group {
        let rules = self.shared.parts.limits.rules();
        Group::load(rules, generation, state, now).unwrap_or_else(|error| {
            tracing::error!(group_id, %error, "the group's members are forgotten and have to join again");
            Group::new(rules, generation)
        })
    }

    /// Whether it serves.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.over.is_cancelled() {
            return Err(not_coordinator());
        }
        if !self.loaded.load(Ordering::Acquire) {
            let error = Error::new(
                ErrorCode::CoordinatorLoadInProgress,
                "the coordinator is still reading its groups",
            );
            return Err(error.with_retry_after_ms(50));
        }
        Ok(())
    }

    /// Nothing is promised any more. Writes under way are fenced by the lease, or succeed while it still holds.
    pub(super) fn drop_out(&self) {
        self.over.cancel();
    }

    /// Nothing is promised any more, and when this returns nothing is written either. What the store does not answer in
    /// time is given up: the lease fences it, and its callers are told that nobody knows.
    pub(super) async fn retire(&self) {
        self.drop_out();
        if timeout(LAST_WRITES, self.writes.write()).await.is_err() {
            tracing::warn!(
                slot = self.number,
                "the metadata store does not answer; giving a group's write up"
            );
            self.given_up.cancel();
        }
        let _none_under_way = self.writes.write().await;
        self.cells.lock().clear();
    }

    /// The group's place, made when there is none.
    pub(super) fn cell(&self, group_id: &str) -> Arc<Cell> {
        let mut cells = self.cells.lock();
        if let Some(cell) = cells.get(group_id) {
            return cell.clone();
        }
        let id: Arc<str> = group_id.into();
        let cell = Arc::new(Cell::new(self.shared.clone(), id.clone()));
        cells.insert(id, cell.clone());
        if self.wakes.load(Ordering::Acquire) == NEVER {
            // The ticker sleeps as if there were nothing; it is to clear this place away some day.
            self.sooner.notify_one();
        }
        cell
    }

    /// The group's place, if there is one.
    pub(super) fn find(&self, group_id: &str) -> Option<Arc<Cell>> {
        self.cells.lock().get(group_id).cloned()
    }

    /// Says when the group's timers have something to do.
    pub(super) fn set_due(&self, cell: &Cell, due: i64) {
        cell.due.store(due, Ordering::Release);
        if due < self.wakes.load(Ordering::Acquire) {
            self.sooner.notify_one();
        }
    }

    /// Says so when the store is in an older generation than one that this coordinator wrote: the metadata went back in
    /// time, and with it what the group had committed (INV-C1).
    pub(super) fn distrust_older(&self, group_id: &str, given: i32, stored: i32) {
        // A group without a row was deleted, and begins anew.
        if (1..given).contains(&stored) {
            self.shared.parts.metrics.violated(Invariant::C1);
            tracing::error!(
                group_id,
                given,
                stored,
                "the metadata store has an older generation of a group than we wrote"
            );
        }
    }

    /// Runs one transaction for this slot. When the lease is lost the slot is over.
    pub(super) async fn write<T>(
        &self,
        transaction: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, WriteError> {
        let _under_way = self.writes.read().await;
        if self.over.is_cancelled() {
            return Err(WriteError::Refused(not_coordinator()));
        }
        let outcome = tokio::select! {
            biased;
            outcome = transaction => outcome,
            () = self.given_up.cancelled() => {
                Err(StoreError::Unavailable("it did not answer before the slot went to another agent".to_owned()))
            }
        };
        outcome.map_err(|error| match error {
            StoreError::Fenced(_) | StoreError::Sealed(_) | StoreError::UnknownPartition(_) => {
                tracing::warn!(slot = self.number, %error, "lost a slot of groups");
                self.drop_out();
                WriteError::Refused(not_coordinator())
            }
            StoreError::IllegalGeneration { given, stored } => WriteError::Generation { given, stored },
            error => WriteError::Refused(error.into()),
        })
    }
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The store is in another generation than the group in memory.
    Generation {
        /// Ours.
        given: i32,
        /// The store's.
        stored: i32,
    },
    /// For the client.
    Refused(Error),
}
