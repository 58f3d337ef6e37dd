//! What the coordinator tells of its groups for alerts: how far each is behind, who is in it, in which state it is. It asks the
//! metadata store once for all slots, every few seconds and never for a scrape. So the lag of a group is told when every
//! consumer of it is dead, by whoever coordinates it then.

use std::{sync::Arc, time::Duration};

use streamhouse_metadata::Error as StoreError;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Coordinator, slot::Slot};
use crate::metrics::{GroupCondition, GroupProgress, GroupsReport};

/// How often.
const EVERY: Duration = Duration::from_secs(10);
/// How long a group that is being changed is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rows asked for: far more than series that are shown.
const MOST_ROWS: usize = 10_000;
/// The state of a group that is not in memory, because nobody is in it.
const EMPTY: &str = "Empty";

impl Coordinator {
    /// Reports every few seconds, until dropped. While the store fails what was told last stays.
    pub async fn keep_reporting(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(EVERY, self.report()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the lag of groups is not known at the moment"),
                Err(_) => tracing::debug!("the lag of groups is not known in time"),
            }
        }
    }

    /// Tells the metrics of every group of the slots that this agent leads now.
    pub async fn report(&self) -> Result<(), StoreError> {
        let slots = self.slots.read().values().cloned().collect::<Vec<_>>();
        let slots: Vec<Arc<Slot>> = slots.into_iter().filter(|slot| slot.check().is_ok()).collect();
        let mut report = GroupsReport::default();
        if !slots.is_empty() {
            let numbers: Vec<i32> = slots.iter().map(|slot| slot.number).collect();
            for row in self.parts().store.group_lags(&numbers, MOST_ROWS).await? {
                let empty = GroupCondition {
                    state: EMPTY,
                    members: 0,
                };
                report.conditions.insert(row.group_id.clone(), empty);
                let (committed, lag) = (row.committed, row.lag);
                let progress = GroupProgress { committed, lag };
                report.progress.insert((row.group_id, row.topic), progress);
            }
        }
        for slot in &slots {
            let cells: Vec<_> = slot.cells.lock().values().cloned().collect();
            for cell in cells {
                match timeout(PATIENCE, cell.state.lock()).await {
                    Ok(state) => {
                        if let Some(group) = &state.group {
                            let condition = GroupCondition {
                                state: group.state(),
                                members: group.member_count(),
                            };
                            report.conditions.insert(cell.id.to_string(), condition);
                        }
                    }
                    // Not known is not empty.
                    Err(_) => drop(report.conditions.remove(&*cell.id)),
                }
            }
        }
        self.parts().metrics.set_groups(&report);
        Ok(())
    }
}
