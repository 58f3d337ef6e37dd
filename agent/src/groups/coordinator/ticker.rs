//! The timer task of a slot: runs the timers of groups that are due, withdraws calls whose callers
//! are gone, and removes unused entries.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::{Duration, Instant, sleep_until};

use super::{
    change::AbsentGroup,
    not_coordinator,
    slot::{CoordinatorSlot, GroupEntry, GroupEntryState, NEVER_DUE},
};
use crate::groups::{
    any_group::AnyGroup,
    state::{GroupEffects, ReplyTicket},
};

/// Minimum sleep: the resolution of the timers.
const MIN_SLEEP_MS: i64 = 10;
/// Maximum sleep while there are entries: how soon unused ones are removed.
const MAX_SLEEP_MS: i64 = 1_000;

/// Runs until the slot is retired.
pub(super) async fn run(slot: Arc<CoordinatorSlot>) {
    loop {
        // Anything that becomes due during the scan wakes this task.
        slot.wake_at.store(NEVER_DUE, Ordering::Release);
        let wakes = start_due_timers(&slot);
        slot.wake_at.store(wakes, Ordering::Release);
        let sleep = async {
            match u64::try_from(wakes) {
                Ok(_) if wakes == NEVER_DUE => std::future::pending().await,
                Ok(wakes) => sleep_until(slot.shared.start + Duration::from_millis(wakes)).await,
                Err(_) => {}
            }
        };
        let earliest = Instant::now() + Duration::from_millis(MIN_SLEEP_MS.unsigned_abs());
        tokio::select! {
            () = slot.retired.cancelled() => return,
            () = sleep => {}
            () = slot.due_earlier.notified() => {}
        }
        sleep_until(earliest).await;
    }
}

/// Starts the timers that are due, and returns when to look again.
fn start_due_timers(slot: &Arc<CoordinatorSlot>) -> i64 {
    let now = slot.shared.now_ms();
    let mut due = Vec::new();
    let mut next = NEVER_DUE;
    {
        let mut cells = slot.entries.lock();
        cells.retain(|_, cell| cell.due() != NEVER_DUE || !cell.is_unused());
        for cell in cells.values() {
            if cell.due() <= now {
                due.push(cell.clone());
            } else {
                next = next.min(cell.due());
            }
        }
        if !cells.is_empty() {
            next = next.min(now.saturating_add(MAX_SLEEP_MS));
        }
    }
    for cell in due {
        // A group that is being changed gets its new due time from that change; look again soon.
        match cell.state.clone().try_lock_owned() {
            Ok(state) => drop(tokio::spawn(run_group_timers(slot.clone(), cell, state))),
            Err(_) => next = next.min(now.saturating_add(MIN_SLEEP_MS)),
        }
    }
    next
}

async fn run_group_timers(
    slot: Arc<CoordinatorSlot>,
    cell: Arc<GroupEntry>,
    state: tokio::sync::OwnedMutexGuard<GroupEntryState>,
) {
    let gone: Vec<ReplyTicket> = state
        .waiting
        .iter()
        .filter(|(_, w)| w.is_closed())
        .map(|(ticket, _)| *ticket)
        .collect();
    let change = move |group: &mut AnyGroup, now| {
        let mut all = GroupEffects::default();
        for ticket in gone {
            merge_effects(&mut all, group.withdraw(now, ticket));
            // The receiver is gone: the reply only removes the waiter, after the change is in
            // place.
            all.replies.push((ticket, Err(not_coordinator())));
        }
        merge_effects(&mut all, group.expire(now));
        Ok(all)
    };
    if let Err(error) = slot
        .apply_change_locked(&cell, state, AbsentGroup::Empty, None, change)
        .await
    {
        tracing::debug!(group_id = &*cell.id, %error, "a group's timers failed; they run again later");
    }
}

fn merge_effects(all: &mut GroupEffects, more: GroupEffects) {
    all.persist |= more.persist;
    all.replies.extend(more.replies);
}
