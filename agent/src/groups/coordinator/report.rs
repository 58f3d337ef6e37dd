//! Group metrics for alerts: lag, members and state of each group. Read from the metadata store
//! with one query for all slots every few seconds, never during a scrape. The lag of a group is
//! therefore reported by its coordinator even if all of its consumers are gone.

use std::{sync::Arc, time::Duration};

use streamhouse_metadata::Error as StoreError;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{GroupCoordinator, slot::CoordinatorSlot};
use crate::metrics::{GroupProgress, GroupStatus, GroupsReport};

/// Interval of the reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum wait for a group that is being changed.
const GROUP_LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of rows read: far more than the number of series.
const MAX_LAG_ROWS: usize = 10_000;
/// State of a group without members, which is not in memory.
const EMPTY_STATE: &str = "Empty";

impl GroupCoordinator {
    /// Updates the metrics every few seconds, until dropped. The last values stay while the store
    /// fails.
    pub async fn run_reports(&self) {
        let mut ticks = interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match timeout(REPORT_INTERVAL, self.report_once()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "group lag could not be read"),
                Err(_) => tracing::debug!("group lag was not read in time"),
            }
        }
    }

    /// Updates the metrics of every group of the slots that this agent leads.
    ///
    /// # Errors
    /// Fails if the metadata store does; the metrics are unchanged then.
    pub async fn report_once(&self) -> Result<(), StoreError> {
        let slots = self.slots.read().values().cloned().collect::<Vec<_>>();
        let slots: Vec<Arc<CoordinatorSlot>> = slots
            .into_iter()
            .filter(|slot| slot.ensure_serving().is_ok())
            .collect();
        let mut report = GroupsReport::default();
        if !slots.is_empty() {
            let numbers: Vec<i32> = slots.iter().map(|slot| slot.number).collect();
            for row in self.deps().store.group_lags(&numbers, MAX_LAG_ROWS).await? {
                let empty = GroupStatus {
                    state: EMPTY_STATE,
                    members: 0,
                };
                report.conditions.insert(row.group_id.clone(), empty);
                let (committed, lag) = (row.committed, row.lag);
                let progress = GroupProgress { committed, lag };
                report.progress.insert((row.group_id, row.topic), progress);
            }
        }
        for slot in &slots {
            let cells: Vec<_> = slot.entries.lock().values().cloned().collect();
            for cell in cells {
                match timeout(GROUP_LOCK_TIMEOUT, cell.state.lock()).await {
                    Ok(state) => {
                        if let Some(group) = &state.group {
                            let condition = GroupStatus {
                                state: group.state_name(),
                                members: group.member_count(),
                            };
                            report.conditions.insert(cell.id.to_string(), condition);
                        }
                    }
                    // An unknown state must not be reported as empty.
                    Err(_) => drop(report.conditions.remove(&*cell.id)),
                }
            }
        }
        self.deps().metrics.set_groups(&report);
        Ok(())
    }
}
