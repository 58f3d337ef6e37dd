//! The counters of this agent, as Prometheus scrapes them. The page computes rates from two
//! responses; each names the agent and the incarnation, so that counts of different incarnations
//! are never subtracted.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use prometheus::proto::{MetricFamily, MetricType};
use serde::Serialize;

use super::{
    Console,
    answer::Answer,
    overview::{This, this},
};
use crate::{node::Node, process};

/// The metrics that the page shows: the JSON key, the metric's name, and the label value to select,
/// if not all series are summed.
pub(crate) const COUNTED: &[(&str, &str, Option<&str>)] = &[
    ("produced_records", "produced_records_total", None),
    ("produced_bytes", "produced_bytes_total", None),
    ("produced_batches", "produced_batches_total", None),
    ("fetch_requests", "grpc_requests_total", Some("Fetch")),
    ("grpc_requests", "grpc_requests_total", None),
    ("grpc_errors", "grpc_errors_total", None),
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
pub(super) struct Rates {
    agent: This,
    values: BTreeMap<&'static str, f64>,
    write_latency: Latency,
}

/// Cumulative histogram of append latencies.
#[derive(Debug, Default, Serialize)]
struct Latency {
    count: u64,
    /// Upper bounds in seconds, and the number of appends up to each.
    buckets: Vec<(f64, u64)>,
}

pub(super) async fn rates(State(console): State<Arc<Console>>) -> Answer<Rates> {
    let node = &console.node;
    let families = gather(node);
    let values = COUNTED
        .iter()
        .filter_map(|(name, metric, label)| Some((*name, sum(families.get(*metric)?, *label))));
    let mut values: BTreeMap<&str, f64> = values.collect();
    if let Some(usage) = process::usage() {
        values.insert("cpu_seconds", usage.cpu_seconds);
        values.insert("resident_bytes", usage.resident_bytes);
    }
    Ok(Json(Rates {
        agent: this(&console),
        values,
        write_latency: families.get(WRITE_LATENCY).map(latency).unwrap_or_default(),
    }))
}

/// Gathers all metrics by name, without the common prefix.
fn gather(node: &Node) -> BTreeMap<String, MetricFamily> {
    node.measure();
    let families = node.metrics.registry().gather().into_iter();
    families
        .map(|family| {
            let name = family.name();
            (name.strip_prefix(PREFIX).unwrap_or(name).to_owned(), family)
        })
        .collect()
}

/// Sums the series with a label of this value, or all series if `label` is `None`.
fn sum(family: &MetricFamily, label: Option<&str>) -> f64 {
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

fn latency(family: &MetricFamily) -> Latency {
    let Some(histogram) = family.get_metric().first().map(|series| series.get_histogram()) else {
        return Latency::default();
    };
    let buckets = histogram.get_bucket().iter();
    let finite = buckets.filter(|bucket| bucket.upper_bound().is_finite());
    Latency {
        count: histogram.get_sample_count(),
        buckets: finite
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .collect(),
    }
}
