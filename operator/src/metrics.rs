//! Metrics of the operator. One registry, created once; the reconciliations record their results
//! here.

use std::fmt::Write as _;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// Custom resources, as in the label `kind`.
pub const KINDS: &[&str] = &["StreamHouseCluster", "Topic", "User"];

/// Result of a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// The actual state matches the spec.
    Ok,
    /// The spec is applied; something is still under way, such as a rollout or a deletion.
    Waiting,
    /// The reconciliation cannot succeed until a user changes something.
    Blocked,
    /// The reconciliation failed and is retried.
    Error,
}

impl ReconcileOutcome {
    /// Returns the value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Error => "error",
        }
    }
}

/// The metrics.
#[derive(Debug, Clone)]
pub struct OperatorMetrics {
    registry: Registry,
    /// Table of all metrics for `docs/reference/operator-metrics.md`.
    #[cfg(test)]
    reference: String,
    /// `streamhouse_operator_reconciles_total{kind,outcome}`.
    pub reconciles: IntCounterVec,
    /// `streamhouse_operator_reconcile_duration_seconds{kind}`.
    pub duration: HistogramVec,
    /// `streamhouse_operator_last_success_timestamp_seconds{kind}`.
    pub last_success: IntGaugeVec,
    /// `streamhouse_operator_drift_corrected_total{kind}`.
    pub drift_corrected: IntCounterVec,
    /// `streamhouse_operator_resources{kind,ready}`.
    pub resources: IntGaugeVec,
    /// `streamhouse_operator_synced{kind}`.
    pub synced: IntGaugeVec,
    /// `streamhouse_operator_undecodable_resources{kind}`.
    pub undecodable: IntGaugeVec,
    /// `streamhouse_operator_resources_failing{kind}`.
    pub failing: IntGaugeVec,
    /// `streamhouse_operator_namespace_forbidden{watched_namespace}`.
    namespace_forbidden: IntGaugeVec,
    /// `streamhouse_operator_leader`.
    pub leader: IntGauge,
    /// `streamhouse_operator_crd_missing`.
    pub crd_missing: IntGauge,
    /// `streamhouse_operator_api_writes_total{kind}`.
    pub api_writes: IntCounterVec,
    /// `streamhouse_operator_metadata_queries_total`.
    pub metadata_queries: IntCounterVec,
}

impl OperatorMetrics {
    /// Registers all metrics in a new registry.
    ///
    /// # Errors
    ///
    /// Returns an error if a metric's definition is invalid.
    pub fn new() -> prometheus::Result<Self> {
        let mut made = MetricsRegistrar::default();
        Ok(Self {
            reconciles: made.register_counters(
                "streamhouse_operator_reconciles_total",
                "Number of reconciliations by outcome: ok, waiting (for a rollout, a deletion, another resource), blocked (until a user changes something), error (retried with back-off).",
                &["kind", "outcome"],
            )?,
            duration: made.register_histograms(
                "streamhouse_operator_reconcile_duration_seconds",
                "Duration of reconciliations in seconds.",
                &["kind"],
            )?,
            last_success: made.register_gauges(
                "streamhouse_operator_last_success_timestamp_seconds",
                "Time of the last reconciliation of the kind that did not fail, or, if there was none yet, of the start of this replica's first term as the leader, in seconds since the Unix epoch.",
                &["kind"],
            )?,
            drift_corrected: made.register_counters(
                "streamhouse_operator_drift_corrected_total",
                "Number of objects and topics that were changed outside of the operator and restored.",
                &["kind"],
            )?,
            resources: made.register_gauges(
                "streamhouse_operator_resources",
                "Number of custom resources by the status of their Ready condition: true, false, unknown.",
                &["kind", "ready"],
            )?,
            synced: made.register_gauges(
                "streamhouse_operator_synced",
                "1 if this replica leads and has listed all custom resources of the kind, else 0.",
                &["kind"],
            )?,
            undecodable: made.register_gauges(
                "streamhouse_operator_undecodable_resources",
                "Number of custom resources that this version of the operator cannot decode, and therefore does not reconcile.",
                &["kind"],
            )?,
            failing: made.register_gauges(
                "streamhouse_operator_resources_failing",
                "Number of custom resources whose last reconciliation failed and is retried.",
                &["kind"],
            )?,
            namespace_forbidden: made.register_gauges(
                "streamhouse_operator_namespace_forbidden",
                "1 if the operator may not read a namespace of its watch list, else 0.",
                // The target label is called namespace.
                &["watched_namespace"],
            )?,
            leader: made.register_gauge(
                "streamhouse_operator_leader",
                "1 if this replica is the leader and reconciles, else 0.",
            )?,
            crd_missing: made.register_gauge(
                "streamhouse_operator_crd_missing",
                "1 if a custom resource definition that the operator requires is not installed, else 0.",
            )?,
            api_writes: made.register_counters(
                "streamhouse_operator_api_writes_total",
                "Number of writes to the API server by kind of object.",
                &["kind"],
            )?,
            metadata_queries: made.register_counters(
                "streamhouse_operator_metadata_queries_total",
                "Number of calls to the metadata store by operation.",
                &["call"],
            )?,
            registry: made.registry,
            #[cfg(test)]
            reference: made.reference,
        })
    }

    /// Records the result of one reconciliation.
    pub fn record_reconcile(&self, kind: &str, outcome: ReconcileOutcome, seconds: f64, now_ms: i64) {
        self.reconciles.with_label_values(&[kind, outcome.as_str()]).inc();
        self.duration.with_label_values(&[kind]).observe(seconds);
        if outcome != ReconcileOutcome::Error {
            self.last_success.with_label_values(&[kind]).set(now_ms / 1000);
        }
    }

    /// Records whether the operator may read a watched namespace. Logs each change.
    pub fn set_namespace_forbidden(&self, namespace: &str, forbidden: bool) {
        let gauge = self.namespace_forbidden.with_label_values(&[namespace]);
        if gauge.get() == i64::from(forbidden) {
            return;
        }
        gauge.set(i64::from(forbidden));
        if forbidden {
            tracing::warn!(
                namespace,
                "the operator may not read this namespace; restore its RoleBinding, or remove the namespace from the watched ones"
            );
        } else {
            tracing::info!(namespace, "the operator may read this namespace again");
        }
    }

    /// Resets the state of a new term. The time without a success counts from the first term on, so
    /// that terms that are lost repeatedly do not hide that no reconciliation succeeds.
    pub fn begin_term(&self, now_ms: i64) {
        for kind in KINDS {
            self.synced.with_label_values(&[kind]).set(0);
            let last_success = self.last_success.with_label_values(&[kind]);
            if last_success.get() == 0 {
                last_success.set(now_ms / 1000);
            }
        }
    }

    /// Forgets what only the leader knows: a standby must not go on alerting about it.
    pub fn end_term(&self) {
        self.resources.reset();
        self.failing.reset();
        self.undecodable.reset();
        self.namespace_forbidden.reset();
    }

    /// Returns the kinds whose initial list is not complete.
    pub fn unsynced_kinds(&self) -> Vec<&'static str> {
        let unseen = |kind: &&&str| self.synced.with_label_values(&[**kind]).get() == 0;
        KINDS.iter().filter(unseen).copied().collect()
    }

    /// Renders all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

/// Registers metrics and collects their documentation.
struct MetricsRegistrar {
    registry: Registry,
    reference: String,
}

impl Default for MetricsRegistrar {
    fn default() -> Self {
        Self {
            registry: Registry::new(),
            reference: "| metric | type | labels | description |\n|---|---|---|---|\n".to_owned(),
        }
    }
}

impl MetricsRegistrar {
    fn register_counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.register(made.clone(), "counter", name, help, labels)?;
        Ok(made)
    }

    fn register_gauges(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.register(made.clone(), "gauge", name, help, labels)?;
        Ok(made)
    }

    fn register_gauge(&mut self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let made = IntGauge::new(name, help)?;
        self.register(made.clone(), "gauge", name, help, &[])?;
        Ok(made)
    }

    fn register_histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 15)?;
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
        self.register(made.clone(), "histogram", name, help, labels)?;
        Ok(made)
    }

    fn register(
        &mut self,
        made: impl Collector + 'static,
        kind: &str,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<()> {
        self.registry.register(Box::new(made))?;
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.reference,
            "| `{name}` | {kind} | {} | {help} |",
            labels.join(", ")
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator whose reconciliations never succeed must be distinguishable from an idle one.
    #[test]
    fn the_time_without_a_success_counts_from_the_first_term() {
        let metrics = OperatorMetrics::new().unwrap();
        let last = |kind| metrics.last_success.with_label_values(&[kind]).get();
        metrics.begin_term(90_000);
        assert_eq!((last("Topic"), last("StreamHouseCluster")), (90, 90));
        metrics.record_reconcile("Topic", ReconcileOutcome::Error, 0.1, 95_000);
        assert_eq!(last("Topic"), 90);
        metrics.record_reconcile("Topic", ReconcileOutcome::Ok, 0.1, 100_000);
        metrics.begin_term(200_000);
        assert_eq!((last("Topic"), last("StreamHouseCluster")), (100, 90));
    }

    #[test]
    fn the_reference_is_current() {
        let metrics = OperatorMetrics::new().unwrap();
        let head = "# Metrics of the operator\n\nGenerated from the code; do not edit. Served at `/metrics` of the HTTP port.\n\n";
        streamhouse_testkit::assert_current(
            "docs/reference/operator-metrics.md",
            &format!("{head}{}", metrics.reference),
        )
        .unwrap();
    }
}
