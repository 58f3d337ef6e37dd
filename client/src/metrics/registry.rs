//! [`Registry`]: the client's metrics, registered at a Prometheus registry.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use super::{consumer::ConsumerVecs, limits::Limits, partition::PartitionVecs, producer::ProducerVecs};

/// Label value that topics, groups and partitions beyond the [`Limits`] share.
pub(super) const OTHER: &str = "_other";

/// Registers the client's metrics at a Prometheus registry; one serves any number of producers and
/// consumers.
///
/// `Registry::default()` is that of the process and uses Prometheus's default registry.
#[derive(Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    registry: prometheus::Registry,
    pub(super) producer: ProducerVecs,
    pub(super) consumer: ConsumerVecs,
    pub(super) partitions: PartitionVecs,
    pub(super) limits: Limits,
    topics: Mutex<HashSet<String>>,
    groups: Mutex<HashSet<String>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

static OF_THE_PROCESS: LazyLock<Registry> =
    LazyLock::new(|| Registry::at(prometheus::default_registry().clone()));

impl Default for Registry {
    fn default() -> Self {
        OF_THE_PROCESS.clone()
    }
}

impl Registry {
    /// Creates a registry with a new, empty Prometheus registry.
    pub fn new() -> Self {
        Self::at(prometheus::Registry::new())
    }

    /// Registers the metrics at an existing Prometheus registry. Call this once per Prometheus
    /// registry and clone the result: the metrics of a second `Registry` would not be exported.
    pub fn at(registry: prometheus::Registry) -> Self {
        Self::with_limits(registry, Limits::default())
    }

    /// Like [`Registry::at`], with other limits on the number of series.
    pub fn with_limits(registry: prometheus::Registry, limits: Limits) -> Self {
        let register = Register(&registry);
        let producer = ProducerVecs::new(&register);
        let consumer = ConsumerVecs::new(&register);
        let partitions = PartitionVecs::new(&register);
        let inner = Inner {
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

    /// Returns a topic's label value, [`OTHER`] beyond the limit.
    pub(super) fn topic_label(&self, topic: &str) -> String {
        bounded(&self.inner.topics, topic, self.inner.limits.topics)
    }

    /// Returns a group's label value, [`OTHER`] beyond the limit.
    pub(super) fn group_label(&self, group: &str) -> String {
        bounded(&self.inner.groups, group, self.inner.limits.groups)
    }
}

/// Returns the name itself if it is among the first `most` names.
fn bounded(names: &Mutex<HashSet<String>>, name: &str, most: usize) -> String {
    let mut names = names.lock();
    if names.contains(name) || names.len() < most {
        names.insert(name.to_owned());
        return name.to_owned();
    }
    OTHER.to_owned()
}

/// Creates and registers metrics.
pub(super) struct Register<'a>(&'a prometheus::Registry);

impl Register<'_> {
    fn keep<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
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
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn real_gauge(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.keep(GaugeVec::new(Opts::new(name, help), labels))
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
        self.keep(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets),
            labels,
        ))
    }

    pub(super) fn durations(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.histogram(name, help, labels, 0.001, 14)
    }
}
