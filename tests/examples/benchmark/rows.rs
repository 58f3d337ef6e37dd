//! The Markdown tables of `docs/benchmarks.md`, from the JSON reports of `streamhouse bench`.

use serde_json::Value;

const HEAD: &str = "\
| run | payload | rate | stored | latency in ms: P50 / P95 / P99 / P99.9 / max | CPU s, client / agent | agent's memory | PUTs |
|---|---|---|---|---|---|---|---|";
const RATIO_HEAD: &str = "\
| random against half-compressible | records/s | stored bytes | P50 | P99 | CPU s, client / agent | PUTs |
|---|---|---|---|---|---|---|";

/// One measured run.
#[derive(Debug)]
pub(crate) struct MeasuredRun {
    /// What was loaded, as the document names it.
    pub(crate) title: &'static str,
    /// The name of the payload.
    pub(crate) payload: &'static str,
    /// The report of `streamhouse bench`.
    pub(crate) report: Value,
    /// Stored bytes as a share of the records' bytes; `None` for a run that only reads.
    pub(crate) stored_share: Option<f64>,
}

impl MeasuredRun {
    fn number(&self, pointer: &str) -> f64 {
        let found = self.report.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or(f64::NAN)
    }

    /// Returns the key of the measured throughput and of the latency, and the latency's name.
    fn keys(&self) -> (&'static str, &'static str, &'static str) {
        match self.report["kind"].as_str() {
            Some("consume") => ("/consumed", "/poll_latency_ms", "poll"),
            Some("e2e") => ("/produced", "/end_to_end_latency_ms", "send to poll"),
            _ => ("/produced", "/ack_latency_ms", "send to ack"),
        }
    }

    fn records_per_second(&self) -> f64 {
        self.number(&format!("{}/records_per_second", self.keys().0))
    }

    fn megabytes_per_second(&self) -> f64 {
        self.number(&format!("{}/megabytes_per_second", self.keys().0))
    }

    fn latency(&self, percentile: &str) -> f64 {
        self.number(&format!("{}/{percentile}", self.keys().1))
    }

    fn puts(&self) -> f64 {
        let puts = self.number("/agents/0/object_store_requests/put");
        // Operations without a request are not in the report.
        if puts.is_nan() { 0.0 } else { puts }
    }

    fn row(&self) -> String {
        let latencies = ["p50", "p95", "p99", "p99_9", "max"].map(|name| short(self.latency(name)));
        let stored = self.stored_share.map_or(String::new(), |share| {
            format!("{:.0} MB/s, {share:.2}", share * self.megabytes_per_second())
        });
        format!(
            "| {} | {} | {} records/s, {:.0} MB/s | {stored} | {}: {} | {:.2} / {:.2} | {:.0} MiB | {} |",
            self.title,
            self.payload,
            group_digits(self.records_per_second()),
            self.megabytes_per_second(),
            self.keys().2,
            latencies.join(" / "),
            self.number("/client/cpu_seconds"),
            self.number("/agents/0/cpu_seconds"),
            self.number("/agents/0/rss_bytes") / f64::from(1 << 20),
            group_digits(self.puts()),
        )
    }

    /// Returns this run's numbers divided by those of another one.
    fn ratio_row(&self, base: &MeasuredRun) -> String {
        let ratio = |number: &dyn Fn(&MeasuredRun) -> f64| {
            let ratio = number(self) / number(base);
            if ratio.is_finite() {
                format!("{ratio:.2}")
            } else {
                String::new()
            }
        };
        let stored = match (self.stored_share, base.stored_share) {
            (Some(share), Some(base)) => format!("{:.2}", share / base),
            _ => String::new(),
        };
        format!(
            "| {} | {} | {stored} | {} | {} | {} / {} | {} |",
            self.title,
            ratio(&MeasuredRun::records_per_second),
            ratio(&|run| run.latency("p50")),
            ratio(&|run| run.latency("p99")),
            ratio(&|run| run.number("/client/cpu_seconds")),
            ratio(&|run| run.number("/agents/0/cpu_seconds")),
            ratio(&MeasuredRun::puts),
        )
    }
}

/// Returns the table of all runs, and that of the ratios between the two payloads of each title, of
/// which the first is the base.
pub(crate) fn render_tables(runs: &[MeasuredRun]) -> String {
    let rows: Vec<String> = runs.iter().map(MeasuredRun::row).collect();
    let pairs = runs.iter().enumerate().filter_map(|(at, run)| {
        let base = runs[..at].iter().find(|base| base.title == run.title)?;
        Some(run.ratio_row(base))
    });
    let ratios: Vec<String> = pairs.collect();
    format!(
        "{HEAD}\n{}\n\n{RATIO_HEAD}\n{}\n",
        rows.join("\n"),
        ratios.join("\n")
    )
}

/// Writes milliseconds with at most three digits.
fn short(value: f64) -> String {
    match value {
        value if value >= 99.5 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Writes a whole number in groups of three digits.
fn group_digits(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
