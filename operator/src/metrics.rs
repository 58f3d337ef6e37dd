//! The operator's own metrics. One registry, made once; each reconciliation reports here.

use std::fmt::Write as _;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// The custom resources, as the label `kind` names them.
pub const KINDS: &[&str] = &["StreamHouseCluster", "Topic"];

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
    /// A table of all of them, for `docs/reference/operator-metrics.md`.
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
        let mut made = Registrar::default();
        Ok(Self {
            reconciles: made.counters(
                "streamhouse_operator_reconciles_total",
                "Reconciliations by outcome: ok, error (tried again), terminal (waits for a change).",
                &["kind", "outcome"],
            )?,
            duration: made.histograms(
                "streamhouse_operator_reconcile_duration_seconds",
                "How long a reconciliation took, in seconds.",
                &["kind"],
            )?,
            last_success: made.gauges(
                "streamhouse_operator_last_success_timestamp_seconds",
                "When a reconciliation of the kind last succeeded, or, while none has, this replica first led, in seconds since the Unix epoch.",
                &["kind"],
            )?,
            drift_corrected: made.counters(
                "streamhouse_operator_drift_corrected_total",
                "Objects and topics that somebody had changed by hand and that were put back.",
                &["kind"],
            )?,
            resources: made.gauges(
                "streamhouse_operator_resources",
                "Custom resources by their Ready condition: true, false, unknown.",
                &["kind", "ready"],
            )?,
            synced: made.gauges(
                "streamhouse_operator_synced",
                "1 once this replica, as the leader, has seen every custom resource of the kind, else 0.",
                &["kind"],
            )?,
            leader: made.gauge(
                "streamhouse_operator_leader",
                "1 in the replica that holds the Lease and reconciles, else 0.",
            )?,
            crd_missing: made.gauge(
                "streamhouse_operator_crd_missing",
                "1 while a custom resource definition that the operator needs is not installed.",
            )?,
            api_writes: made.counters(
                "streamhouse_operator_api_writes_total",
                "Writes to the API server by the kind written.",
                &["kind"],
            )?,
            metadata_queries: made.counters(
                "streamhouse_operator_metadata_queries_total",
                "Calls of the metadata store by what was called.",
                &["call"],
            )?,
            registry: made.registry,
            #[cfg(test)]
            reference: made.reference,
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

    /// Nothing has been seen yet in a new term as the leader. The time without a success counts from the first term on: terms that
    /// are lost again and again must not hide that nothing succeeds.
    pub fn term_begins(&self, now_ms: i64) {
        for kind in KINDS {
            self.synced.with_label_values(&[kind]).set(0);
            let last_success = self.last_success.with_label_values(&[kind]);
            if last_success.get() == 0 {
                last_success.set(now_ms / 1000);
            }
        }
    }

    /// The kinds of which not everything has been seen.
    pub fn unsynced(&self) -> Vec<&'static str> {
        let unseen = |kind: &&&str| self.synced.with_label_values(&[**kind]).get() == 0;
        KINDS.iter().filter(unseen).copied().collect()
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

/// Registers metrics, and writes down what each is.
struct Registrar {
    registry: Registry,
    reference: String,
}

impl Default for Registrar {
    fn default() -> Self {
        Self {
            registry: Registry::new(),
            reference: "| metric | type | labels | what it is |\n|---|---|---|---|\n".to_owned(),
        }
    }
}

impl Registrar {
    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let made = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.add(made.clone(), "counter", name, help, labels)?;
        Ok(made)
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.add(made.clone(), "gauge", name, help, labels)?;
        Ok(made)
    }

    fn gauge(&mut self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let made = IntGauge::new(name, help)?;
        self.add(made.clone(), "gauge", name, help, &[])?;
        Ok(made)
    }

    fn histograms(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 15)?;
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
        self.add(made.clone(), "histogram", name, help, labels)?;
        Ok(made)
    }

    fn add(
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

    /// An operator that never gets anything done must be told from one that has nothing to do.
    #[test]
    fn the_time_without_a_success_counts_from_the_first_term() {
        let metrics = Metrics::new().unwrap();
        let last = |kind| metrics.last_success.with_label_values(&[kind]).get();
        metrics.term_begins(90_000);
        assert_eq!((last("Topic"), last("StreamHouseCluster")), (90, 90));
        metrics.reconciled("Topic", Outcome::Error, 0.1, 95_000);
        assert_eq!(last("Topic"), 90);
        metrics.reconciled("Topic", Outcome::Ok, 0.1, 100_000);
        metrics.term_begins(200_000);
        assert_eq!((last("Topic"), last("StreamHouseCluster")), (100, 90));
    }

    #[test]
    fn the_reference_is_current() {
        let metrics = Metrics::new().unwrap();
        let head = "# Metrics of the operator\n\nMade from the code; do not edit. Served at `/metrics` of its HTTP port.\n\n";
        streamhouse_testkit::assert_current(
            "docs/reference/operator-metrics.md",
            &format!("{head}{}", metrics.reference),
        )
        .unwrap();
    }
}
