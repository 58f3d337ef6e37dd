//! The operator's own metrics. One registry, made once; each reconciliation reports here.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// How a reconciliation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Ok,
    /// It failed and is tried again.
    Error,
    /// It cannot succeed until somebody changes something.
    Terminal,
}

impl Outcome {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Terminal => "terminal",
        }
    }
}

/// The metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
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
    /// `streamhouse_operator_leader`.
    pub leader: IntGauge,
    /// `streamhouse_operator_crd_missing`.
    pub crd_missing: IntGauge,
    /// `streamhouse_operator_api_writes_total{kind}`.
    pub api_writes: IntCounterVec,
    /// `streamhouse_operator_metadata_queries_total`.
    pub metadata_queries: IntCounterVec,
}

impl Metrics {
    /// Registers all of them in a registry of their own.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let single = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok(made)
        };
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 15)?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "streamhouse_operator_reconcile_duration_seconds",
                "How long a reconciliation took, in seconds.",
            )
            .buckets(buckets),
            &["kind"],
        )?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self {
            reconciles: counter(
                "streamhouse_operator_reconciles_total",
                "Reconciliations by outcome: ok, error (tried again), terminal (waits for a change).",
                &["kind", "outcome"],
            )?,
            duration,
            last_success: gauge(
                "streamhouse_operator_last_success_timestamp_seconds",
                "When a reconciliation of the kind last succeeded, in seconds since the Unix epoch.",
                &["kind"],
            )?,
            drift_corrected: counter(
                "streamhouse_operator_drift_corrected_total",
                "Objects and topics that somebody had changed by hand and that were put back.",
                &["kind"],
            )?,
            resources: gauge(
                "streamhouse_operator_resources",
                "Custom resources by their Ready condition: true, false, unknown.",
                &["kind", "ready"],
            )?,
            leader: single(
                "streamhouse_operator_leader",
                "1 in the replica that holds the Lease and reconciles, else 0.",
            )?,
            crd_missing: single(
                "streamhouse_operator_crd_missing",
                "1 while a custom resource definition that the operator needs is not installed.",
            )?,
            api_writes: counter(
                "streamhouse_operator_api_writes_total",
                "Writes to the API server by the kind written.",
                &["kind"],
            )?,
            metadata_queries: counter(
                "streamhouse_operator_metadata_queries_total",
                "Calls of the metadata store by what was called.",
                &["call"],
            )?,
            registry,
        })
    }

    /// Reports one reconciliation.
    pub fn reconciled(&self, kind: &str, outcome: Outcome, seconds: f64, now_ms: i64) {
        self.reconciles.with_label_values(&[kind, outcome.as_str()]).inc();
        self.duration.with_label_values(&[kind]).observe(seconds);
        if outcome == Outcome::Ok {
            self.last_success.with_label_values(&[kind]).set(now_ms / 1000);
        }
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}
