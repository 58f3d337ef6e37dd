//! [`ReachabilityTracker`]: which agents do not answer, and which groups have no available
//! coordinator.
//! Agents advertise the addresses that clients are sent to, and an unreachable one shows only as a
//! slow call; so failures are recorded by address and named in errors. Every call of a
//! [`Client`](crate::Client) writes it; time-out errors and callers that report what they wait for
//! read it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use streamhouse_core::Error as ClusterError;
use tokio::time::Instant;

/// A failure is dropped if no other follows it within this time.
const FAILURE_EXPIRY: Duration = Duration::from_secs(60);

/// An agent that does not answer at its address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreachableAgent {
    /// Id of the agent; `None` for a bootstrap address at which no agent was found yet.
    pub agent_id: Option<String>,
    /// Address, `host:port`.
    pub address: String,
    /// Time from the first failed call to the last one. Nothing is known about the time after.
    pub duration: Duration,
    /// Error of the last call.
    pub reason: String,
}

impl UnreachableAgent {
    /// Describes the agent at `uri`.
    pub(crate) fn at(uri: &str, agent_id: Option<String>, duration: Duration, reason: &str) -> Self {
        let address = uri.split_once("://").map_or(uri, |(_, address)| address);
        Self {
            agent_id,
            address: address.to_owned(),
            duration,
            // The prefix stands before each cause and carries no information.
            reason: reason.replace("transport error: ", ""),
        }
    }
}

impl fmt::Display for UnreachableAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, reason, .. } = self;
        match &self.agent_id {
            Some(id) => write!(
                f,
                "agent {id} advertises {address}, which does not answer ({reason}); check that it runs, and that the \
                 address it advertises can be reached from here"
            ),
            None => write!(
                f,
                "no agent answers at {address} ({reason}); check the bootstrap address and that the agent runs"
            ),
        }
    }
}

/// Outage of a group's coordinator: it does not answer, or the group has none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoordinatorOutage {
    /// Time from the first failed call to the last one.
    pub duration: Duration,
    /// Error of the last call.
    pub cause: ClusterError,
}

impl CoordinatorOutage {
    /// Creates an outage of this duration.
    pub fn new(duration: Duration, cause: ClusterError) -> Self {
        Self { duration, cause }
    }
}

#[derive(Debug)]
struct FailureState {
    since: Instant,
    last: Instant,
    error: ClusterError,
}

/// Ongoing failures, by key.
#[derive(Debug)]
struct FailureTracker<K> {
    failing: Mutex<HashMap<K, FailureState>>,
    /// Number of failing keys, so that a success is cheap while there are none.
    count: AtomicUsize,
}

impl<K> Default for FailureTracker<K> {
    fn default() -> Self {
        Self {
            failing: Mutex::default(),
            count: AtomicUsize::new(0),
        }
    }
}

impl<K: std::hash::Hash + Eq + Clone> FailureTracker<K> {
    fn record_failure(&self, key: K, error: ClusterError, now: Instant) {
        let mut failing = self.failing.lock();
        failing.retain(|_, failure| now - failure.last < FAILURE_EXPIRY);
        let failure = failing.entry(key).or_insert_with(|| FailureState {
            since: now,
            last: now,
            error: error.clone(),
        });
        (failure.last, failure.error) = (now, error);
        self.count.store(failing.len(), Ordering::Relaxed);
    }

    fn record_success<Q: std::hash::Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut failing = self.failing.lock();
        failing.remove(key);
        self.count.store(failing.len(), Ordering::Relaxed);
    }

    /// Returns the current failures, with their duration and last error.
    fn current(&self, now: Instant) -> Vec<(K, Duration, ClusterError)> {
        let failing = self.failing.lock();
        let current = failing
            .iter()
            .filter(|(_, failure)| now - failure.last < FAILURE_EXPIRY);
        current
            .map(|(key, failure)| (key.clone(), failure.last - failure.since, failure.error.clone()))
            .collect()
    }
}

/// What a client has observed about the reachability of agents and coordinators.
#[derive(Debug, Default)]
pub(crate) struct ReachabilityTracker {
    agents: FailureTracker<Arc<str>>,
    coordinators: FailureTracker<String>,
}

impl ReachabilityTracker {
    /// Records that the agent at `uri` did not answer.
    pub(crate) fn record_agent_failure(&self, uri: Arc<str>, error: ClusterError) {
        self.agents.record_failure(uri, error, Instant::now());
    }

    /// Records that the agent at `uri` answered.
    pub(crate) fn record_agent_success(&self, uri: &str) {
        self.agents.record_success(uri);
    }

    /// Returns the agents that did not answer the last call, with the duration and the last error
    /// of their failure; those that have failed the longest first.
    pub(crate) fn failing_agents(&self) -> Vec<(Arc<str>, Duration, ClusterError)> {
        let mut agents = self.agents.current(Instant::now());
        agents.sort_by(|(a, first, _), (b, second, _)| second.cmp(first).then(a.cmp(b)));
        agents
    }

    /// Records a retryable failure of the group's coordinator.
    pub(crate) fn record_coordinator_failure(&self, group: &str, error: &ClusterError) {
        self.coordinators
            .record_failure(group.to_owned(), error.clone(), Instant::now());
    }

    /// Records that the group's coordinator answered.
    pub(crate) fn record_coordinator_success(&self, group: &str) {
        self.coordinators.record_success(group);
    }

    /// Returns the outage of a group's coordinator, if it does not answer.
    pub(crate) fn coordinator_outage(&self, group: &str) -> Option<CoordinatorOutage> {
        let current = self.coordinators.current(Instant::now());
        let (_, duration, cause) = current.into_iter().find(|(name, ..)| name == group)?;
        Some(CoordinatorOutage { duration, cause })
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_core::ErrorCode;

    use super::*;

    fn refused() -> ClusterError {
        ClusterError::new(ErrorCode::NetworkException, "refused")
    }

    #[test]
    fn a_failure_is_known_until_a_success_or_until_nobody_asks_any_more() {
        let failures = FailureTracker::<String>::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let known = |at| {
            let mut known = failures.current(at);
            known.sort_by(|a, b| a.0.cmp(&b.0));
            let known = known.into_iter().map(|(key, lasting, _)| (key, lasting));
            known.collect::<Vec<_>>()
        };
        failures.record_failure("a".to_owned(), refused(), start);
        failures.record_failure("a".to_owned(), refused(), start + 7 * second);
        failures.record_failure("b".to_owned(), refused(), start + 7 * second);
        let now = start + 8 * second;
        let none = Duration::ZERO;
        assert_eq!(known(now), [("a".to_owned(), 7 * second), ("b".to_owned(), none)]);
        failures.record_success("a");
        assert_eq!(known(now), [("b".to_owned(), none)]);
        assert!(known(now + FAILURE_EXPIRY).is_empty());
    }

    #[test]
    fn a_coordinators_outage_lasts_until_it_answers() {
        let tracker = ReachabilityTracker::default();
        assert_eq!(tracker.coordinator_outage("g"), None);
        tracker.record_coordinator_failure("g", &refused());
        assert_eq!(tracker.coordinator_outage("g").unwrap().cause, refused());
        assert_eq!(tracker.coordinator_outage("h"), None);
        tracker.record_coordinator_success("g");
        assert_eq!(tracker.coordinator_outage("g"), None);
    }
}
