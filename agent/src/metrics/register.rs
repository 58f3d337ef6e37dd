//! Creates metrics with the agent's prefix and registers them, for
//! [`AgentMetrics::new`](super::AgentMetrics::new).

use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
    core::{Collector, GenericGauge},
    exponential_buckets,
};

/// Prefix of all names.
const PREFIX: &str = "streamhouse_agent_";
/// Duration buckets: 0.001 s, doubling, up to 65 s.
const DURATION_BUCKETS: (f64, f64, usize) = (0.001, 2.0, 17);

/// Creates and registers metrics.
pub(super) struct MetricRegistrar(pub(super) Registry);

impl MetricRegistrar {
    pub(super) fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.register(GenericGauge::new(format!("{PREFIX}{name}"), help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(
            Opts::new(format!("{PREFIX}{name}"), help),
            labels,
        )?)
    }

    pub(super) fn float_gauges(&self, name: &str, help: &str, label: &str) -> Result<GaugeVec> {
        self.register(GaugeVec::new(
            Opts::new(format!("{PREFIX}{name}"), help),
            &[label],
        )?)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.register(IntCounter::new(format!("{PREFIX}{name}"), help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.register(IntCounterVec::new(
            Opts::new(format!("{PREFIX}{name}"), help),
            labels,
        )?)
    }

    pub(super) fn float_counters(&self, name: &str, help: &str, label: &str) -> Result<CounterVec> {
        self.register(CounterVec::new(
            Opts::new(format!("{PREFIX}{name}"), help),
            &[label],
        )?)
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram> {
        self.register(Histogram::with_opts(
            HistogramOpts::new(format!("{PREFIX}{name}"), help).buckets(buckets),
        )?)
    }

    pub(super) fn duration(&self, name: &str, help: &str) -> Result<Histogram> {
        self.histogram(name, help, duration_buckets()?)
    }

    pub(super) fn durations(&self, name: &str, help: &str, label: &str) -> Result<HistogramVec> {
        let opts = HistogramOpts::new(format!("{PREFIX}{name}"), help).buckets(duration_buckets()?);
        self.register(HistogramVec::new(opts, &[label])?)
    }
}

pub(super) fn duration_buckets() -> Result<Vec<f64>> {
    let (start, factor, count) = DURATION_BUCKETS;
    exponential_buckets(start, factor, count)
}
