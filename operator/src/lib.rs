//! The StreamHouse operator for Kubernetes. It reconciles two custom resources: a
//! `StreamHouseCluster` becomes agents with their Services, policies and monitoring, a `Topic`
//! becomes rows in the metadata store.
//!
//! In reading order: [`crd`] defines what users write; [`context`] holds what every reconciliation
//! shares; `cluster` and `topic` are the two reconciliations, each a sequence of steps:
//! dereference, validate, build or plan, apply, status.

mod api_calls;
pub mod api_discovery;
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
mod finalizer;
pub mod health;
pub mod lease;
pub mod metadata_stores;
pub mod metrics;
pub mod run;
pub mod server;
pub mod settings;
pub mod smoke_test;
pub mod topic;
mod undecodable;
pub mod user;
