//! The metrics of producers and consumers: registration, and the HTTP server that shows them. Names are the contract's;
//! dashboards and alerts depend on them. Updates happen per batch or poll, never per record.
//!
//! Without the feature `metrics` everything here is empty and costs nothing, so callers need no `cfg` of their own.

#[cfg(feature = "metrics")]
mod consumer;
mod limits;
#[cfg(not(feature = "metrics"))]
mod nothing;
#[cfg(feature = "metrics")]
mod partition;
#[cfg(feature = "metrics")]
mod producer;
#[cfg(feature = "metrics")]
mod registry;
#[cfg(feature = "metrics")]
mod server;

pub use limits::Limits;
#[cfg(not(feature = "metrics"))]
pub use nothing::Registry;
#[cfg(not(feature = "metrics"))]
pub(crate) use nothing::{ConsumerMetrics, ConsumerPartitionMetrics, ProducerMetrics, ProducerTopicMetrics};
#[cfg(feature = "metrics")]
pub use registry::Registry;
#[cfg(feature = "metrics")]
pub use server::{MetricsServer, serve};
// Hidden: only this crate updates them, and the benchmark that says what an update costs.
#[cfg(feature = "metrics")]
#[doc(hidden)]
pub use {
    consumer::{ConsumerMetrics, ConsumerPartitionMetrics},
    producer::{ProducerMetrics, ProducerTopicMetrics},
};

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests;
