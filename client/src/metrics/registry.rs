//! [`MetricsRegistry`]: the client's metrics, registered at a Prometheus registry.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use super::{
    consumer_vecs::ConsumerVecs, factory::MetricFactory, labels::BoundedLabels, limits::SeriesLimits,
    partition::PartitionVecs, producer_vecs::ProducerVecs,
};

/// Registers the client's metrics at a Prometheus registry; one serves any number of producers and
/// consumers.
///
/// `MetricsRegistry::default()` is that of the process and uses Prometheus's default registry.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> streamhouse_client::Result<()> {
/// use streamhouse_client::{Producer, metrics::MetricsRegistry};
///
/// let registry = MetricsRegistry::new();
/// let producer =
///     Producer::builder().bootstrap("localhost:50051").metrics_registry(registry.clone()).build().await?;
/// let families = registry.prometheus().gather();
/// # drop((producer, families));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MetricsRegistry {
    pub(super) inner: Arc<RegistryInner>,
}

pub(super) struct RegistryInner {
    registry: prometheus::Registry,
    pub(super) producer: ProducerVecs,
    pub(super) consumer: ConsumerVecs,
    pub(super) partitions: Arc<PartitionVecs>,
    topics: BoundedLabels,
    groups: BoundedLabels,
}

impl fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsRegistry")
    }
}

static PROCESS_REGISTRY: LazyLock<MetricsRegistry> =
    LazyLock::new(|| MetricsRegistry::from_prometheus(prometheus::default_registry().clone()));

impl Default for MetricsRegistry {
    fn default() -> Self {
        PROCESS_REGISTRY.clone()
    }
}

impl MetricsRegistry {
    /// Creates a registry with a new, empty Prometheus registry.
    pub fn new() -> Self {
        Self::from_prometheus(prometheus::Registry::new())
    }

    /// Registers the metrics at an existing Prometheus registry. Call this once per Prometheus
    /// registry and clone the result: the metrics of a second `MetricsRegistry` would not be
    /// exported.
    pub fn from_prometheus(registry: prometheus::Registry) -> Self {
        Self::with_limits(registry, SeriesLimits::default())
    }

    /// Like [`MetricsRegistry::from_prometheus`], with other limits on the number of series.
    pub fn with_limits(registry: prometheus::Registry, limits: SeriesLimits) -> Self {
        let register = MetricFactory(&registry);
        let producer = ProducerVecs::new(&register);
        let consumer = ConsumerVecs::new(&register);
        let partitions = PartitionVecs::new(&register, limits.partitions);
        let inner = RegistryInner {
            producer,
            consumer,
            partitions: Arc::new(partitions),
            topics: BoundedLabels::new(limits.topics),
            groups: BoundedLabels::new(limits.groups),
            registry,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the Prometheus registry, to gather from it or to register more metrics.
    pub fn prometheus(&self) -> &prometheus::Registry {
        &self.inner.registry
    }

    /// Returns a topic's label value, `_other` beyond the limit.
    pub(super) fn topic_label(&self, topic: &str) -> String {
        self.inner.topics.label(topic)
    }

    /// Returns a group's label value, `_other` beyond the limit.
    pub(super) fn group_label(&self, group: &str) -> String {
        self.inner.groups.label(group)
    }
}
