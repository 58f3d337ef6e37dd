//! [`Client`]: the connections and cached metadata that producers, consumers and admins share, and
//! the retrying calls to any agent or to a group's coordinator.

mod refresh;
mod unreachable;

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1};
use tokio::{runtime::Handle, task::AbortHandle, time::timeout};
use tonic::{Response, Status};

use crate::{
    config::{ClientConfig, is_secure, parse_bootstrap},
    connection::{self, AgentChannel, ChannelPool},
    error::{Error, Result},
    metadata_cache::MetadataCache,
    reachability::ReachabilityTracker,
    retry::{Backoff, Deadline},
};

/// Time limit for one attempt to find a group's coordinator.
const COORDINATOR_LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a cluster.
///
/// Cheap to clone. Producers, consumers and admins made from one client share its connections,
/// cached metadata and settings.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use streamhouse_client::Client;
///
/// let client = Client::connect("localhost:50051")?;
/// let producer = client.producer().build().await?;
/// let topics = client.admin().list_topics(false).await?;
/// # drop((producer, topics));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
}

#[derive(Debug)]
struct ClientInner {
    config: ClientConfig,
    bootstrap: Vec<Arc<str>>,
    pool: ChannelPool,
    cache: Arc<MetadataCache>,
    coordinators: Mutex<HashMap<String, Arc<str>>>,
    rotation: AtomicUsize,
    refresher: Mutex<Option<AbortHandle>>,
    reachability: ReachabilityTracker,
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        if let Some(refresher) = self.refresher.get_mut().take() {
            refresher.abort();
        }
    }
}

impl Client {
    /// Creates a client with this configuration. It opens no connection before the first call.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting, certificate or key is invalid; [`Error::State`] outside a
    /// tokio runtime.
    pub fn new(config: ClientConfig) -> Result<Self> {
        config.validate()?;
        connection::validate_tls(&config)?;
        let runtime = Handle::try_current()
            .map_err(|_| Error::State("the client needs a tokio runtime; call it from async code".into()))?;
        let bootstrap = parse_bootstrap(&config.bootstrap)?;
        let https = bootstrap.first().is_some_and(|uri| is_secure(uri));
        let inner = Arc::new(ClientInner {
            pool: ChannelPool::new(&config),
            cache: Arc::new(MetadataCache::new(https)),
            coordinators: Mutex::default(),
            rotation: AtomicUsize::new(config.entropy.next_u64() as usize % 1024),
            refresher: Mutex::default(),
            reachability: ReachabilityTracker::default(),
            bootstrap,
            config,
        });
        let refresher = runtime.spawn(refresh::refresh_loop(
            Arc::downgrade(&inner),
            inner.cache.clone(),
            Backoff::new(&inner.config),
            inner.config.metadata_max_age,
        ));
        *inner.refresher.lock() = Some(refresher.abort_handle());
        Ok(Self { inner })
    }

    /// Creates a client with default settings for these bootstrap addresses
    /// (`host:port,host:port`). It opens no connection before the first call.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn connect(bootstrap: impl Into<String>) -> Result<Self> {
        Self::new(ClientConfig::new(bootstrap))
    }

    /// Returns the settings the client was created with.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn cache(&self) -> &MetadataCache {
        &self.inner.cache
    }

    pub(crate) fn reachability(&self) -> &ReachabilityTracker {
        &self.inner.reachability
    }

    pub(crate) fn channel(&self, uri: &Arc<str>) -> Result<AgentChannel> {
        self.inner.pool.channel(uri)
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(&self.inner.config)
    }

    pub(crate) fn api_deadline(&self) -> Deadline {
        Deadline::after(self.inner.config.api_timeout)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.config.clock.now_ms()
    }

    /// Returns the agents to try, in order: the known ones, then the bootstrap list, each starting
    /// at a different position on every call to spread the load.
    pub(crate) fn candidate_agents(&self) -> Vec<Arc<str>> {
        let mut all = self.inner.cache.agents();
        let rotation = self.inner.rotation.fetch_add(1, Ordering::Relaxed);
        if !all.is_empty() {
            let by = rotation % all.len();
            all.rotate_left(by);
        }
        for (at, _) in self.inner.bootstrap.iter().enumerate() {
            let uri = &self.inner.bootstrap[(at + rotation) % self.inner.bootstrap.len()];
            if !all.contains(uri) {
                all.push(uri.clone());
            }
        }
        all
    }

    /// Calls one agent once, for at most `allowed`, and records whether it answered.
    pub(crate) async fn call_agent<T, Fut>(
        &self,
        uri: &Arc<str>,
        allowed: Duration,
        call: impl FnOnce(AgentChannel) -> Fut,
    ) -> Result<T, ClusterError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self
            .channel(uri)
            .map_err(|error| ClusterError::new(ErrorCode::NetworkException, error.to_string()))?;
        match timeout(allowed, call(channel)).await {
            Ok(Ok(response)) => {
                self.reachability().record_agent_success(uri);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(self.error_of_failed_call(uri, status)),
            Err(_) => {
                let late = ClusterError::new(ErrorCode::RequestTimedOut, format!("no answer in {allowed:?}"));
                Err(self.record_agent_failure(uri, late))
            }
        }
    }

    /// Tries agents in turn until one answers, a failure is final, or the deadline passes. The flag
    /// in the result is true if an earlier attempt may have taken effect.
    pub(crate) async fn call_any_agent<T, F, Fut>(
        &self,
        what: &'static str,
        deadline: Deadline,
        call: F,
    ) -> Result<(T, bool)>
    where
        F: Fn(AgentChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        match self.try_any_agent(what, deadline, call).await {
            Ok(answer) => Ok(answer),
            Err((error, _)) => Err(error),
        }
    }

    /// Like [`Client::call_any_agent`], with the same flag in the error.
    pub(crate) async fn try_any_agent<T, F, Fut>(
        &self,
        what: &'static str,
        deadline: Deadline,
        call: F,
    ) -> Result<(T, bool), (Error, bool)>
    where
        F: Fn(AgentChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = self.backoff();
        let mut unsure = false;
        let mut last: Option<ClusterError> = None;
        loop {
            for uri in self.candidate_agents() {
                let left = deadline.remaining();
                if left.is_zero() {
                    return Err((Error::timeout(what, deadline.timeout(), last), unsure));
                }
                match self
                    .call_agent(&uri, left.min(self.config().request_timeout), &call)
                    .await
                {
                    Ok(answer) => return Ok((answer, unsure)),
                    Err(error) if !error.is_retryable() => return Err((error.into(), unsure)),
                    Err(error) => {
                        unsure |= !error.code().has_no_side_effects();
                        last = Some(error);
                    }
                }
            }
            let asked = last.as_ref().map_or(0, ClusterError::retry_after_ms);
            let pause = backoff.next_delay(Duration::from_millis(asked.into()));
            tokio::time::sleep(pause.min(deadline.remaining())).await;
        }
    }

    /// Calls a group's coordinator until a final answer or the deadline, and finds the coordinator
    /// again whenever it moves.
    pub(crate) async fn call_coordinator<T, F, Fut>(
        &self,
        group: &str,
        what: &'static str,
        deadline: Deadline,
        call: F,
    ) -> Result<T>
    where
        F: Fn(AgentChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_coordinator_with_timeout(group, what, deadline, self.config().request_timeout, call)
            .await
    }

    /// Like [`Client::call_coordinator`], with its own time limit per answer: a join is answered
    /// only when all members have joined.
    pub(crate) async fn call_coordinator_with_timeout<T, F, Fut>(
        &self,
        group: &str,
        what: &'static str,
        deadline: Deadline,
        answer_within: Duration,
        call: F,
    ) -> Result<T>
    where
        F: Fn(AgentChannel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = self.backoff();
        let mut last = None;
        while !deadline.is_over() {
            // Search in short rounds, so that the cause of a failure is known before the deadline.
            let turn = Deadline::after(deadline.remaining().min(COORDINATOR_LOOKUP_TIMEOUT));
            let error = match self.find_coordinator(group, turn).await {
                Err(
                    Error::Cluster(error)
                    | Error::Timeout {
                        last: Some(error), ..
                    },
                ) => error,
                Err(error) => return Err(error),
                Ok(uri) => {
                    match self
                        .call_agent(&uri, deadline.remaining().min(answer_within), &call)
                        .await
                    {
                        Ok(answer) => {
                            self.reachability().record_coordinator_success(group);
                            return Ok(answer);
                        }
                        Err(error) => error,
                    }
                }
            };
            if !error.is_retryable() || is_membership_code(error.code()) {
                self.reachability().record_coordinator_success(group);
                return Err(error.into());
            }
            self.reachability().record_coordinator_failure(group, &error);
            self.evict_coordinator(group);
            let pause = backoff.next_delay(Duration::from_millis(error.retry_after_ms().into()));
            last = Some(error);
            tokio::time::sleep(pause.min(deadline.remaining())).await;
        }
        Err(Error::timeout(what, deadline.timeout(), last))
    }

    /// Returns the URI of the agent that coordinates a group, from the cache or by asking the
    /// cluster.
    pub(crate) async fn find_coordinator(&self, group: &str, deadline: Deadline) -> Result<Arc<str>> {
        if let Some(uri) = self.inner.coordinators.lock().get(group) {
            return Ok(uri.clone());
        }
        let (answer, _) = self
            .call_any_agent(
                "finding the group's coordinator",
                deadline,
                |channel| async move {
                    let request = v1::FindCoordinatorRequest {
                        group_id: group.to_owned(),
                    };
                    connection::group_client(channel).find_coordinator(request).await
                },
            )
            .await?;
        let leader = answer.coordinator.unwrap_or_default();
        let uri = self.inner.cache.register_agent(&leader).ok_or_else(|| {
            ClusterError::new(
                ErrorCode::CoordinatorNotAvailable,
                "no agent coordinates the group at the moment",
            )
        })?;
        self.inner
            .coordinators
            .lock()
            .insert(group.to_owned(), uri.clone());
        Ok(uri)
    }

    /// Drops the cached coordinator, so that the next call finds it again.
    pub(crate) fn evict_coordinator(&self, group: &str) {
        self.inner.coordinators.lock().remove(group);
    }
}

/// Returns whether the member's state machine handles this code, instead of a retry here.
fn is_membership_code(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn channels_and_coordinators_of_agents_that_are_gone_are_let_go() {
        let client = Client::connect("boot:1").unwrap();
        let coordinators = || client.inner.coordinators.lock();
        for (group, uri) in [("g", "http://a:1"), ("h", "http://b:1"), ("i", "http://boot:1")] {
            client.channel(&uri.into()).unwrap();
            coordinators().insert(group.to_owned(), uri.into());
        }
        client.evict_departed_agents();
        assert_eq!(coordinators().len(), 3, "nothing is known of the agents yet");
        let agent = v1::AgentDescription {
            grpc_address: "b:1".to_owned(),
            ..Default::default()
        };
        client.cache().merge(v1::MetadataResponse {
            agents: vec![agent],
            ..Default::default()
        });
        client.evict_departed_agents();
        let mut left: Vec<_> = coordinators().keys().cloned().collect();
        left.sort();
        assert_eq!(left, ["h", "i"]);
        let channels = format!("{:?}", client.inner.pool);
        assert!(!channels.contains("//a:1") && channels.contains("//b:1") && channels.contains("//boot:1"));
    }

    #[test]
    fn a_client_whose_runtime_has_ended_says_so() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let theirs = runtime();
        let client = theirs.block_on(async { Client::connect("a:1") }).unwrap();
        drop(theirs);
        let hour = Duration::from_secs(3600);
        let known = runtime().block_on(client.wait_for_partitions("t", Deadline::after(hour), hour));
        assert!(matches!(known, Err(Error::State(_))), "{known:?}");
    }
}
