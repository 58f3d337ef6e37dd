//! [`ProducerBuilder`]: all settings of a producer with their defaults, validated before anything
//! starts.

use std::{sync::Arc, time::Duration};

use opentelemetry::global::ObjectSafeTracerProvider;
use streamhouse_core::{batch::Compression, trace::OptionalTracer};

use crate::{
    Client,
    config::{ClientConfig, ClientCredentials, ClientIdentity, MAX_MESSAGE_SIZE, ensure_positive},
    error::{Error, Result},
    metrics::MetricsRegistry,
    producer::{
        Producer,
        partitioner::{DefaultPartitioner, Partitioner},
    },
    traces::INSTRUMENTATION_SCOPE,
};

/// The producer's settings, documented at the methods of [`ProducerBuilder`].
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

/// Builds a [`Producer`]. Only a bootstrap address (or a client) is required.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ProducerBuilder {
    client_config: ClientConfig,
    client: Option<Client>,
    config: ProducerConfig,
    registry: Option<MetricsRegistry>,
    traces: Option<OptionalTracer>,
}

impl Client {
    /// Returns a builder for a producer on this client's connections.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::default().client(self)
    }
}

impl ProducerBuilder {
    /// Sets the bootstrap agents: `host:port,host:port`.
    pub fn bootstrap(mut self, bootstrap: impl Into<String>) -> Self {
        self.client_config.bootstrap = bootstrap.into();
        self
    }

    /// Uses the connections, cached metadata and settings of a client instead of its own.
    /// [`ProducerBuilder::build`] rejects settings that the client already has, such as
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

    /// Sets the client id, shown by the cluster where it lists clients. Default
    /// `streamhouse-client`.
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

    /// Sets how long a batch waits for more records before it is sent. Zero sends at once. Default
    /// 5 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Sets the size in uncompressed bytes at which a batch is full. Batches of a topic with a
    /// smaller `max.message.bytes` are limited accordingly, by how well its records compress.
    /// Default 1 MiB.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// Sets the maximum number of requests in flight per agent. Records keep their order with any
    /// number. Default 5.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.config.max_in_flight = requests;
        self
    }

    /// Sets the maximum size of a request, and so of a record, in bytes as sent (compressed).
    /// Agents and topics have their own limits, `max-request-bytes` and `max.message.bytes`.
    /// Default 8 MiB.
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.config.max_request_size = bytes;
        self
    }

    /// Sets the memory for records that are buffered or in flight, in uncompressed bytes, which
    /// also limits the uncompressed size of a record. `send` waits while it is full. Default 64
    /// MiB.
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.config.buffer_memory = bytes;
        self
    }

    /// Sets the compression of batches. Default LZ4.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// Sets whether the producer is idempotent: the cluster recognizes retries and stores each
    /// batch once. Without idempotence, a batch whose answer was lost is sent again and may be
    /// stored twice, and only one batch per partition is in flight. Default true.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.config.idempotent = idempotent;
        self
    }

    /// Sets the time limit from `send` to success or failure, including all retries. Default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// Sets the time limit for one answer of an agent, after which the connection counts as broken.
    /// Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.client_config.request_timeout = timeout;
        self
    }

    /// Sets how long `send` waits, for buffer space and for the topic's metadata together. Default
    /// 60 s.
    pub fn max_block(mut self, max_block: Duration) -> Self {
        self.config.max_block = max_block;
        self
    }

    /// Sets the partitioner. Default: Kafka's murmur2 hash of the key; records without a key stay
    /// with one partition until its batch closes, and partitions whose leader does not keep up are
    /// skipped.
    pub fn partitioner(mut self, partitioner: impl Partitioner) -> Self {
        self.config.partitioner = Arc::new(partitioner);
        self
    }

    /// Sets where metrics are registered. Default: the process's registry, see
    /// [`metrics`](crate::metrics).
    pub fn metrics_registry(mut self, registry: MetricsRegistry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Sets the tracer provider for spans. Default: the global provider of `opentelemetry` when the
    /// producer is built; without one, nothing is traced.
    pub fn tracer_provider(mut self, provider: &dyn ObjectSafeTracerProvider) -> Self {
        self.traces = Some(OptionalTracer::from_provider(provider, INSTRUMENTATION_SCOPE));
        self
    }

    /// Validates the settings and starts the producer. It opens no connection yet, so it succeeds
    /// even while no agent runs.
    ///
    /// # Errors
    /// [`Error::Config`] if a setting is invalid; otherwise as [`Client::new`].
    pub async fn build(self) -> Result<Producer> {
        self.validate()?;
        let client = match self.client {
            Some(client) => client,
            None => Client::new(self.client_config)?,
        };
        let traces = self
            .traces
            .unwrap_or_else(|| OptionalTracer::from_global_provider(INSTRUMENTATION_SCOPE));
        Producer::start(client, self.config, self.registry, traces)
    }

    fn validate(&self) -> Result<()> {
        let config = &self.config;
        let refuse = |message: String| Err(Error::Config(message));
        match &self.client {
            Some(_) => self.client_config.reject_with_shared_client()?,
            None => self.client_config.validate()?,
        }
        ensure_positive("delivery_timeout", config.delivery_timeout)?;
        if config.delivery_timeout < config.linger {
            return refuse("delivery_timeout is shorter than linger; raise it or lower linger".into());
        }
        if config.max_in_flight == 0 || config.max_in_flight > 1000 {
            return refuse(format!(
                "max_in_flight is {}; use 1 to 1000",
                config.max_in_flight
            ));
        }
        if config.batch_size < 1024 {
            return refuse(format!(
                "batch_size is {} bytes; use 1024 or more",
                config.batch_size
            ));
        }
        if config.max_request_size < 2048 {
            return refuse(format!(
                "max_request_size is {} bytes; use 2048 or more",
                config.max_request_size
            ));
        }
        if config.max_request_size > MAX_MESSAGE_SIZE - (1 << 20) {
            return refuse(format!(
                "max_request_size is {} bytes; use 63 MiB or less",
                config.max_request_size
            ));
        }
        if config.batch_size > config.max_request_size {
            return refuse("batch_size is larger than max_request_size; lower it".into());
        }
        if config.compression == Compression::Zstd {
            return refuse("the producer cannot write zstd; use lz4, gzip, snappy or none".into());
        }
        if config.buffer_memory < config.batch_size {
            return refuse("buffer_memory is smaller than batch_size; raise it".into());
        }
        if u32::try_from(config.buffer_memory).is_err() {
            return refuse("buffer_memory is 4 GiB or more; lower it".into());
        }
        Ok(())
    }
}
