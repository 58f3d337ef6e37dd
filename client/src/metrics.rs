//! Prometheus metrics of producers and consumers.
//!
//! Producers and consumers register their metrics at a [`MetricsRegistry`], by default that of the
//! process; the function `serve` exposes it over HTTP. Metric names are a contract that dashboards
//! and alerts depend on. Metrics are updated per batch or poll, never per record.
//!
//! Without the crate feature `metrics`, all types here are empty and the updates cost disabled, so
//! callers need no `cfg` of their own.

#[cfg(feature = "metrics")]
mod consumer;
#[cfg(not(feature = "metrics"))]
mod disabled;
mod limits;
#[cfg(feature = "metrics")]
mod partition;
#[cfg(feature = "metrics")]
mod producer;
#[cfg(feature = "metrics")]
mod registry;
#[cfg(feature = "metrics")]
mod server;

#[cfg(not(feature = "metrics"))]
pub use disabled::MetricsRegistry;
#[cfg(not(feature = "metrics"))]
pub(crate) use disabled::{ConsumerMetrics, ConsumerPartitionMetrics, ProducerMetrics, ProducerTopicMetrics};
pub use limits::SeriesLimits;
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
