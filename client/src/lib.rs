//! The StreamHouse client: [`Producer`], [`Consumer`], [`Admin`], their metrics, and the command line built from them.
//!
//! A client knows bootstrap addresses and nothing else: it finds the leaders of partitions and the coordinators of
//! groups by itself, follows them when they move, and never holds credentials of the stores behind the agents.
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
//! let mut consumer =
//!     Consumer::builder().bootstrap("localhost:50051").group("billing").topics(["orders"]).build().await?;
//! for record in &consumer.poll(Duration::from_secs(1)).await? {
//!     println!("{}-{}@{}: {:?}", record.topic, record.partition, record.offset, record.value);
//! }
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! In reading order: [`config`] -> `connection` -> `metadata_cache` -> `client` (calls with retries) -> `reachability` -> [`producer`],
//! [`consumer`], [`admin`] -> [`dead_letters`], [`metrics`].

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
mod reachability;
mod retry;
mod traces;

pub use admin::Admin;
pub use client::Client;
pub use config::{ClientIdentity, Settings};
pub use consumer::{AutoOffsetReset, Consumer, ConsumerBuilder, ConsumerRecord, OwnedRecord, Records};
pub use dead_letters::DeadLetters;
pub use error::{Error, Result};
/// Of the version whose contexts and providers this library takes.
pub use opentelemetry;
pub use producer::{
    Delivery, Producer, ProducerBuilder, Record, RecordMetadata, RecordRef, SendError, TopicHandle,
};
pub use reachability::{CoordinatorOutage, UnreachableAgent};
/// What an agent answers instead of a result: see [`Error::cause`].
pub use streamhouse_core::Error as ClusterError;
pub use streamhouse_core::{ErrorCode, TopicPartition};
