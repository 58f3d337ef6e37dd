//! [`ProducerBuilder`]: every knob of the producer with its default, checked before anything starts.

use std::{sync::Arc, time::Duration};

use opentelemetry::global::ObjectSafeTracerProvider;
use streamhouse_core::{batch::Compression, trace::Traces};

use crate::{
    Client,
    config::{ClientIdentity, MAX_MESSAGE_SIZE, Settings, positive},
    error::{Error, Result},
    metrics::Registry,
    producer::{
        Producer,
        partitioner::{DefaultPartitioner, Partitioner},
    },
    traces::SCOPE,
};

/// The producer's own knobs. The builder documents them.
#[derive(Debug, Clone)]
pub(crate) struct ProducerConfig {
    pub(crate) linger: Duration,
    pub(crate) batch_size: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_request_size: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) compression: Compression,
    pub(crate) idempotent: bool,
    pub(crate) delivery_timeout: Duration,
    pub(crate) max_block: Duration,
    pub(crate) partitioner: Arc<dyn Partitioner>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_size: 1 << 20,
            max_in_flight: 5,
            max_request_size: 8 << 20,
            buffer_memory: 64 << 20,
            compression: Compression::Lz4,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            max_block: Duration::from_secs(60),
            partitioner: Arc::new(DefaultPartitioner),
        }
    }
}

/// Builds a [`Producer`]. Only the bootstrap address (or a client) is required.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ProducerBuilder {
    settings: Settings,
    client: Option<Client>,
    config: ProducerConfig,
    registry: Option<Registry>,
    traces: Option<Traces>,
}

impl ProducerBuilder {
    /// Agents to ask first: `host:port,host:port`.
    pub fn bootstrap(mut self, bootstrap: impl Into<String>) -> Self {
        self.settings.bootstrap = bootstrap.into();
        self
    }

    /// Shares the connections, cached leaders and settings of a client, instead of having its own. Settings of this builder
    /// that the client has, such as `request_timeout`, are then refused by [`ProducerBuilder::build`].
    pub fn client(mut self, client: &Client) -> Self {
        self.client = Some(client.clone());
        self
    }

    /// All that producer, consumer and admin have in common, at once.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Shown by the cluster where it lists clients. Default `streamhouse-client`.
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

    /// How long a batch waits for more records before it is sent. Default 5 ms; 0 sends at once.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Uncompressed bytes at which a batch is full. Default 1 MiB. A topic whose `max.message.bytes` is less gets batches
    /// that fit, by how well its records compress.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// Requests on the way to one agent. Default 5. Order is kept with any number.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests;
        self
    }

    /// The largest request, and so the largest record, in bytes as they are sent: compressed. Default 8 MiB. Agents have a
    /// limit of their own, `max-request-bytes`, and topics `max.message.bytes`.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.config.max_request_size = bytes;
        self
    }

    /// Uncompressed bytes of records that wait or are on their way, and so the largest record before compression. Default
    /// 64 MiB. `send` waits while it is full.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.config.buffer_memory = bytes;
        self
    }

    /// Of batches. Default LZ4.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// Whether retries are recognised by the cluster and stored once. Default true. Without it a batch whose answer was
    /// lost is sent again and may be stored twice, and only one batch of a partition is on its way at a time.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.config.idempotent = idempotent;
        self
    }

    /// From `send` to success or failure, with all retries. Default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// For one answer of an agent; after it the connection counts as broken. Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// The longest that `send` waits, for buffer space and for the topic's metadata together. Default 60 s.
    pub fn max_block(mut self, max_block: Duration) -> Self {
        self.config.max_block = max_block;
        self
    }

    /// Chooses partitions. Default: Kafka's murmur2 of the key; without a key, one partition is kept until its batch closes,
    /// and those whose leader does not keep up are passed over.
    pub fn partitioner(mut self, partitioner: impl Partitioner) -> Self {
        self.config.partitioner = Arc::new(partitioner);
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

    /// Checks the settings and starts the producer. It opens no connection yet, so it also works while no agent runs.
    pub async fn build(self) -> Result<Producer> {
        self.validate()?;
        let client = match self.client {
            Some(client) => client,
            None => Client::new(self.settings)?,
        };
        let traces = self.traces.unwrap_or_else(|| Traces::installed(SCOPE));
        Producer::start(client, self.config, self.registry, traces)
    }

    fn validate(&self) -> Result<()> {
        let config = &self.config;
        let refuse = |message: String| Err(Error::Config(message));
        match &self.client {
            Some(_) => self.settings.refuse_beside_client()?,
            None => self.settings.validate()?,
        }
        positive("delivery_timeout", config.delivery_timeout)?;
        if config.delivery_timeout < config.linger {
            return refuse("delivery_timeout is shorter than linger; raise it or lower linger".into());
        }
        if config.max_in_flight == 0 || config.max_in_flight > 1000 {
            return refuse(format!(
                "max_in_flight is {}; take 1 to 1000",
                config.max_in_flight
            ));
        }
        if config.batch_size < 1024 {
            return refuse(format!(
                "batch_size is {} bytes; take 1024 or more",
                config.batch_size
            ));
        }
        if config.max_request_size < 2048 {
            return refuse(format!(
                "max_request_size is {} bytes; take 2048 or more",
                config.max_request_size
            ));
        }
        if config.max_request_size > MAX_MESSAGE_SIZE - (1 << 20) {
            return refuse(format!(
                "max_request_size is {} bytes; take 63 MiB or less",
                config.max_request_size
            ));
        }
        if config.batch_size > config.max_request_size {
            return refuse("batch_size is larger than max_request_size; lower it".into());
        }
        if config.compression == Compression::Zstd {
            return refuse("zstd is read, not written; take lz4, gzip, snappy or none".into());
        }
        if config.buffer_memory < config.batch_size {
            return refuse("buffer_memory is smaller than batch_size; raise it".into());
        }
        if u32::try_from(config.buffer_memory).is_err() {
            return refuse("buffer_memory is 4 GiB or more; take less".into());
        }
        Ok(())
    }
}
