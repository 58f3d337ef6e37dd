//! Tests of the reconciliation of Topics against a real API server and a real PostgreSQL: the table
//! of outcomes, crashes, competing owners, and thousands of Topics at rest. No agent runs here:
//! topics are rows of the metadata store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

mod crashes;
mod drift;
mod endings;
mod outcomes;
mod probe;
mod rest;
mod rivals;
mod schema;
mod world;
