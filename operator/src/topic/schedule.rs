//! Schedules the passes of each cluster: shortly after a change, when a Topic is due for a retry,
//! and at the drift interval. Changes in quick succession result in one pass; passes of one cluster
//! never overlap. Time is passed in as an argument. Owned by the controller.

use std::{collections::HashMap, sync::Arc, time::Duration};

use streamhouse_core::time::Entropy;
use tokio::time::Instant;

use super::pass::{PassReport, PassState, ReadinessCounts};
use crate::metadata_stores::ClusterKey;

/// Changes within this time after the first one are handled by the same pass.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Delay after a pass that panicked.
const PANIC_RETRY_DELAY: Duration = Duration::from_secs(30);

/// The clusters and when they are due.
#[derive(Debug)]
pub(super) struct PassSchedule {
    clusters: HashMap<ClusterKey, ScheduleEntry>,
    interval: Duration,
    entropy: Arc<dyn Entropy>,
}

#[derive(Debug)]
struct ScheduleEntry {
    /// Moved to the pass while it runs.
    state: Option<PassState>,
    woken: Option<Instant>,
    retry_at: Option<Instant>,
    drift_at: Instant,
    counts: ReadinessCounts,
}

impl ScheduleEntry {
    fn due(&self) -> Instant {
        let asked = [self.woken, self.retry_at].into_iter().flatten();
        asked.fold(self.drift_at, Instant::min)
    }
}

/// A pass to start.
#[derive(Debug)]
pub(super) struct DuePass {
    pub(super) cluster: ClusterKey,
    pub(super) state: PassState,
    /// Whether the drift interval has passed.
    pub(super) refresh: bool,
}

impl PassSchedule {
    pub(super) fn new(interval: Duration, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            clusters: HashMap::new(),
            interval,
            entropy,
        }
    }

    /// Schedules a pass after a change of this cluster.
    pub(super) fn wake(&mut self, cluster: ClusterKey, now: Instant) {
        let drift_at = self.next_drift_at(now);
        let entry = self.clusters.entry(cluster).or_insert_with(|| ScheduleEntry {
            state: Some(PassState::default()),
            woken: None,
            retry_at: None,
            drift_at,
            counts: ReadinessCounts::default(),
        });
        entry.woken.get_or_insert(now + DEBOUNCE);
    }

    /// Schedules a pass of every cluster, because it is unknown which one has changed.
    pub(super) fn wake_all(&mut self, now: Instant) {
        for entry in self.clusters.values_mut() {
            entry.woken.get_or_insert(now + DEBOUNCE);
        }
    }

    /// Returns when the next pass can start.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let resting = self.clusters.values().filter(|entry| entry.state.is_some());
        resting.map(ScheduleEntry::due).min()
    }

    /// Takes the passes that are due.
    pub(super) fn start_due(&mut self, now: Instant) -> Vec<DuePass> {
        let drift_at = self.next_drift_at(now);
        let mut starts = Vec::new();
        for (cluster, entry) in &mut self.clusters {
            if entry.due() > now {
                continue;
            }
            let Some(memory) = entry.state.take() else {
                continue;
            };
            let refresh = entry.drift_at <= now;
            if refresh {
                entry.drift_at = drift_at;
            }
            (entry.woken, entry.retry_at) = (None, None);
            starts.push(DuePass {
                cluster: cluster.clone(),
                state: memory,
                refresh,
            });
        }
        starts
    }

    /// Records the end of a pass. `needed`: the cluster, or a Topic of it, still exists.
    pub(super) fn finish_pass(
        &mut self,
        cluster: &ClusterKey,
        memory: PassState,
        report: &PassReport,
        needed: bool,
    ) {
        let Some(entry) = self.clusters.get_mut(cluster) else {
            return;
        };
        if !needed && entry.woken.is_none() {
            self.clusters.remove(cluster);
            return;
        }
        entry.state = Some(memory);
        entry.retry_at = report.retry_at;
        entry.counts = report.counts;
    }

    /// Records a pass that panicked, whose state is lost.
    pub(super) fn fail_pass(&mut self, cluster: &ClusterKey, now: Instant) {
        if let Some(entry) = self.clusters.get_mut(cluster) {
            entry.state = Some(PassState::default());
            entry.retry_at = Some(now + PANIC_RETRY_DELAY);
        }
    }

    /// Returns the numbers of all Topics of all clusters.
    pub(super) fn total_counts(&self) -> ReadinessCounts {
        let mut sum = ReadinessCounts::default();
        for ScheduleEntry { counts: tally, .. } in self.clusters.values() {
            sum.ready += tally.ready;
            sum.not_ready += tally.not_ready;
            sum.unknown += tally.unknown;
        }
        sum
    }

    /// Returns the time after the interval with a jitter of a tenth, so that clusters do not run in
    /// lockstep.
    fn next_drift_at(&self, now: Instant) -> Instant {
        now + self.interval.mul_f64(0.9 + self.entropy.fraction() / 5.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(100);

    #[derive(Debug)]
    struct HalfEntropy;

    impl Entropy for HalfEntropy {
        fn next_u64(&self) -> u64 {
            1 << 63
        }
    }

    fn key() -> ClusterKey {
        ClusterKey::new("ns", "main")
    }

    fn woken() -> (PassSchedule, Instant) {
        let (mut schedule, now) = (PassSchedule::new(INTERVAL, Arc::new(HalfEntropy)), Instant::now());
        schedule.wake(key(), now);
        (schedule, now)
    }

    #[test]
    fn wakes_that_come_together_make_one_pass() {
        let (mut schedule, now) = woken();
        schedule.wake(key(), now + DEBOUNCE / 2);
        assert!(schedule.start_due(now).is_empty());
        assert_eq!(schedule.next_due(), Some(now + DEBOUNCE));
        assert_eq!(schedule.start_due(now + DEBOUNCE).len(), 1);
    }

    #[test]
    fn a_cluster_has_never_two_passes_at_once_and_a_wake_meanwhile_is_not_lost() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE).pop().unwrap();
        schedule.wake(key(), now + DEBOUNCE);
        assert_eq!(schedule.next_due(), None);
        assert!(schedule.start_due(now + INTERVAL * 2).is_empty());
        schedule.finish_pass(&key(), start.state, &PassReport::default(), false);
        assert_eq!(schedule.next_due(), Some(now + DEBOUNCE * 2));
    }

    #[test]
    fn without_a_wake_a_pass_comes_at_the_drift_interval_and_refreshes() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE).pop().unwrap();
        assert!(!start.refresh);
        schedule.finish_pass(&key(), start.state, &PassReport::default(), true);
        assert_eq!(schedule.next_due(), Some(now + INTERVAL));
        assert!(schedule.start_due(now + INTERVAL).pop().unwrap().refresh);
    }

    #[test]
    fn a_topic_to_try_again_brings_the_pass_forward() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE).pop().unwrap();
        let report = PassReport {
            retry_at: Some(now + INTERVAL / 2),
            ..PassReport::default()
        };
        schedule.finish_pass(&key(), start.state, &report, true);
        assert_eq!(schedule.next_due(), Some(now + INTERVAL / 2));
    }

    #[test]
    fn a_cluster_that_nobody_needs_is_forgotten() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE).pop().unwrap();
        schedule.finish_pass(&key(), start.state, &PassReport::default(), false);
        assert_eq!(schedule.next_due(), None);
        assert!(schedule.clusters.is_empty());
    }

    #[test]
    fn a_pass_that_broke_down_is_made_again_later() {
        let (mut schedule, now) = woken();
        drop(schedule.start_due(now + DEBOUNCE));
        schedule.fail_pass(&key(), now);
        assert_eq!(schedule.next_due(), Some(now + PANIC_RETRY_DELAY));
    }
}
