//! Applies one change to one group: to a copy, stored if it must survive, then put in place and
//! answered. A change that has begun completes even if its caller is cancelled, so that memory and
//! store never diverge.

use std::sync::Arc;

use streamhouse_core::{Error, ErrorCode};
use streamhouse_metadata::GroupQuery;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::slot::{CoordinatorSlot, GroupEntry, GroupEntryState, GroupWriteError, NEVER_DUE};
use crate::groups::{
    any_group::AnyGroup,
    state::{GroupEffects, GroupReply, ReplyTicket},
};

/// The error for members while the stored generation is ahead of the one in memory.
pub(super) fn rebalance_in_progress() -> Error {
    Error::new(
        ErrorCode::RebalanceInProgress,
        "the group is rebalancing; join again",
    )
}

/// Pause of a group's timers after a failed write, in milliseconds.
const RETRY_PAUSE_MS: i64 = 250;

/// A call that waits for the reply to its ticket.
pub(super) type ReplyWaiter = (ReplyTicket, oneshot::Sender<Result<GroupReply, Error>>);

/// How a change treats a group that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AbsentGroup {
    /// The group is read from the store.
    Read,
    /// The group has no members: the change is applied to an empty group.
    Empty,
}

impl CoordinatorSlot {
    /// Applies `change`. The `waiter`, if given, is answered by this change or by a later
    /// one.
    ///
    /// # Errors
    /// The error of the change or of the store; `waiter` is dropped without an answer then.
    pub(super) async fn apply_change<F>(
        self: &Arc<Self>,
        cell: &Arc<GroupEntry>,
        absent: AbsentGroup,
        waiter: Option<ReplyWaiter>,
        change: F,
    ) -> Result<(), Error>
    where
        F: FnOnce(&mut AnyGroup, i64) -> Result<GroupEffects, Error> + Send + 'static,
    {
        let (slot, cell) = (self.clone(), cell.clone());
        let task = tokio::spawn(async move {
            let state = cell.state.clone().lock_owned().await;
            slot.apply_change_locked(&cell, state, absent, waiter, change)
                .await
        });
        task.await.map_err(|_| {
            Error::new(
                ErrorCode::Unknown,
                "an unexpected failure; the agent's log has the cause",
            )
        })?
    }

    /// Like [`apply_change`](Self::apply_change), for a caller that has locked the group and is not
    /// cancelled.
    pub(super) async fn apply_change_locked<F>(
        &self,
        cell: &GroupEntry,
        mut state: OwnedMutexGuard<GroupEntryState>,
        absent: AbsentGroup,
        waiter: Option<ReplyWaiter>,
        change: F,
    ) -> Result<(), Error>
    where
        F: FnOnce(&mut AnyGroup, i64) -> Result<GroupEffects, Error>,
    {
        self.ensure_serving()?;
        let mut group = match (&state.group, absent) {
            (Some(group), _) => group.clone(),
            (None, AbsentGroup::Read) => self.load_absent_group(cell).await?,
            (None, AbsentGroup::Empty) => AnyGroup::new(&self.shared.deps.limits),
        };
        let now = self.shared.now_ms();
        let mut effects = change(&mut group, now)?;
        if effects.persist
            && let Err(error) = self.store_group(cell, &group).await
        {
            let error = self.handle_write_error(cell, &mut state, error);
            let due = state
                .group
                .as_ref()
                .and_then(AnyGroup::deadline)
                .unwrap_or(NEVER_DUE);
            self.set_due(cell, due.max(self.shared.now_ms().saturating_add(RETRY_PAUSE_MS)));
            return Err(error);
        }
        let due = group.deadline().unwrap_or(NEVER_DUE);
        state.set_group(Some(group));
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
    fn handle_write_error(
        &self,
        cell: &GroupEntry,
        state: &mut GroupEntryState,
        error: GroupWriteError,
    ) -> Error {
        match error {
            GroupWriteError::Refused(error) => error,
            GroupWriteError::Generation { stored, .. } => {
                self.catch_up(cell, state, stored);
                rebalance_in_progress()
            }
        }
    }

    /// Catches up with a write whose outcome was unknown and which did happen.
    pub(super) fn catch_up(&self, cell: &GroupEntry, state: &mut GroupEntryState, stored: i32) {
        let Some(mut group) = state.group.take() else {
            return;
        };
        let effects = group.catch_up(self.shared.now_ms(), stored);
        let due = group.deadline().unwrap_or(NEVER_DUE);
        state.set_group(Some(group));
        self.set_due(cell, due);
        for (ticket, reply) in effects.replies {
            if let Some(waiter) = state.waiting.remove(&ticket) {
                let _ = waiter.send(reply);
            }
        }
    }

    async fn store_group(&self, cell: &GroupEntry, group: &AnyGroup) -> Result<(), GroupWriteError> {
        let write = group.to_write(&cell.id, self.number);
        self.run_transaction(self.shared.deps.store.put_group(self.lease, &write))
            .await
    }

    async fn load_absent_group(&self, cell: &GroupEntry) -> Result<AnyGroup, Error> {
        let records = self
            .shared
            .deps
            .store
            .groups(&GroupQuery::Id(cell.id.to_string()))
            .await?;
        // Groups with members are in memory since the slot was loaded, so the stored members were
        // dropped on purpose.
        let limits = &self.shared.deps.limits;
        Ok(records.first().map_or_else(
            || AnyGroup::new(limits),
            |record| AnyGroup::without_members(limits, record.generation, &record.state),
        ))
    }
}
