//! Prometheus metrics of producers and consumers.
//!
//! Producers and consumers register their metrics at a [`MetricsRegistry`], by default that of the
//! process; the function `serve` exposes it over HTTP. Metric names are a contract that dashboards
//! and alerts depend on. Metrics are updated per batch or poll, never per record.
//!
//! Without the crate feature `metrics`, all types here are empty and updates cost nothing, so
//! callers need no `cfg` of their own.

#[cfg(feature = "metrics")]
mod consumer;
#[cfg(feature = "metrics")]
mod consumer_vecs;
#[cfg(not(feature = "metrics"))]
mod disabled;
#[cfg(feature = "metrics")]
mod factory;
#[cfg(feature = "metrics")]
mod labels;
mod limits;
#[cfg(feature = "metrics")]
mod partition;
#[cfg(feature = "metrics")]
mod producer;
#[cfg(feature = "metrics")]
mod producer_vecs;
#[cfg(feature = "metrics")]
mod registry;
#[cfg(feature = "metrics")]
mod server;

#[cfg(not(feature = "metrics"))]
pub use disabled::DisabledRegistry as MetricsRegistry;
#[cfg(not(feature = "metrics"))]
pub(crate) use disabled::{
    DisabledConsumerMetrics as ConsumerMetrics, DisabledPartitionMetrics as ConsumerPartitionMetrics,
    DisabledProducerMetrics as ProducerMetrics, DisabledTopicMetrics as ProducerTopicMetrics,
};
pub use limits::SeriesLimits;
/// Re-exported: the version whose registries [`MetricsRegistry::from_prometheus`] accepts.
#[cfg(feature = "metrics")]
pub use prometheus;
#[cfg(feature = "metrics")]
pub use registry::MetricsRegistry;
#[cfg(feature = "metrics")]
pub use server::{MetricsServer, serve};
// Hidden: updated only by this crate, and by the benchmark that measures the cost of an update.
#[cfg(feature = "metrics")]
#[doc(hidden)]
pub use {
    consumer::{ConsumerMetrics, ConsumerPartitionMetrics},
    producer::{ProducerMetrics, ProducerTopicMetrics},
};

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests;
