//! What one process remembers about each cluster between its reconciliations: how often the last
//! outcome was repeated, which determines the delay of the next reconciliation, and facts that the
//! status needs to tell a passing state from a lasting one. Lost with the process, which costs no
//! more than a few early reconciliations.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use streamhouse_core::time::Entropy;

use crate::{
    backoff::RECONCILE_BACKOFF, crd::ConditionReason, metadata_stores::ClusterKey, metrics::ReconcileOutcome,
};

/// Number of repeated outcomes after which a cluster that waits is reconciled less often.
const PATIENT_AFTER: u32 = 12;
/// Shortest interval of the reconciliations of a cluster that is blocked.
const BLOCKED_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest limit of the delays after failures, however short the drift interval is.
const MIN_FAILURE_LIMIT: Duration = Duration::from_secs(5);

/// Result of a reconciliation, as far as it determines the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReconcileResult {
    /// The outcome.
    pub(super) outcome: ReconcileOutcome,
    /// Reasons of the problems.
    pub(super) reasons: Vec<ConditionReason>,
    /// Interval of the checks while the cluster waits for something that no watch reports.
    pub(super) poll: Duration,
}

/// The memory of all clusters.
#[derive(Debug, Default)]
pub(super) struct ClusterMemory(Mutex<HashMap<ClusterKey, RememberedCluster>>);

#[derive(Debug, Default)]
struct RememberedCluster {
    last: Option<(ReconcileOutcome, Vec<ConditionReason>)>,
    /// Number of consecutive reconciliations with that result.
    repeats: u32,
    settled_agents: Option<i32>,
    /// Whether agents must not be replaced, as decided when the database last answered.
    held: Option<bool>,
    leaderless_since_ms: Option<i64>,
    /// The last search for children that are no longer desired: for which children, and when.
    searched: Option<(BTreeSet<String>, i64)>,
}

impl RememberedCluster {
    /// Returns whether the last reconciliation failed.
    fn has_failed(&self) -> bool {
        matches!(self.last, Some((ReconcileOutcome::Error, _)))
    }
}

impl ClusterMemory {
    /// Records a result and returns the time until the next reconciliation without a change.
    pub(super) fn next_delay(
        &self,
        key: &ClusterKey,
        result: &ReconcileResult,
        drift_interval: Duration,
        entropy: &dyn Entropy,
    ) -> Duration {
        let repeats = {
            let mut clusters = self.0.lock();
            let cluster = clusters.entry(key.clone()).or_default();
            let this = (result.outcome, result.reasons.clone());
            let same = cluster.last.as_ref() == Some(&this);
            cluster.repeats = if same {
                cluster.repeats.saturating_add(1)
            } else {
                1
            };
            cluster.last = Some(this);
            cluster.repeats
        };
        match result.outcome {
            // With jitter, so that clusters are not reconciled in lockstep.
            ReconcileOutcome::Ok => drift_interval.mul_f64(0.9 + entropy.fraction() / 5.0),
            ReconcileOutcome::Waiting if repeats <= PATIENT_AFTER => result.poll.min(drift_interval),
            ReconcileOutcome::Waiting => (result.poll * 6).min(drift_interval),
            // Every change of the spec is watched.
            ReconcileOutcome::Blocked if result.reasons == [ConditionReason::InvalidSpec] => drift_interval,
            // A Secret or a row of the database may be mended without a change that is watched.
            ReconcileOutcome::Blocked => {
                let doubled = BLOCKED_INTERVAL * 2u32.saturating_pow(repeats.saturating_sub(1).min(10));
                doubled.min(drift_interval)
            }
            ReconcileOutcome::Error => RECONCILE_BACKOFF
                .delay_after(repeats, entropy)
                .min(drift_interval.max(MIN_FAILURE_LIMIT)),
        }
    }

    /// Returns the number of consecutive failed reconciliations before this one.
    pub(super) fn failures(&self, key: &ClusterKey) -> u32 {
        let clusters = self.0.lock();
        let cluster = clusters.get(key);
        cluster
            .filter(|cluster| cluster.has_failed())
            .map_or(0, |cluster| cluster.repeats)
    }

    /// Returns the number of clusters whose last reconciliation failed.
    pub(super) fn failing(&self) -> usize {
        let clusters = self.0.lock();
        clusters.values().filter(|cluster| cluster.has_failed()).count()
    }

    /// Returns the number of agents at the last complete rollout.
    pub(super) fn settled_agents(&self, key: &ClusterKey) -> Option<i32> {
        self.0.lock().get(key)?.settled_agents
    }

    /// Records the number of agents of a complete rollout.
    pub(super) fn set_settled_agents(&self, key: &ClusterKey, agents: i32) {
        self.0.lock().entry(key.clone()).or_default().settled_agents = Some(agents);
    }

    /// Returns whether agents must not be replaced, by the last decision.
    pub(super) fn is_held(&self, key: &ClusterKey) -> Option<bool> {
        self.0.lock().get(key)?.held
    }

    /// Records a decision whether agents may be replaced.
    pub(super) fn set_held(&self, key: &ClusterKey, held: bool) {
        self.0.lock().entry(key.clone()).or_default().held = Some(held);
    }

    /// Records whether partitions have no leader, and returns for how long.
    pub(super) fn leaderless_for(&self, key: &ClusterKey, leaderless: bool, now_ms: i64) -> Duration {
        let mut clusters = self.0.lock();
        let cluster = clusters.entry(key.clone()).or_default();
        if !leaderless {
            cluster.leaderless_since_ms = None;
            return Duration::ZERO;
        }
        let since = *cluster.leaderless_since_ms.get_or_insert(now_ms);
        Duration::from_millis(u64::try_from(now_ms - since).unwrap_or(0))
    }

    /// Returns whether to search for children that are no longer desired: when other children are
    /// desired than at the last search, and now and then.
    pub(super) fn search_due(
        &self,
        key: &ClusterKey,
        desired: &BTreeSet<String>,
        interval: Duration,
        now_ms: i64,
    ) -> bool {
        let clusters = self.0.lock();
        let last = clusters.get(key).and_then(|cluster| cluster.searched.as_ref());
        last.is_none_or(|(children, at_ms)| {
            let age = u64::try_from(now_ms - at_ms).unwrap_or(u64::MAX);
            children != desired || Duration::from_millis(age) >= interval
        })
    }

    /// Records a search.
    pub(super) fn record_search(&self, key: &ClusterKey, desired: BTreeSet<String>, now_ms: i64) {
        let mut clusters = self.0.lock();
        clusters.entry(key.clone()).or_default().searched = Some((desired, now_ms));
    }

    /// Forgets a cluster that no longer exists.
    pub(super) fn remove(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::tests::FixedEntropy;

    const DRIFT: Duration = Duration::from_secs(60);

    fn key() -> ClusterKey {
        ClusterKey::new("ns", "main")
    }

    /// Returns the delays, in seconds, after `count` equal results.
    fn delays(memory: &ClusterMemory, outcome: ReconcileOutcome, count: usize) -> Vec<u64> {
        let result = ReconcileResult {
            outcome,
            reasons: Vec::new(),
            poll: Duration::from_secs(5),
        };
        let next = || memory.next_delay(&key(), &result, DRIFT, &FixedEntropy(u64::MAX));
        (0..count).map(|_| next().as_secs()).collect()
    }

    #[test]
    fn failures_and_problems_of_the_user_are_retried_ever_less_often() {
        let memory = ClusterMemory::default();
        let failing = delays(&memory, ReconcileOutcome::Error, 10);
        assert!(failing.is_sorted() && failing[0] <= 1, "{failing:?}");
        assert!((30..=60).contains(&failing[9]), "{failing:?}");
        assert_eq!(memory.failures(&key()), 10);
        assert_eq!(
            delays(&memory, ReconcileOutcome::Blocked, 6),
            [5, 10, 20, 40, 60, 60]
        );
        assert_eq!(memory.failures(&key()), 0);
    }

    #[test]
    fn what_takes_long_is_polled_less_often_and_another_result_begins_anew() {
        let memory = ClusterMemory::default();
        let waiting = delays(&memory, ReconcileOutcome::Waiting, 14);
        assert_eq!((waiting[0], waiting[11], waiting[12]), (5, 5, 30));
        assert_eq!(delays(&memory, ReconcileOutcome::Blocked, 1), [5]);
        assert_eq!(delays(&memory, ReconcileOutcome::Waiting, 1), [5]);
    }

    #[test]
    fn children_are_searched_for_when_others_are_desired_and_now_and_then() {
        let memory = ClusterMemory::default();
        let desired = BTreeSet::from(["Service ns/main".to_owned()]);
        let due = |desired, now_ms| memory.search_due(&key(), desired, DRIFT, now_ms);
        assert!(due(&desired, 0));
        memory.record_search(&key(), desired.clone(), 0);
        assert!(!due(&desired, 59_000));
        assert!(due(&desired, 60_000));
        assert!(due(&BTreeSet::new(), 1_000));
    }

    #[test]
    fn the_time_without_leaders_counts_from_its_beginning() {
        let memory = ClusterMemory::default();
        let seconds = |leaderless, now_ms| memory.leaderless_for(&key(), leaderless, now_ms).as_secs();
        assert_eq!(seconds(true, 1_000), 0);
        assert_eq!(seconds(true, 9_000), 8);
        assert_eq!(seconds(false, 10_000), 0);
        assert_eq!(seconds(true, 12_000), 0);
        memory.remove(&key());
        assert_eq!(memory.settled_agents(&key()), None);
    }
}
