//! Schedules the passes of each cluster: shortly after a change, when a Topic is due for a retry,
//! and at the drift interval. Changes in quick succession result in one pass; passes of one cluster
//! never overlap. Time is passed in as an argument. Owned by the controller.

use std::{collections::HashMap, sync::Arc, time::Duration};

use streamhouse_core::time::Entropy;
use tokio::time::Instant;

use super::{
    pass::{PassReport, PassState, ReadinessCounts},
    refresh::RefreshTurn,
};
use crate::metadata_stores::ClusterKey;

/// Changes within this time after the first one are handled by the same pass.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Number of passes that run concurrently. Each holds the topics of its cluster in memory.
const MAX_CONCURRENT_PASSES: usize = 16;
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
    /// The Topics whose records and sizes are updated by the next pass at the drift interval.
    turn: RefreshTurn,
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
    /// The Topics whose records and sizes are updated, if the drift interval has passed.
    pub(super) refresh: Option<RefreshTurn>,
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
            turn: RefreshTurn::default(),
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

    /// Returns when the next pass of a cluster that is `ready` for one can start; `None` while as
    /// many run as may run concurrently.
    pub(super) fn next_due(&self, ready: impl Fn(&ClusterKey) -> bool) -> Option<Instant> {
        if self.free_passes() == 0 {
            return None;
        }
        let resting = self
            .clusters
            .iter()
            .filter(|(cluster, entry)| entry.state.is_some() && ready(cluster));
        resting.map(|(_, entry)| entry.due()).min()
    }

    /// Returns how many more passes may run.
    fn free_passes(&self) -> usize {
        let running = self.clusters.values().filter(|entry| entry.state.is_none());
        MAX_CONCURRENT_PASSES.saturating_sub(running.count())
    }

    /// Takes the passes that are due of clusters that are `ready`, the longest due first.
    pub(super) fn start_due(&mut self, now: Instant, ready: impl Fn(&ClusterKey) -> bool) -> Vec<DuePass> {
        let free = self.free_passes();
        let drift_at = self.next_drift_at(now);
        let mut starts = Vec::new();
        let mut due: Vec<_> = self
            .clusters
            .iter_mut()
            .filter(|(cluster, entry)| entry.state.is_some() && entry.due() <= now && ready(cluster))
            .collect();
        due.sort_by_key(|(_, entry)| entry.due());
        for (cluster, entry) in due.into_iter().take(free) {
            let Some(memory) = entry.state.take() else {
                continue;
            };
            let refresh = (entry.drift_at <= now).then_some(entry.turn);
            if refresh.is_some() {
                entry.drift_at = drift_at;
                entry.turn = entry.turn.next();
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
            sum.failing += tally.failing;
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
        assert!(schedule.start_due(now, |_| true).is_empty());
        assert_eq!(schedule.next_due(|_| true), Some(now + DEBOUNCE));
        assert_eq!(schedule.start_due(now + DEBOUNCE, |_| true).len(), 1);
    }

    #[test]
    fn a_cluster_has_never_two_passes_at_once_and_a_wake_meanwhile_is_not_lost() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE, |_| true).pop().unwrap();
        schedule.wake(key(), now + DEBOUNCE);
        assert_eq!(schedule.next_due(|_| true), None);
        assert!(schedule.start_due(now + INTERVAL * 2, |_| true).is_empty());
        schedule.finish_pass(&key(), start.state, &PassReport::default(), false);
        assert_eq!(schedule.next_due(|_| true), Some(now + DEBOUNCE * 2));
    }

    #[test]
    fn without_a_wake_a_pass_comes_at_the_drift_interval_and_refreshes() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE, |_| true).pop().unwrap();
        assert_eq!(start.refresh, None);
        schedule.finish_pass(&key(), start.state, &PassReport::default(), true);
        assert_eq!(schedule.next_due(|_| true), Some(now + INTERVAL));
        assert!(
            schedule
                .start_due(now + INTERVAL, |_| true)
                .pop()
                .unwrap()
                .refresh
                .is_some()
        );
    }

    #[test]
    fn a_topic_to_try_again_brings_the_pass_forward() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE, |_| true).pop().unwrap();
        let report = PassReport {
            retry_at: Some(now + INTERVAL / 2),
            ..PassReport::default()
        };
        schedule.finish_pass(&key(), start.state, &report, true);
        assert_eq!(schedule.next_due(|_| true), Some(now + INTERVAL / 2));
    }

    #[test]
    fn a_cluster_that_nobody_needs_is_forgotten() {
        let (mut schedule, now) = woken();
        let start = schedule.start_due(now + DEBOUNCE, |_| true).pop().unwrap();
        schedule.finish_pass(&key(), start.state, &PassReport::default(), false);
        assert_eq!(schedule.next_due(|_| true), None);
        assert!(schedule.clusters.is_empty());
    }

    #[test]
    fn a_pass_that_broke_down_is_made_again_later() {
        let (mut schedule, now) = woken();
        drop(schedule.start_due(now + DEBOUNCE, |_| true));
        schedule.fail_pass(&key(), now);
        assert_eq!(schedule.next_due(|_| true), Some(now + PANIC_RETRY_DELAY));
    }

    #[test]
    fn no_more_passes_run_at_once_than_may_and_the_rest_follows() {
        let (mut schedule, now) = (PassSchedule::new(INTERVAL, Arc::new(HalfEntropy)), Instant::now());
        for i in 0..MAX_CONCURRENT_PASSES + 4 {
            schedule.wake(ClusterKey::new("ns", format!("cluster-{i}")), now);
        }
        let begin = now + DEBOUNCE;
        let mut first = schedule.start_due(begin, |_| true);
        assert_eq!(first.len(), MAX_CONCURRENT_PASSES);
        assert_eq!(schedule.next_due(|_| true), None);
        let ended = first.pop().unwrap();
        schedule.finish_pass(&ended.cluster, ended.state, &PassReport::default(), true);
        assert_eq!(schedule.next_due(|_| true), Some(begin));
        let second = schedule.start_due(begin, |_| true);
        assert_eq!(second.len(), 1);
        assert_ne!(second[0].cluster, ended.cluster);
    }

    #[test]
    fn a_cluster_whose_namespace_is_not_listed_yet_waits_and_others_do_not() {
        let (mut schedule, now) = woken();
        schedule.wake(ClusterKey::new("lost", "main"), now);
        let listed = |cluster: &ClusterKey| cluster.namespace == "ns";
        let started = schedule.start_due(now + DEBOUNCE, listed);
        assert_eq!(started.len(), 1);
        assert_eq!(started[0].cluster, key());
        assert_eq!(schedule.next_due(listed), None);
        assert_eq!(schedule.next_due(|_| true), Some(now + DEBOUNCE));
    }
}
