//! One change of one group: in a copy, stored where it must survive, then put in place and answered. Once begun it goes on to
//! its end, also when the call that began it is cancelled: memory and store never part.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use streamhouse_metadata::{GroupQuery, GroupWrite};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::slot::{Cell, NEVER, Slot, State, WriteError};
use crate::groups::state::{Effects, Group, Reply, Ticket};

/// What members are told while the store is ahead of the group in memory.
pub(super) fn rebalancing() -> Error {
    Error::new(ErrorCode::RebalanceInProgress, "the group rebalances; join again")
}

/// How long the timers of a group rest after storing it failed, in milliseconds.
const REST_MS: i64 = 250;

/// Somebody who waits for an answer.
pub(super) type Waiter = (Ticket, oneshot::Sender<Result<Reply, Error>>);

/// What a group that is not in memory means for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// It is read from the store.
    Read,
    /// It has no members: the change finds an empty group.
    Empty,
}

impl Slot {
    /// Carries `change` out. `waiter`, if there is one, is answered when the change or a later one says so; when this fails,
    /// it is not.
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

    /// The same for a caller who has the group locked and will not be cancelled.
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
        // Checked after the due time is set: who goes away from now on sets it again.
        if state.waiting.values().any(oneshot::Sender::is_closed) {
            self.set_due(cell, now);
        }
        Ok(())
    }

    /// Takes back what was not stored: the group in memory stays, unless the store turns out to be ahead of it.
    fn settle(&self, cell: &Cell, state: &mut State, error: WriteError) -> Error {
        match error {
            WriteError::Refused(error) => error,
            WriteError::Generation { stored, .. } => {
                self.catch_up(cell, state, stored);
                rebalancing()
            }
        }
    }

    /// A write whose outcome was unknown did happen after all: the group goes on from there.
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
        // Groups with members are in memory since the slot was loaded: what this state says was forgotten on purpose.
        let generation = records.first().map_or(0, |record| record.generation);
        Ok(Group::new(self.shared.parts.limits.rules(), generation))
    }
}
