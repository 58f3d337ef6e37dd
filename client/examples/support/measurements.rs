//! Metrics of the demo's components, parsed from Prometheus's text format and printed as a table.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::table;

/// Metrics of producers and consumers that are always printed.
pub const NAMES: [&str; 15] = [
    "producer_records_sent_total",
    "producer_bytes_sent_total",
    "producer_send_duration_seconds",
    "producer_batch_flush_duration_seconds",
    "producer_batch_size_records",
    "producer_batch_size_bytes",
    "producer_send_errors_total",
    "producer_pending_records",
    "consumer_records_consumed_total",
    "consumer_bytes_consumed_total",
    "consumer_poll_duration_seconds",
    "consumer_lag_records",
    "consumer_lag_seconds",
    "consumer_last_committed_offset",
    "consumer_current_offset",
];

/// Number of series and their sum, by metric name.
type MetricSums<'a> = BTreeMap<&'a str, (usize, f64)>;

fn sums<'a>(text: &'a str, prefix: &str) -> Result<MetricSums<'a>> {
    let mut metrics = MetricSums::new();
    for line in text.lines().filter(|line| line.starts_with(prefix)) {
        let (series, value) = line.rsplit_once(' ').context("a sample has a value")?;
        let name = series.split('{').next().unwrap_or(series);
        let entry = metrics.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + value.parse::<f64>()?);
    }
    ensure!(
        !metrics.is_empty(),
        "there is no metric that begins with {prefix}"
    );
    Ok(metrics)
}

/// Returns the metrics that are not zero, without timestamps and ages, which cannot be added up.
pub fn nonzero(text: &str, prefix: &str) -> Result<Vec<String>> {
    let no_sum = ["_bucket", "_sum", "_age_seconds", "_timestamp_seconds"];
    let metrics = sums(text, prefix)?;
    let busy = metrics
        .iter()
        .filter(|(name, (_, sum))| *sum != 0.0 && !no_sum.iter().any(|end| name.ends_with(end)));
    Ok(busy
        .map(|(name, _)| name.strip_suffix("_count").unwrap_or(name).to_owned())
        .collect())
}

/// Prints one line per metric: the sum over its series, or count and average. Every metric must
/// exist.
pub fn show(text: &str, names: Vec<String>) -> Result<()> {
    let metrics = sums(text, "streamhouse_")?;
    let mut rows = Vec::new();
    for name in names {
        let (series, value) = match metrics.get(name.as_str()) {
            Some((series, sum)) => (*series, sum.to_string()),
            None => average(&metrics, &name)?,
        };
        rows.push(vec![name, series.to_string(), value]);
    }
    table(&["METRIC", "SERIES", "SUM"], &rows);
    Ok(())
}

fn average(metrics: &MetricSums<'_>, family: &str) -> Result<(usize, String)> {
    let of = |part: &str| metrics.get(format!("{family}{part}").as_str());
    let (Some((series, count)), Some((_, total))) = (of("_count"), of("_sum")) else {
        bail!("the metric {family} is missing");
    };
    let each = if *count == 0.0 { 0.0 } else { total / count };
    let each = if family.ends_with("_seconds") {
        format!("{:.3} ms", each * 1000.0)
    } else {
        format!("{each:.1}")
    };
    Ok((*series, format!("{count} times, {each} on average")))
}
