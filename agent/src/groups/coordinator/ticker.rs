//! The timer task of a slot: runs the timers of groups that are due, withdraws calls whose callers
//! are gone, and removes unused entries.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::{Duration, Instant, sleep_until};

use super::{
    change::Absent,
    not_coordinator,
    slot::{Cell, NEVER, Slot, State},
};
use crate::groups::state::{Effects, Group, Ticket};

/// Minimum sleep: the resolution of the timers.
const SHORTEST_MS: i64 = 10;
/// Maximum sleep while there are entries: how soon unused ones are removed.
const LONGEST_MS: i64 = 1_000;

/// Runs until the slot is retired.
pub(super) async fn run(slot: Arc<Slot>) {
    loop {
        // Anything that becomes due during the scan wakes this task.
        slot.wakes.store(NEVER, Ordering::Release);
        let wakes = look(&slot);
        slot.wakes.store(wakes, Ordering::Release);
        let sleep = async {
            match u64::try_from(wakes) {
                Ok(_) if wakes == NEVER => std::future::pending().await,
                Ok(wakes) => sleep_until(slot.shared.start + Duration::from_millis(wakes)).await,
                Err(_) => {}
            }
        };
        let earliest = Instant::now() + Duration::from_millis(SHORTEST_MS.unsigned_abs());
        tokio::select! {
            () = slot.over.cancelled() => return,
            () = sleep => {}
            () = slot.sooner.notified() => {}
        }
        sleep_until(earliest).await;
    }
}

/// Starts the timers that are due, and returns when to look again.
fn look(slot: &Arc<Slot>) -> i64 {
    let now = slot.shared.now();
    let mut due = Vec::new();
    let mut next = NEVER;
    {
        let mut cells = slot.cells.lock();
        cells.retain(|_, cell| cell.due() != NEVER || !cell.is_unused());
        for cell in cells.values() {
            if cell.due() <= now {
                due.push(cell.clone());
            } else {
                next = next.min(cell.due());
            }
        }
        if !cells.is_empty() {
            next = next.min(now.saturating_add(LONGEST_MS));
        }
    }
    for cell in due {
        // A group that is being changed gets its new due time from that change; look again soon.
        match cell.state.clone().try_lock_owned() {
            Ok(state) => drop(tokio::spawn(expire(slot.clone(), cell, state))),
            Err(_) => next = next.min(now.saturating_add(SHORTEST_MS)),
        }
    }
    next
}

async fn expire(slot: Arc<Slot>, cell: Arc<Cell>, state: tokio::sync::OwnedMutexGuard<State>) {
    let gone: Vec<Ticket> = state
        .waiting
        .iter()
        .filter(|(_, w)| w.is_closed())
        .map(|(ticket, _)| *ticket)
        .collect();
    let change = move |group: &mut Group, now| {
        let mut all = Effects::default();
        for ticket in gone {
            merge(&mut all, group.withdraw(now, ticket));
            // The receiver is gone: the reply only removes the waiter, after the change is in
            // place.
            all.replies.push((ticket, Err(not_coordinator())));
        }
        merge(&mut all, group.expire(now));
        Ok(all)
    };
    if let Err(error) = slot
        .change_locked(&cell, state, Absent::Empty, None, change)
        .await
    {
        tracing::debug!(group_id = &*cell.id, %error, "a group's timers failed; they run again later");
    }
}

fn merge(all: &mut Effects, more: Effects) {
    all.persist |= more.persist;
    all.replies.extend(more.replies);
}
