//! The operator for Kubernetes. It turns two custom resources into what runs: a `StreamHouseCluster` into agents with their Services,
//! policies and monitoring, and a `Topic` into rows of the metadata store.
//!
//! In reading order: [`crd`] what users write; [`context`] what every reconciliation has at hand; `cluster` and `topic` the two
//! reconciliations, each a straight pipe: dereference, validate, build or plan, apply, status.

pub mod apis;
mod backoff;
pub mod cli;
pub mod cluster;
pub mod conditions;
pub mod connect;
pub mod context;
pub mod controllers;
pub mod crd;
pub mod diff;
pub mod events;
pub mod health;
pub mod lease;
pub mod metrics;
pub mod run;
pub mod server;
pub mod settings;
pub mod smoke_test;
pub mod stores;
pub mod surroundings;
pub mod topic;
