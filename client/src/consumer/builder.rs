//! [`ConsumerBuilder`]: every knob of the consumer with its default, checked before anything starts.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::global::ObjectSafeTracerProvider;
use streamhouse_core::{TopicPartition, trace::Traces};

use super::{Consumer, assignors::Assignor, listener::RebalanceListener};
use crate::{
    Client,
    config::{ClientIdentity, MAX_MESSAGE_SIZE, Settings, positive},
    error::{Error, Result},
    metrics::Registry,
    traces::SCOPE,
};

/// Where to start in a partition without a (valid) committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoOffsetReset {
    /// At the oldest record that is kept.
    Earliest,
    /// After the newest record.
    #[default]
    Latest,
    /// Nowhere: `poll` fails with [`Error::NoOffset`].
    None,
}

/// What a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Reading {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Its share of these topics, given by the group; all of them without one.
    Topics(Vec<String>),
    /// These partitions, without a group's help.
    Partitions(Vec<TopicPartition>),
}

/// The consumer's own knobs. The builder documents them.
#[derive(Clone)]
pub(crate) struct ConsumerConfig {
    pub(crate) group: Option<String>,
    pub(crate) group_instance_id: Option<String>,
    pub(crate) reading: Reading,
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
            .field("reading", &self.reading)
            .field("assignors", &self.assignors)
            .finish_non_exhaustive()
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            group_instance_id: None,
            reading: Reading::Nothing,
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

/// Builds a [`Consumer`]. Required: a bootstrap address (or a client).
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConsumerBuilder {
    settings: Settings,
    client: Option<Client>,
    config: ConsumerConfig,
    registry: Option<Registry>,
    traces: Option<Traces>,
}

impl ConsumerBuilder {
    /// Agents to ask first: `host:port,host:port`.
    pub fn bootstrap(mut self, bootstrap: impl Into<String>) -> Self {
        self.settings.bootstrap = bootstrap.into();
        self
    }

    /// Shares the connections, cached leaders and settings of a client, instead of having its own.
    pub fn client(mut self, client: &Client) -> Self {
        self.client = Some(client.clone());
        self
    }

    /// All that producer, consumer and admin have in common, at once.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Shown in the group's description. Default `streamhouse-client`.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.settings.client_id = client_id.into();
        self
    }

    /// PEM of the certificate authority that signed the agents' certificates. Default: the system's roots.
    pub fn tls_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.tls_ca_pem = Some(pem.into());
        self
    }

    /// The certificate with which the client proves who it is, see [`Settings::tls_identity`].
    pub fn tls_identity(mut self, identity: ClientIdentity) -> Self {
        self.settings.tls_identity = Some(identity);
        self
    }

    /// The name that every agent's certificate must have, see [`Settings::tls_server_name`].
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.settings.tls_server_name = Some(name.into());
        self
    }

    /// The group to join (with `topics`) or to commit for (with `assign`). None by default.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.config.group = Some(group.into());
        self
    }

    /// Static membership: a restart within the session time-out keeps the member's partitions. None by default.
    pub fn group_instance_id(mut self, id: impl Into<String>) -> Self {
        self.config.group_instance_id = Some(id.into());
        self
    }

    /// Reads the group's share of these topics; without a group, all their partitions, also those that come up later.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.config.reading = Reading::Topics(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Reads exactly these partitions.
    pub fn assign(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.config.reading = Reading::Partitions(partitions.into_iter().collect());
        self
    }

    /// Where to start without a committed offset. Default [`AutoOffsetReset::Latest`].
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.config.auto_offset_reset = reset;
        self
    }

    /// How often `poll` commits what the polls before it returned; `None` leaves commits to the caller. Default 5 s.
    pub fn auto_commit(mut self, every: Option<Duration>) -> Self {
        self.config.auto_commit = every;
        self
    }

    /// Without a heartbeat for this long the group goes on without this member. Default 45 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.config.session_timeout = timeout;
        self
    }

    /// Between heartbeats. Default 3 s.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.config.heartbeat = every;
        self
    }

    /// Without a `poll` for this long the consumer leaves its group. Default 5 min.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.config.max_poll_interval = interval;
        self
    }

    /// The most records of one `poll`. Default 10,000.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.config.max_poll_records = records;
        self
    }

    /// The most bytes of one `poll`, decompressed; the last batch, or the last part of 8 MiB of a larger one, may exceed it.
    /// Default 64 MiB.
    pub fn max_poll_bytes(mut self, bytes: usize) -> Self {
        self.config.max_poll_bytes = bytes;
        self
    }

    /// Passes over batches that cannot be decoded (a wrong CRC or structure, an unknown codec): with a warning, and counted in
    /// [`ConsumerStats`](super::ConsumerStats). Default false: `poll` fails with [`Error::Corrupt`] until a seek.
    pub fn skip_damaged_batches(mut self, skip: bool) -> Self {
        self.config.skip_damaged = skip;
        self
    }

    /// How long a partition that is read may not exist, because its topic was deleted, before `poll` says so with
    /// UNKNOWN_TOPIC_OR_PARTITION; zero for at once, `None` for never. It is asked for again all the time, and read from its
    /// beginning when it is there. Default 10 s.
    pub fn missing_topic_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.config.missing_topic_timeout = timeout;
        self
    }

    /// How often the partitions of subscribed topics are looked at. Those that came up since are read from their beginning,
    /// whatever `auto_offset_reset` says (unless that is none). Default 5 s.
    pub fn topic_refresh(mut self, every: Duration) -> Self {
        self.config.topic_refresh = every;
        self
    }

    /// An agent answers a fetch once it has this much. Default 1 byte: as soon as there is anything.
    pub fn fetch_min_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_min_bytes = bytes;
        self
    }

    /// An agent answers a fetch after this long in any case. Default 500 ms.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.config.fetch_max_wait = wait;
        self
    }

    /// The most bytes of one fetch; a single batch may exceed it. Default 16 MiB.
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_max_bytes = bytes;
        self
    }

    /// The most bytes of one partition in one fetch; a single batch may exceed it. Default 4 MiB.
    pub fn partition_fetch_bytes(mut self, bytes: usize) -> Self {
        self.config.partition_fetch_bytes = bytes;
        self
    }

    /// Bytes fetched ahead, as they were sent, that wait for `poll`; fetching pauses above. Default 64 MiB.
    pub fn prefetch(mut self, bytes: usize) -> Self {
        self.config.prefetch = bytes;
        self
    }

    /// How the group shares partitions, most wanted first; all members must have one in common. Partitions move without
    /// a stop of the whole group only when all of them are cooperative. Default [`Assignor::CooperativeSticky`].
    pub fn assignors(mut self, assignors: impl IntoIterator<Item = Assignor>) -> Self {
        self.config.assignors = assignors.into_iter().collect();
        self
    }

    /// Told, within `poll`, when partitions come and go.
    pub fn rebalance_listener(mut self, listener: impl RebalanceListener) -> Self {
        self.config.listener = Some(Arc::new(listener));
        self
    }

    /// For one answer of an agent, beyond the fetch's own wait. Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Where the metrics are registered. Default: the process's registry, see [`metrics`](crate::metrics).
    pub fn metrics_registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Where spans go. Default: the provider that the program installed with `opentelemetry::global` before this builder
    /// is built; without one nothing is traced.
    pub fn tracer_provider(mut self, provider: &dyn ObjectSafeTracerProvider) -> Self {
        self.traces = Some(Traces::of(provider, SCOPE));
        self
    }

    /// Checks the settings and starts the consumer. The group is joined by the first `poll`.
    pub async fn build(self) -> Result<Consumer> {
        self.validate()?;
        let client = match self.client {
            Some(client) => client,
            None => Client::new(self.settings)?,
        };
        let traces = self.traces.unwrap_or_else(|| Traces::installed(SCOPE));
        Ok(Consumer::start(client, self.config, self.registry, traces))
    }

    fn validate(&self) -> Result<()> {
        let config = &self.config;
        let refuse = |message: &str| Err(Error::config(message));
        match &self.client {
            Some(_) => self.settings.refuse_beside_client()?,
            None => self.settings.validate()?,
        }
        if config.group.as_deref() == Some("") {
            return refuse("the group's name is empty; give it one, or leave group out");
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
        positive("heartbeat", config.heartbeat)?;
        positive("topic_refresh", config.topic_refresh)?;
        if let Some(every) = config.auto_commit {
            positive("auto_commit", every)?;
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
                return Err(Error::Config(format!("{name} is 0; take more")));
            }
        }
        if config.fetch_max_bytes > MAX_MESSAGE_SIZE / 2 {
            return Err(Error::config("fetch_max_bytes is over 32 MiB; take less"));
        }
        if config.fetch_min_bytes > config.fetch_max_bytes {
            return Err(Error::config(
                "fetch_min_bytes is larger than fetch_max_bytes; lower it",
            ));
        }
        Ok(())
    }
}
