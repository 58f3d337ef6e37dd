//! Applies one change to one group: to a copy, stored if it must survive, then put in place and
//! answered. A change that has begun completes even if its caller is cancelled, so that memory and
//! store never diverge.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use streamhouse_metadata::{GroupQuery, GroupWrite};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::slot::{Cell, NEVER, Slot, State, WriteError};
use crate::groups::state::{Effects, Group, Reply, Ticket};

/// The error for members while the stored generation is ahead of the one in memory.
pub(super) fn rebalancing() -> Error {
    Error::new(
        ErrorCode::RebalanceInProgress,
        "the group is rebalancing; join again",
    )
}

/// Pause of a group's timers after a failed write, in milliseconds.
const REST_MS: i64 = 250;

/// A call that waits for the reply to its ticket.
pub(super) type Waiter = (Ticket, oneshot::Sender<Result<Reply, Error>>);

/// How a change treats a group that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// The group is read from the store.
    Read,
    /// The group has no members: the change is applied to an empty group.
    Empty,
}

impl Slot {
    /// Applies `change`. The `waiter`, if given, is answered by this change or by a later one.
    ///
    /// # Errors
    /// The error of the change or of the store; `waiter` is dropped without an answer then.
    pub(super) async fn change<F>(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        absent: Absent,
        waiter: Option<Waiter>,
        change: F,
    ) -> Result<(), Error>
    where
        F: FnOnce(&mut Group, i64) -> Result<Effects, Error> + Send + 'static,
    {
        let (slot, cell) = (self.clone(), cell.clone());
        let task = tokio::spawn(async move {
            let state = cell.state.clone().lock_owned().await;
            slot.change_locked(&cell, state, absent, waiter, change).await
        });
        task.await.map_err(|_| {
            Error::new(
                ErrorCode::Unknown,
                "an unexpected failure; the agent's log has the cause",
            )
        })?
    }

    /// Like [`change`](Self::change), for a caller that has locked the group and is not cancelled.
    pub(super) async fn change_locked<F>(
        &self,
        cell: &Cell,
        mut state: OwnedMutexGuard<State>,
        absent: Absent,
        waiter: Option<Waiter>,
        change: F,
    ) -> Result<(), Error>
    where
        F: FnOnce(&mut Group, i64) -> Result<Effects, Error>,
    {
        self.check()?;
        let mut group = match (&state.group, absent) {
            (Some(group), _) => group.clone(),
            (None, Absent::Read) => self.read_one(cell).await?,
            (None, Absent::Empty) => Group::new(self.shared.parts.limits.rules(), 0),
        };
        let now = self.shared.now();
        let mut effects = change(&mut group, now)?;
        if effects.persist
            && let Err(error) = self.store(cell, &group).await
        {
            let error = self.settle(cell, &mut state, error);
            let due = state.group.as_ref().and_then(Group::deadline).unwrap_or(NEVER);
            self.set_due(cell, due.max(self.shared.now().saturating_add(REST_MS)));
            return Err(error);
        }
        let due = group.deadline().unwrap_or(NEVER);
        state.put(Some(group));
        state.waiting.extend(waiter);
        for (ticket, reply) in effects.replies.drain(..) {
            if let Some(waiter) = state.waiting.remove(&ticket) {
                let _ = waiter.send(reply);
            }
        }
        self.set_due(cell, due);
        // Checked after the due time is set: a caller that leaves from now on sets it again.
        if state.waiting.values().any(oneshot::Sender::is_closed) {
            self.set_due(cell, now);
        }
        Ok(())
    }

    /// Handles a failed write: the group in memory stays, unless the stored generation is ahead of
    /// it.
    fn settle(&self, cell: &Cell, state: &mut State, error: WriteError) -> Error {
        match error {
            WriteError::Refused(error) => error,
            WriteError::Generation { stored, .. } => {
                self.catch_up(cell, state, stored);
                rebalancing()
            }
        }
    }

    /// Catches up with a write whose outcome was unknown and which did happen.
    pub(super) fn catch_up(&self, cell: &Cell, state: &mut State, stored: i32) {
        let Some(mut group) = state.group.take() else {
            return;
        };
        let effects = group.catch_up(self.shared.now(), stored);
        let due = group.deadline().unwrap_or(NEVER);
        state.put(Some(group));
        self.set_due(cell, due);
        for (ticket, reply) in effects.replies {
            if let Some(waiter) = state.waiting.remove(&ticket) {
                let _ = waiter.send(reply);
            }
        }
    }

    async fn store(&self, cell: &Cell, group: &Group) -> Result<(), WriteError> {
        let record = group.record();
        let write = GroupWrite {
            group_id: cell.id.to_string(),
            slot: self.number,
            generation: record.generation,
            state: Some(record.state),
        };
        self.write(self.shared.parts.store.put_group(self.lease, &write))
            .await
    }

    async fn read_one(&self, cell: &Cell) -> Result<Group, Error> {
        let records = self
            .shared
            .parts
            .store
            .groups(&GroupQuery::Id(cell.id.to_string()))
            .await?;
        // Groups with members are in memory since the slot was loaded, so the stored members were
        // dropped on purpose.
        let generation = records.first().map_or(0, |record| record.generation);
        Ok(Group::new(self.shared.parts.limits.rules(), generation))
    }
}
