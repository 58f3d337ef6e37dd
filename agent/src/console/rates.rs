//! The counters of this agent, as Prometheus scrapes them. The page computes rates from two
//! responses; each names the agent and the incarnation, so that counts of different incarnations
//! are never subtracted.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use prometheus::proto::{MetricFamily, MetricType};
use serde::Serialize;

use super::{
    ConsoleDeps, ConsoleState,
    api::ApiResult,
    overview::{ServingAgent, serving_agent},
};
use crate::process;

/// The metrics that the page shows: the JSON key, the metric's name, and the label value to select,
/// if not all series are summed. Entries with the same key are added up.
pub(crate) const EXPOSED_METRICS: &[(&str, &str, Option<&str>)] = &[
    ("produced_records", "produced_records_total", None),
    ("produced_bytes", "produced_bytes_total", None),
    ("produced_batches", "produced_batches_total", None),
    ("fetch_requests", "grpc_requests_total", Some("Fetch")),
    ("fetch_requests", "kafka_requests_total", Some("Fetch")),
    ("grpc_requests", "grpc_requests_total", None),
    ("grpc_errors", "grpc_errors_total", None),
    ("kafka_requests", "kafka_requests_total", None),
    ("kafka_errors", "kafka_errors_total", None),
    ("tail_read_bytes", "tail_read_bytes_total", None),
    ("cache_hits", "cache_hits_total", None),
    ("cache_misses", "cache_misses_total", None),
    ("flushes", "flush_total", None),
    ("store_puts", "object_store_requests_total", Some("put")),
    ("store_gets", "object_store_requests_total", Some("get")),
    ("store_bytes_put", "object_store_bytes_total", Some("put")),
    ("store_bytes_get", "object_store_bytes_total", Some("get")),
    ("active_partitions", "active_partitions", None),
    ("connections", "connections", None),
    ("queue_bytes", "queue_bytes", None),
    ("tail_bytes", "tail_bytes", None),
    ("cache_bytes", "cache_bytes", None),
];
/// The histogram that the page computes quantiles of.
const WRITE_LATENCY: &str = "write_latency_seconds";
const PREFIX: &str = "streamhouse_agent_";

#[derive(Debug, Serialize)]
pub(super) struct CounterSnapshot {
    agent: ServingAgent,
    values: BTreeMap<&'static str, f64>,
    write_latency: AppendLatency,
}

/// Cumulative histogram of append latencies.
#[derive(Debug, Default, Serialize)]
struct AppendLatency {
    count: u64,
    /// Upper bounds in seconds, and the number of appends up to each.
    buckets: Vec<(f64, u64)>,
}

pub(super) async fn get_rates(State(console): State<Arc<ConsoleState>>) -> ApiResult<CounterSnapshot> {
    let deps = &console.deps;
    let families = gather_families(deps);
    let mut values: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, metric, label) in EXPOSED_METRICS {
        if let Some(family) = families.get(*metric) {
            *values.entry(name).or_default() += sum_series(family, *label);
        }
    }
    if let Some(usage) = process::read_usage() {
        values.insert("cpu_seconds", usage.cpu_seconds);
        values.insert("resident_bytes", usage.resident_bytes);
    }
    Ok(Json(CounterSnapshot {
        agent: serving_agent(&console),
        values,
        write_latency: families.get(WRITE_LATENCY).map(read_latency).unwrap_or_default(),
    }))
}

/// Gathers all metrics by name, without the common prefix.
fn gather_families(deps: &ConsoleDeps) -> BTreeMap<String, MetricFamily> {
    deps.gauges.update();
    let families = deps.metrics.registry().gather().into_iter();
    families
        .map(|family| {
            let name = family.name();
            (name.strip_prefix(PREFIX).unwrap_or(name).to_owned(), family)
        })
        .collect()
}

/// Sums the series with a label of this value, or all series if `label` is `None`.
fn sum_series(family: &MetricFamily, label: Option<&str>) -> f64 {
    let counts = family.get_field_type() == MetricType::COUNTER;
    let series = family.get_metric().iter().filter(|series| {
        label.is_none_or(|wanted| series.get_label().iter().any(|label| label.value() == wanted))
    });
    series
        .map(|series| {
            if counts {
                series.get_counter().get_value()
            } else {
                series.get_gauge().get_value()
            }
        })
        .sum()
}

fn read_latency(family: &MetricFamily) -> AppendLatency {
    let Some(histogram) = family.get_metric().first().map(|series| series.get_histogram()) else {
        return AppendLatency::default();
    };
    let buckets = histogram.get_bucket().iter();
    let finite = buckets.filter(|bucket| bucket.upper_bound().is_finite());
    AppendLatency {
        count: histogram.get_sample_count(),
        buckets: finite
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .collect(),
    }
}
