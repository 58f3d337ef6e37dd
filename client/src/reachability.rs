//! [`ReachabilityTracker`]: which agents do not answer, and which groups have no available coordinator.
//! Agents advertise the addresses that clients are sent to, and an unreachable one shows only as a
//! slow call; so failures are recorded by address and named in errors. Every call of a [`Client`]
//! writes it; time-out errors and callers that report what they wait for read it.

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
use streamhouse_core::{Error as CoreError, ErrorCode};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    Client,
    connection::{error_from_status, has_error_code},
};

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
    pub cause: CoreError,
}

impl CoordinatorOutage {
    /// Creates an outage of this duration.
    pub fn new(lasting: Duration, cause: CoreError) -> Self {
        Self {
            duration: lasting,
            cause,
        }
    }
}

#[derive(Debug)]
struct FailureState {
    since: Instant,
    last: Instant,
    error: CoreError,
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
    fn record_failure(&self, key: K, error: CoreError, now: Instant) {
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
    fn current(&self, now: Instant) -> Vec<(K, Duration, CoreError)> {
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

impl Client {
    /// Returns the agents that did not answer the last call to them, those that have failed the
    /// longest first.
    pub fn unreachable_agents(&self) -> Vec<UnreachableAgent> {
        let mut agents: Vec<_> = self.reachability().agents.current(Instant::now());
        agents.sort_by(|(a, first, _), (b, second, _)| second.cmp(first).then(a.cmp(b)));
        let agent = |(uri, lasting, error): (Arc<str>, Duration, CoreError)| {
            self.describe_unreachable(&uri, lasting, error.message())
        };
        agents.into_iter().map(agent).collect()
    }

    fn describe_unreachable(&self, uri: &Arc<str>, lasting: Duration, reason: &str) -> UnreachableAgent {
        let address = uri.split_once("://").map_or(&**uri, |(_, address)| address);
        UnreachableAgent {
            agent_id: self.cache().agent_id(uri).map(|id| id.to_string()),
            address: address.to_owned(),
            duration: lasting,
            // The prefix stands before each cause and carries no information.
            reason: reason.replace("transport error: ", ""),
        }
    }

    /// Records that the agent answered, with a result or an error.
    pub(crate) fn record_agent_success(&self, uri: &Arc<str>) {
        self.reachability().agents.record_success(&**uri);
    }

    /// Records that the agent did not answer. Returns an error that names the agent.
    pub(crate) fn record_agent_failure(&self, uri: &Arc<str>, error: CoreError) -> CoreError {
        let told = self
            .describe_unreachable(uri, Duration::ZERO, error.message())
            .to_string();
        let code = error.code();
        let agents = &self.reachability().agents;
        agents.record_failure(uri.clone(), error, Instant::now());
        CoreError::new(code, told)
    }

    /// Returns the error of a call that ended with this status: the agent's own error, or that the
    /// agent is unreachable.
    pub(crate) fn error_of_failed_call(&self, uri: &Arc<str>, status: Status) -> CoreError {
        let named = has_error_code(&status);
        let error = error_from_status(status);
        if !named && error.code() == ErrorCode::NetworkException {
            return self.record_agent_failure(uri, error);
        }
        self.record_agent_success(uri);
        error
    }

    /// Returns the agent that has failed the longest, as the cause of a time-out.
    pub(crate) fn unreachable_cause(&self) -> Option<CoreError> {
        let worst = self.unreachable_agents().into_iter().next()?;
        Some(CoreError::new(ErrorCode::NetworkException, worst.to_string()))
    }

    /// Records a retryable failure of the group's coordinator.
    pub(crate) fn record_coordinator_failure(&self, group: &str, error: &CoreError) {
        let coordinators = &self.reachability().coordinators;
        coordinators.record_failure(group.to_owned(), error.clone(), Instant::now());
    }

    /// Records that the group's coordinator answered.
    pub(crate) fn record_coordinator_success(&self, group: &str) {
        self.reachability().coordinators.record_success(group);
    }

    /// Returns the outage of a group's coordinator, if it does not answer.
    pub(crate) fn coordinator_outage(&self, group: &str) -> Option<CoordinatorOutage> {
        let current = self.reachability().coordinators.current(Instant::now());
        let (_, lasting, cause) = current.into_iter().find(|(name, ..)| name == group)?;
        Some(CoordinatorOutage {
            duration: lasting,
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use streamhouse_core::protocol::v1;

    use super::*;

    fn refused() -> CoreError {
        CoreError::new(
            ErrorCode::NetworkException,
            "transport error: tcp connect error: transport error: refused",
        )
    }

    fn client() -> Client {
        let client = Client::connect("seed:1").unwrap();
        client.cache().merge(v1::MetadataResponse {
            agents: vec![v1::AgentDescription {
                agent_id: "a-2".into(),
                grpc_address: "10.0.0.9:50051".into(),
                ..Default::default()
            }],
            ..Default::default()
        });
        client
    }

    #[tokio::test]
    async fn an_advertised_address_that_does_not_answer_is_named_with_its_agent() {
        let client = client();
        let error = client.record_agent_failure(&"http://10.0.0.9:50051".into(), refused());
        assert_eq!(error.code(), ErrorCode::NetworkException);
        assert!(
            error.message().starts_with(
                "agent a-2 advertises 10.0.0.9:50051, which does not answer (tcp connect error: refused); "
            ),
            "{error}"
        );
        let error = client.record_agent_failure(&"http://seed:1".into(), refused());
        assert!(
            error.message().starts_with("no agent answers at seed:1 (tcp"),
            "{error}"
        );
        assert!(error.message().contains("check the bootstrap address"), "{error}");
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

    #[tokio::test]
    async fn a_coordinators_outage_lasts_until_it_answers() {
        let client = client();
        assert_eq!(client.coordinator_outage("g"), None);
        client.record_coordinator_failure("g", &refused());
        assert_eq!(client.coordinator_outage("g").unwrap().cause, refused());
        assert_eq!(client.coordinator_outage("h"), None);
        client.record_coordinator_success("g");
        assert_eq!(client.coordinator_outage("g"), None);
    }

    #[tokio::test]
    async fn an_agents_own_error_is_an_answer() {
        let client = client();
        let uri = "http://10.0.0.9:50051".into();
        client.record_agent_failure(&uri, refused());
        let own = CoreError::new(ErrorCode::ResourceExhausted, "slow down");
        assert_eq!(client.error_of_failed_call(&uri, Status::from(own.clone())), own);
        assert!(client.unreachable_agents().is_empty());
        assert_eq!(client.unreachable_cause(), None);
        let broken = client.error_of_failed_call(&uri, Status::unavailable("gone"));
        assert!(broken.message().contains("a-2"), "{broken}");
        assert_eq!(client.unreachable_agents().len(), 1);
    }
}
