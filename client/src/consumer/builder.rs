//! [`ConsumerBuilder`]: all settings of a consumer with their defaults, validated before anything
//! starts.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::global::ObjectSafeTracerProvider;
use streamhouse_core::{TopicPartition, trace::OptionalTracer};

use super::{Consumer, assignors::Assignor, listener::RebalanceListener};
use crate::{
    Client,
    config::{ClientConfig, ClientCredentials, ClientIdentity, MAX_MESSAGE_SIZE, ensure_positive},
    error::{Error, Result},
    metrics::MetricsRegistry,
    traces::INSTRUMENTATION_SCOPE,
};

/// Where to start in a partition without a valid committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AutoOffsetReset {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    #[default]
    Latest,
    /// Nowhere: `poll` fails with [`Error::NoOffset`].
    None,
}

/// What a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SubscriptionTarget {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The group's share of these topics; without a group, all their partitions.
    Topics(Vec<String>),
    /// These partitions, assigned manually.
    Partitions(Vec<TopicPartition>),
}

/// The consumer's settings, documented at the methods of [`ConsumerBuilder`].
#[derive(Clone)]
pub(crate) struct ConsumerConfig {
    pub(crate) group: Option<String>,
    pub(crate) group_instance_id: Option<String>,
    pub(crate) subscription: SubscriptionTarget,
    pub(crate) auto_offset_reset: AutoOffsetReset,
    pub(crate) auto_commit: Option<Duration>,
    pub(crate) session_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) max_poll_interval: Duration,
    pub(crate) max_poll_records: usize,
    pub(crate) max_poll_bytes: usize,
    pub(crate) skip_damaged: bool,
    pub(crate) missing_topic_timeout: Option<Duration>,
    pub(crate) topic_refresh: Duration,
    pub(crate) fetch_min_bytes: usize,
    pub(crate) fetch_max_wait: Duration,
    pub(crate) fetch_max_bytes: usize,
    pub(crate) partition_fetch_bytes: usize,
    pub(crate) prefetch: usize,
    pub(crate) assignors: Vec<Assignor>,
    pub(crate) listener: Option<Arc<dyn RebalanceListener>>,
}

impl fmt::Debug for ConsumerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerConfig")
            .field("group", &self.group)
            .field("reading", &self.subscription)
            .field("assignors", &self.assignors)
            .finish_non_exhaustive()
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            group_instance_id: None,
            subscription: SubscriptionTarget::Nothing,
            auto_offset_reset: AutoOffsetReset::Latest,
            auto_commit: Some(Duration::from_secs(5)),
            session_timeout: Duration::from_secs(45),
            heartbeat: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(300),
            max_poll_records: 10_000,
            max_poll_bytes: 64 << 20,
            skip_damaged: false,
            missing_topic_timeout: Some(Duration::from_secs(10)),
            topic_refresh: Duration::from_secs(5),
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 16 << 20,
            partition_fetch_bytes: 4 << 20,
            prefetch: 64 << 20,
            assignors: vec![Assignor::CooperativeSticky],
            listener: None,
        }
    }
}

/// Builds a [`Consumer`]. Only a bootstrap address (or a client) is required.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConsumerBuilder {
    client_config: ClientConfig,
    client: Option<Client>,
    config: ConsumerConfig,
    registry: Option<MetricsRegistry>,
    traces: Option<OptionalTracer>,
}

impl Client {
    /// Returns a builder for a consumer on this client's connections.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::default().client(self)
    }
}

impl ConsumerBuilder {
    /// Sets the bootstrap agents: `host:port,host:port`.
    pub fn bootstrap(mut self, bootstrap: impl Into<String>) -> Self {
        self.client_config.bootstrap = bootstrap.into();
        self
    }

    /// Uses the connections, cached metadata and settings of a client instead of its own.
    /// [`ConsumerBuilder::build`] rejects settings that the client already has, such as
    /// `request_timeout`.
    pub fn client(mut self, client: &Client) -> Self {
        self.client = Some(client.clone());
        self
    }

    /// Replaces all settings that producer, consumer and admin share.
    pub fn client_config(mut self, config: ClientConfig) -> Self {
        self.client_config = config;
        self
    }

    /// Sets the client id, shown in the group's description. Default `streamhouse-client`.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_config.client_id = client_id.into();
        self
    }

    /// Sets the PEM certificate of the authority that signed the agents' certificates. Default: the
    /// system's root certificates.
    pub fn tls_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.client_config.tls_ca_pem = Some(pem.into());
        self
    }

    /// Sets user and password, see [`ClientConfig::credentials`].
    pub fn credentials(mut self, credentials: ClientCredentials) -> Self {
        self.client_config.credentials = Some(credentials);
        self
    }

    /// Sets whether the password may be sent without TLS, see
    /// [`ClientConfig::allow_plaintext_password`].
    pub fn allow_plaintext_password(mut self, allowed: bool) -> Self {
        self.client_config.allow_plaintext_password = allowed;
        self
    }

    /// Sets the client certificate, see [`ClientConfig::tls_identity`].
    pub fn tls_identity(mut self, identity: ClientIdentity) -> Self {
        self.client_config.tls_identity = Some(identity);
        self
    }

    /// Sets the name that every agent's certificate must carry, see
    /// [`ClientConfig::tls_server_name`].
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.client_config.tls_server_name = Some(name.into());
        self
    }

    /// Sets the group to join (with `topics`) or to commit for (with `assign`). Default: none.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.config.group = Some(group.into());
        self
    }

    /// Makes the consumer a static member: after a restart within the session time-out it keeps its
    /// partitions. Default: none.
    pub fn group_instance_id(mut self, id: impl Into<String>) -> Self {
        self.config.group_instance_id = Some(id.into());
        self
    }

    /// Subscribes to topics. The consumer reads the group's share of them; without a group, all
    /// their partitions, including later ones.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.config.subscription = SubscriptionTarget::Topics(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Assigns exactly these partitions.
    pub fn assign(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.config.subscription = SubscriptionTarget::Partitions(partitions.into_iter().collect());
        self
    }

    /// Sets where to start without a committed offset. Default [`AutoOffsetReset::Latest`].
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.config.auto_offset_reset = reset;
        self
    }

    /// Sets how often `poll` commits the records returned by earlier polls; `None` disables
    /// automatic commits. Default 5 s.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.config.auto_commit = every;
        self
    }

    /// Sets the session time-out: a member without a heartbeat for this long is removed from the
    /// group. Default 45 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.config.session_timeout = timeout;
        self
    }

    /// Sets the interval between heartbeats. Default 3 s.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.config.heartbeat = every;
        self
    }

    /// Sets the longest time between polls; after it, the consumer leaves its group. Default 5 min.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.config.max_poll_interval = interval;
        self
    }

    /// Sets the maximum number of records per poll. Default 10,000.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.config.max_poll_records = records;
        self
    }

    /// Sets the maximum size of a poll in decompressed bytes. The last batch, or the last 8 MiB
    /// part of a larger one, may exceed it. Default 64 MiB.
    pub fn max_poll_bytes(mut self, bytes: usize) -> Self {
        self.config.max_poll_bytes = bytes;
        self
    }

    /// Whether to skip batches that cannot be decoded (wrong CRC, malformed, unknown codec), with a
    /// warning and counted in [`ConsumerStats`](super::ConsumerStats). Default false: `poll` fails
    /// with [`Error::Corrupt`] until a seek.
    pub fn skip_damaged_batches(mut self, skip: bool) -> Self {
        self.config.skip_damaged = skip;
        self
    }

    /// Sets how long an assigned partition may be missing, because its topic was deleted, before
    /// `poll` fails with UNKNOWN_TOPIC_OR_PARTITION; zero fails at once, `None` never. The consumer
    /// keeps looking for the partition, and reads it from its beginning once it exists. Default 10
    /// s.
    pub fn missing_topic_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.config.missing_topic_timeout = timeout;
        self
    }

    /// Sets how often the partitions of subscribed topics are checked. Partitions that were added
    /// since are read from their beginning, whatever `auto_offset_reset` is (except
    /// [`AutoOffsetReset::None`]). Default 5 s.
    pub fn topic_refresh(mut self, every: Duration) -> Self {
        self.config.topic_refresh = every;
        self
    }

    /// Sets the minimum size of a fetch: an agent answers once it has this many bytes. Default 1
    /// byte, which is as soon as there is any record.
    pub fn fetch_min_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_min_bytes = bytes;
        self
    }

    /// Sets how long an agent waits for `fetch_min_bytes` before it answers a fetch. Default 500
    /// ms.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.config.fetch_max_wait = wait;
        self
    }

    /// Sets the maximum size of a fetch; a single batch may exceed it. Default 16 MiB.
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_max_bytes = bytes;
        self
    }

    /// Sets the maximum size of one partition in a fetch; a single batch may exceed it. Default 4
    /// MiB.
    pub fn partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.config.partition_fetch_bytes = bytes;
        self
    }

    /// Sets how many bytes, as sent, may be fetched ahead of `poll`; beyond that, fetching pauses.
    /// Default 64 MiB.
    pub fn prefetch(mut self, bytes: usize) -> Self {
        self.config.prefetch = bytes;
        self
    }

    /// Sets the assignors the consumer supports, in order of preference. All members of a group
    /// must have one in common. Partitions move without stopping the whole group only if all of
    /// them are cooperative. Default [`Assignor::CooperativeSticky`].
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Assignor>) -> Self {
        self.config.assignors = assignors.into_iter().collect();
        self
    }

    /// Sets the listener that is called, within `poll`, when partitions are assigned, revoked or
    /// lost.
    pub fn rebalance_listener(mut self, listener: impl RebalanceListener) -> Self {
        self.config.listener = Some(Arc::new(listener));
        self
    }

    /// Sets the time limit for one answer of an agent, in addition to a fetch's own wait. Default
    /// 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.client_config.request_timeout = timeout;
        self
    }

    /// Sets where metrics are registered. Default: the process's registry, see
    /// [`metrics`](crate::metrics).
    pub fn metrics_registry(mut self, registry: MetricsRegistry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Sets the tracer provider for spans. Default: the global provider of `opentelemetry` when the
    /// consumer is built; without one, nothing is traced.
    pub fn tracer_provider(mut self, provider: &dyn ObjectSafeTracerProvider) -> Self {
        self.traces = Some(OptionalTracer::from_provider(provider, INSTRUMENTATION_SCOPE));
        self
    }

    /// Validates the settings and starts the consumer. The first `poll` joins the group.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting is invalid; otherwise as [`Client::new`].
    pub async fn build(self) -> Result<Consumer> {
        self.validate()?;
        let client = match self.client {
            Some(client) => client,
            None => Client::new(self.client_config)?,
        };
        let traces = self
            .traces
            .unwrap_or_else(|| OptionalTracer::from_global_provider(INSTRUMENTATION_SCOPE));
        Ok(Consumer::start(client, self.config, self.registry, traces))
    }

    fn validate(&self) -> Result<()> {
        let config = &self.config;
        let refuse = |message: &str| Err(Error::config(message));
        match &self.client {
            Some(_) => self.client_config.reject_with_shared_client()?,
            None => self.client_config.validate()?,
        }
        if config.group.as_deref() == Some("") {
            return refuse("the group name is empty; set one, or leave group unset");
        }
        if config.group_instance_id.is_some() && config.group.is_none() {
            return refuse("group_instance_id needs a group; set group");
        }
        if config.session_timeout < config.heartbeat.saturating_mul(2) {
            return refuse(
                "session_timeout must be at least twice the heartbeat; raise it or lower heartbeat",
            );
        }
        if config.max_poll_interval < config.heartbeat {
            return refuse("max_poll_interval is shorter than the heartbeat; raise it");
        }
        if config.assignors.is_empty() {
            return refuse("assignors is empty; name at least one");
        }
        ensure_positive("heartbeat", config.heartbeat)?;
        ensure_positive("topic_refresh", config.topic_refresh)?;
        if let Some(every) = config.auto_commit {
            ensure_positive("auto_commit", every)?;
        }
        self.validate_sizes()
    }

    fn validate_sizes(&self) -> Result<()> {
        let config = &self.config;
        for (name, value) in [
            ("max_poll_records", config.max_poll_records),
            ("max_poll_bytes", config.max_poll_bytes),
            ("fetch_max_bytes", config.fetch_max_bytes),
            ("partition_fetch_bytes", config.partition_fetch_bytes),
            ("prefetch", config.prefetch),
        ] {
            if value == 0 {
                return Err(Error::Config(format!("{name} is 0; use a larger value")));
            }
        }
        if config.fetch_max_bytes > MAX_MESSAGE_SIZE / 2 {
            return Err(Error::config("fetch_max_bytes is larger than 32 MiB; lower it"));
        }
        if config.fetch_min_bytes > config.fetch_max_bytes {
            return Err(Error::config(
                "fetch_min_bytes is larger than fetch_max_bytes; lower it",
            ));
        }
        Ok(())
    }
}
