//! What is printed: a line for each run, and the table of `docs/benchmarks.md`.

use super::{
    load::{self, LoadMeasurements, MeasuredLoad},
    systems::{KAFKA, LARGE_CACHE, STREAMHOUSE},
};

const HEAD: &str = "\
| load | | records/s | P50 / P99, ms | CPU s per GB: server | CPU s per GB: stores |
|---|---|---|---|---|---|";

/// Returns one line on a run.
pub(crate) fn line(run: &MeasuredLoad) -> String {
    format!("{}: {}: {:?}", run.title, run.system, run.values)
}

/// Returns the table of all loads, each with the ratios to Kafka.
pub(crate) fn render_table(measured: &[MeasuredLoad]) -> String {
    let mut lines = vec![HEAD.to_owned()];
    for (title, systems) in load::medians(measured) {
        let Some(kafka) = systems.get(KAFKA) else { continue };
        lines.push(row(title, KAFKA, kafka));
        for name in [STREAMHOUSE, LARGE_CACHE] {
            if let Some(streamhouse) = systems.get(name) {
                lines.push(row("", name, streamhouse));
                lines.push(ratio_row(kafka, streamhouse));
            }
        }
    }
    lines.join("\n")
}

fn row(title: &str, system: &str, values: &LoadMeasurements) -> String {
    let latency = match (values.p50_ms, values.p99_ms) {
        (Some(p50), Some(p99)) => format!("{p50:.0} / {p99:.0}"),
        _ => String::new(),
    };
    let steady = values
        .steady_records_per_second
        .map_or(String::new(), |rate| format!(" ({:.0}K once joined)", rate / 1e3));
    format!(
        "| {title} | {system} | {:.0}K{steady} | {latency} | {:.2} | {:.2} |",
        values.records_per_second / 1e3,
        values.server_cpu_per_gb,
        values.stores_cpu_per_gb,
    )
}

fn ratio_row(base: &LoadMeasurements, values: &LoadMeasurements) -> String {
    let ratio = |number: &dyn Fn(&LoadMeasurements) -> Option<f64>| match (number(values), number(base)) {
        (Some(value), Some(base)) if base > 0.0 => Some(format!("{:.2}", value / base)),
        _ => None,
    };
    let steady = ratio(&|run| run.steady_records_per_second)
        .map_or(String::new(), |ratio| format!(" ({ratio} once joined)"));
    let latency = match (ratio(&|run| run.p50_ms), ratio(&|run| run.p99_ms)) {
        (Some(p50), Some(p99)) => format!("{p50} / {p99}"),
        _ => String::new(),
    };
    format!(
        "| | ratio | **{}**{steady} | {latency} | {} | |",
        ratio(&|run| Some(run.records_per_second)).unwrap_or_default(),
        ratio(&|run| Some(run.server_cpu_per_gb)).unwrap_or_default(),
    )
}
