//! The reconciliation of Topics against a real API server and a real PostgreSQL: every row of the table of outcomes, crashes, rivals,
//! and thousands of Topics at rest. No agent runs here: topics are rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of this is tests, the helpers too

mod crashes;
mod drift;
mod endings;
mod outcomes;
mod probe;
mod rest;
mod rivals;
mod schema;
mod world;
