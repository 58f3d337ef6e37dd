//! The metadata refresher: a task that asks agents for metadata on request and when the cache is
//! old. Callers wait for the changes it makes to the cache.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1};
use tokio::time::{Instant, timeout};

use super::{Client, ClientInner};
use crate::{
    connection,
    error::{Error, Result},
    metadata_cache::{MetadataCache, TopicLookup},
    retry::{Backoff, Deadline},
};

/// Shortest time between two metadata refreshes, however often they are requested.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait for one agent's answer before asking the next one as well.
const HEDGE_DELAY: Duration = Duration::from_millis(300);

impl Client {
    /// Returns whether the refresher task still runs. It ends with the runtime that the client was
    /// built in.
    fn is_refresher_running(&self) -> bool {
        let refresher = self.inner.refresher.lock();
        refresher
            .as_ref()
            .is_some_and(|refresher| !refresher.is_finished())
    }

    /// Waits until a topic's partitions are known. If the topic does not exist, waits for at most
    /// `missing_for`.
    pub(crate) async fn wait_for_partitions(
        &self,
        topic: &str,
        deadline: Deadline,
        missing_for: Duration,
    ) -> Result<i32> {
        let mut watch = self.cache().subscribe();
        let missing = Deadline::after(missing_for.min(deadline.remaining()));
        let mut backoff = self.backoff();
        // `None` while a requested refresh has not completed.
        let mut ask_at = Some(Instant::now());
        loop {
            self.cache().track_topic(topic);
            watch.borrow_and_update();
            let last = match self.cache().lookup_topic(topic) {
                TopicLookup::Partitions(count) if count > 0 => return Ok(count),
                TopicLookup::Failed(error) if !error.is_retryable() => return Err(error.into()),
                TopicLookup::Failed(error)
                    if error.code() == ErrorCode::UnknownTopicOrPartition && missing.is_over() =>
                {
                    return Err(error.into());
                }
                TopicLookup::Failed(error) => Some(error),
                _ => None,
            };
            if !self.is_refresher_running() {
                return Err(Error::State(
                    "the client's refresh task has ended with the tokio runtime it was built in; build a new client".into(),
                ));
            }
            if ask_at.is_some_and(|at| at <= Instant::now()) {
                self.cache().request_refresh();
                ask_at = None;
            }
            if deadline.is_over() {
                return Err(Error::timeout(
                    format!("finding the topic {topic:?}"),
                    deadline.timeout(),
                    last.or_else(|| self.unreachable_cause()),
                ));
            }
            let until_asked = ask_at.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = until_asked
                .unwrap_or(deadline.remaining())
                .min(deadline.remaining());
            if timeout(wait, watch.changed()).await.is_ok() && ask_at.is_none() {
                // Back off: other callers may wait for the same refreshes.
                ask_at = Some(Instant::now() + backoff.next_delay(Duration::ZERO));
            }
        }
    }

    /// Asks agents in turn and merges the first answer. A dead agent may not answer for seconds,
    /// and callers that need a new leader wait for this refresh; so the next agent is asked as soon
    /// as one has not answered within [`HEDGE_DELAY`].
    async fn refresh_metadata(&self, topics: Vec<String>) -> Result<(), ClusterError> {
        let mut last = ClusterError::new(ErrorCode::NetworkException, "no agent is known");
        let mut asked = FuturesUnordered::new();
        let mut candidates = self.candidate_agents().into_iter();
        loop {
            let next = candidates.next();
            if let Some(uri) = &next {
                asked.push(self.request_metadata(uri.clone(), topics.clone()));
            }
            let answer = if next.is_some() {
                timeout(HEDGE_DELAY, asked.next()).await
            } else {
                Ok(asked.next().await)
            };
            match answer {
                Ok(Some(Ok(answer))) => {
                    self.cache().merge(answer);
                    self.evict_departed_agents();
                    return Ok(());
                }
                Ok(Some(Err(error))) => last = error,
                Ok(None) => return Err(last),
                Err(_) => {}
            }
        }
    }

    /// Drops the channels and coordinators of agents that are no longer in the cluster, because
    /// addresses change with every restart in Kubernetes. Calls in flight keep their channel.
    pub(super) fn evict_departed_agents(&self) {
        let agents = self.inner.cache.agents();
        if agents.is_empty() {
            return;
        }
        let there = |uri: &Arc<str>| agents.contains(uri) || self.inner.bootstrap.contains(uri);
        self.inner.pool.retain(there);
        self.inner.coordinators.lock().retain(|_, uri| there(uri));
    }

    async fn request_metadata(
        &self,
        uri: Arc<str>,
        topics: Vec<String>,
    ) -> Result<v1::MetadataResponse, ClusterError> {
        // Use the short time limit: one agent that does not answer must not delay the refresh for a
        // whole `request_timeout`.
        let allowed = self.config().connect_timeout.min(self.config().request_timeout);
        self.call_agent(&uri, allowed, |channel| async move {
            connection::data_client(channel)
                .metadata(v1::MetadataRequest { topics })
                .await
        })
        .await
    }
}

/// Refreshes on request and when the cache is older than `max_age`. Ends when the client is
/// dropped; it holds no strong reference while it waits.
pub(super) async fn refresh_loop(
    inner: Weak<ClientInner>,
    cache: Arc<MetadataCache>,
    mut backoff: Backoff,
    max_age: Duration,
) {
    loop {
        let _ = timeout(max_age, cache.wait_for_refresh_request()).await;
        let topics = cache.tracked_topics();
        if topics.is_empty() {
            continue;
        }
        let Some(client) = inner.upgrade().map(|inner| Client { inner }) else {
            return;
        };
        let answer = client.refresh_metadata(topics).await;
        drop(client);
        let pause = match answer {
            Ok(()) => {
                backoff.reset();
                MIN_REFRESH_INTERVAL
            }
            Err(error) => {
                tracing::debug!(%error, "cannot refresh metadata; retrying");
                cache.request_refresh();
                backoff.next_delay(Duration::from_millis(error.retry_after_ms().into()))
            }
        };
        tokio::time::sleep(pause).await;
    }
}
