//! Rust client for StreamHouse, event streaming on an object store: [`Producer`], [`Consumer`] and
//! [`Admin`], with metrics and traces.
//!
//! A client needs only the bootstrap addresses of a few agents. It discovers the leaders of
//! partitions and the coordinators of groups, follows them when they move, and never holds
//! credentials for the stores behind the agents. All calls must be made within a tokio runtime.
//!
//! # Examples
//!
//! ```no_run
//! # async fn example() -> streamhouse_client::Result<()> {
//! use std::time::Duration;
//! use streamhouse_client::{Consumer, Producer, Record};
//!
//! let producer = Producer::builder().bootstrap("localhost:50051").build().await?;
//! let delivery = producer.send(Record::new("orders", "hello").with_key("customer-1")).await?;
//! println!("stored at offset {}", delivery.await?.offset);
//! producer.close(Duration::from_secs(10)).await?;
//!
//! let mut consumer = Consumer::builder()
//!     .bootstrap("localhost:50051")
//!     .group("billing")
//!     .topics(["orders"])
//!     .build()
//!     .await?;
//! for record in &consumer.poll(Duration::from_secs(1)).await? {
//!     println!("{}-{}@{}: {:?}", record.topic, record.partition, record.offset, record.value);
//! }
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! - [`producer`]: batching, idempotent sends, partitioners. [`Producer::send`] returns a
//!   [`Delivery`], a future of the record's offset.
//! - [`consumer`]: consumer groups and manual assignment, offsets, seeks. [`Consumer::poll`]
//!   returns the next [`ConsumerRecords`].
//! - [`admin`]: topics, groups, offsets and the cluster.
//! - [`Client`]: shared connections for several of them; [`config`] has the settings.
//! - [`dead_letters`]: a topic for records that cannot be processed.
//!
//! Every call fails with an [`Error`], which [`Error::code`] and [`Error::is_retryable`] classify.
//!
//! # Crate features
//!
//! - `metrics` (default): Prometheus metrics, see [`metrics`].

pub mod admin;
mod client;
pub mod config;
mod connection;
pub mod consumer;
pub mod dead_letters;
mod error;
mod metadata_cache;
pub mod metrics;
pub mod producer;
mod queries;
mod reachability;
mod retry;
mod traces;

pub use admin::Admin;
pub use client::Client;
pub use config::{ClientConfig, ClientCredentials, ClientIdentity};
pub use consumer::{
    AutoOffsetReset, Consumer, ConsumerBuilder, ConsumerRecord, ConsumerRecords, OwnedRecord,
};
pub use dead_letters::DeadLetters;
pub use error::{Error, Result};
/// Re-exported: the trait of the stream that [`Consumer::stream`] returns.
pub use futures::Stream;
/// Re-exported: the version whose contexts and tracer providers this library accepts.
pub use opentelemetry;
pub use producer::{
    Delivery, Producer, ProducerBuilder, Record, RecordMetadata, RecordRef, SendError, TopicHandle,
};
pub use reachability::{CoordinatorOutage, UnreachableAgent};
/// An error as an agent reports it, see [`Error::cause`].
#[doc(inline)]
pub use streamhouse_core::Error as ClusterError;
#[doc(inline)]
pub use streamhouse_core::{ErrorCode, TopicPartition};
