//! [`MetricsRegistry`]: the client's metrics, registered at a Prometheus registry.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use super::{consumer::ConsumerVecs, limits::SeriesLimits, partition::PartitionVecs, producer::ProducerVecs};

/// Label value that topics, groups and partitions beyond the [`SeriesLimits`] share.
pub(super) const OTHER_LABEL: &str = "_other";

/// Registers the client's metrics at a Prometheus registry; one serves any number of producers and
/// consumers.
///
/// `MetricsRegistry::default()` is that of the process and uses Prometheus's default registry.
#[derive(Clone)]
pub struct MetricsRegistry {
    pub(super) inner: Arc<RegistryInner>,
}

pub(super) struct RegistryInner {
    registry: prometheus::Registry,
    pub(super) producer: ProducerVecs,
    pub(super) consumer: ConsumerVecs,
    pub(super) partitions: PartitionVecs,
    pub(super) limits: SeriesLimits,
    topics: Mutex<HashSet<String>>,
    groups: Mutex<HashSet<String>>,
}

impl fmt::Debug for MetricsRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
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
        let partitions = PartitionVecs::new(&register);
        let inner = RegistryInner {
            producer,
            consumer,
            partitions,
            limits,
            topics: Mutex::default(),
            groups: Mutex::default(),
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

    /// Returns a topic's label value, [`OTHER_LABEL`] beyond the limit.
    pub(super) fn topic_label(&self, topic: &str) -> String {
        bounded_label(&self.inner.topics, topic, self.inner.limits.topics)
    }

    /// Returns a group's label value, [`OTHER_LABEL`] beyond the limit.
    pub(super) fn group_label(&self, group: &str) -> String {
        bounded_label(&self.inner.groups, group, self.inner.limits.groups)
    }
}

/// Returns the name itself if it is among the first `most` names.
fn bounded_label(names: &Mutex<HashSet<String>>, name: &str, most: usize) -> String {
    let mut names = names.lock();
    if names.contains(name) || names.len() < most {
        names.insert(name.to_owned());
        return name.to_owned();
    }
    OTHER_LABEL.to_owned()
}

/// Creates and registers metrics.
pub(super) struct MetricFactory<'a>(&'a prometheus::Registry);

impl MetricFactory<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        // Names and labels are constants that the tests register, so this cannot fail in
        // production.
        #[allow(clippy::expect_used)]
        let metric = made.expect("metric names and labels are valid");
        if let Err(error) = self.0.register(Box::new(metric.clone())) {
            tracing::warn!(%error, "a metric is already registered; its second instance is not exported");
        }
        metric
    }

    pub(super) fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn float_gauge(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        first: f64,
        count: usize,
    ) -> HistogramVec {
        let buckets = (0..count)
            .map(|power| first * f64::from(1_u32 << power.min(31)))
            .collect();
        self.register(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets),
            labels,
        ))
    }

    pub(super) fn duration_histogram(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.histogram(name, help, labels, 0.001, 14)
    }
}
