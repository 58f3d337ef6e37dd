//! Tests of the reconciliation of Topics against a real API server and a real PostgreSQL: the table
//! of outcomes, crashes, competing owners, and thousands of Topics at rest. No agent runs here:
//! topics are rows of the metadata store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

#[path = "../crash_points/mod.rs"]
mod crash_points;
mod crashes;
mod deletion;
mod drift;
mod environment;
mod faulty_store;
mod idle;
mod outcomes;
mod ownership;
mod schema;
