//! [`MetricFactory`]: creates metrics and registers them.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

/// Creates and registers metrics.
pub(super) struct MetricFactory<'a>(pub(super) &'a prometheus::Registry);

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
