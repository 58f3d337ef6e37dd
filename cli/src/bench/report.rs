//! [`BenchReport`]: the result of a benchmark, as a table or JSON.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    stats::LatencyPercentiles,
    usage::{AgentUsage, ClientUsage},
};
use crate::output::{TextTable, group_digits, human_bytes};

/// The results of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BenchReport {
    /// `produce`, `consume` or `e2e`.
    pub(super) kind: &'static str,
    pub(super) topic: String,
    pub(super) partitions: usize,
    /// Requested records per second; `None` for as fast as possible.
    pub(super) target_rate: Option<f64>,
    pub(super) produced: Option<Throughput>,
    pub(super) consumed: Option<Throughput>,
    /// Number of records that failed, and the first error.
    pub(super) failed: u64,
    pub(super) first_error: Option<String>,
    /// Milliseconds from the (intended) send to the acknowledgement.
    pub(super) ack_latency_ms: Option<LatencyPercentiles>,
    /// Milliseconds from the (intended) send to the poll that returned the record.
    pub(super) end_to_end_latency_ms: Option<LatencyPercentiles>,
    /// Duration in milliseconds of polls that returned records.
    pub(super) poll_latency_ms: Option<LatencyPercentiles>,
    pub(super) client: ClientUsage,
    pub(super) agents: Vec<AgentUsage>,
}

/// Records and bytes per time. Bytes are keys and values, uncompressed; a megabyte is 1,000,000
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Throughput {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) records_per_second: f64,
    pub(super) megabytes_per_second: f64,
}

impl Throughput {
    pub(super) fn new(records: u64, bytes: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-6);
        let round = |value: f64| (value * 100.0).round() / 100.0;
        Self {
            records,
            bytes,
            seconds: (seconds * 1000.0).round() / 1000.0,
            records_per_second: round(records as f64 / seconds),
            megabytes_per_second: round(bytes as f64 / 1e6 / seconds),
        }
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bench {}: topic {}, {} partitions",
            self.kind, self.topic, self.partitions
        )?;
        match self.target_rate {
            Some(rate) => writeln!(f, ", {} records/s asked for", group_digits(rate.round() as u64))?,
            None => writeln!(f, ", as fast as possible")?,
        }
        for (name, throughput) in [("produced", self.produced), ("consumed", self.consumed)] {
            let Some(t) = throughput else { continue };
            writeln!(
                f,
                "{name}  {} records in {:.2} s: {} records/s, {:.1} MB/s",
                group_digits(t.records),
                t.seconds,
                group_digits(t.records_per_second.round() as u64),
                t.megabytes_per_second
            )?;
        }
        if self.failed > 0 {
            let why = self.first_error.as_deref().unwrap_or("unknown");
            writeln!(
                f,
                "failed    {} records, the first with: {why}",
                group_digits(self.failed)
            )?;
        }
        self.write_latencies(f)?;
        self.write_costs(f)
    }
}

impl BenchReport {
    fn write_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(["LATENCY ms", "MEAN", "P50", "P95", "P99", "P99.9", "MAX"]);
        let rows = [
            ("send to ack", self.ack_latency_ms),
            ("send to poll", self.end_to_end_latency_ms),
            ("poll", self.poll_latency_ms),
        ];
        let mut any = false;
        for (name, found) in rows.into_iter().filter_map(|(name, found)| Some((name, found?))) {
            let values = [
                found.mean,
                found.p50,
                found.p95,
                found.p99,
                found.p99_9,
                found.max,
            ];
            table.add_row(std::iter::once(name.to_owned()).chain(values.map(|value| format!("{value:.2}"))));
            any = true;
        }
        if any { write!(f, "\n{table}") } else { Ok(()) }
    }

    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = TextTable::new(["COST", "CPU s", "RSS", "PUT", "GET", "FLUSHES", "OTHER REQUESTS"]);
        let client = [
            format!("{:.2}", self.client.cpu_seconds),
            human_bytes(self.client.rss_bytes),
        ];
        table.add_row(std::iter::once("client".to_owned()).chain(client));
        for agent in &self.agents {
            let count = |operation: &str| agent.object_store_requests.get(operation).copied().unwrap_or(0);
            let all: u64 = agent.object_store_requests.values().sum();
            table.add_row([
                agent
                    .url
                    .trim_start_matches("http://")
                    .trim_end_matches("/metrics")
                    .to_owned(),
                format!("{:.2}", agent.cpu_seconds),
                human_bytes(agent.rss_bytes),
                count("put").to_string(),
                count("get").to_string(),
                agent.flushes.to_string(),
                (all - count("put") - count("get")).to_string(),
            ]);
        }
        write!(f, "\n{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_what_was_measured_and_nothing_else() {
        let report = BenchReport {
            kind: "produce",
            topic: "bench".into(),
            partitions: 4,
            target_rate: Some(200_000.0),
            produced: Some(Throughput::new(400_000, 40_000_000, Duration::from_secs(2))),
            consumed: None,
            failed: 0,
            first_error: None,
            ack_latency_ms: Some(LatencyPercentiles {
                mean: 5.0,
                p50: 4.0,
                p95: 8.0,
                p99: 9.5,
                p99_9: 12.0,
                max: 20.0,
            }),
            end_to_end_latency_ms: None,
            poll_latency_ms: None,
            client: ClientUsage {
                cpu_seconds: 1.25,
                rss_bytes: 1 << 20,
            },
            agents: vec![AgentUsage {
                url: "http://h:8080/metrics".into(),
                flushes: 7,
                ..AgentUsage::default()
            }],
        };
        let text = report.to_string();
        assert!(
            text.contains("400,000 records in 2.00 s: 200,000 records/s, 20.0 MB/s"),
            "{text}"
        );
        assert!(text.contains("send to ack"), "{text}");
        assert!(
            !text.contains("consumed") && !text.contains("send to poll") && !text.contains("failed"),
            "{text}"
        );
        assert!(text.lines().any(|line| line.starts_with("h:8080")), "{text}");
    }
}
