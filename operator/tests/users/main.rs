//! Tests of the reconciliation of Users against a real API server and a real PostgreSQL: the table
//! of outcomes, passwords, Secrets, ownership, drift and deletion. No agent runs here: users are
//! rows of the metadata store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

mod authorities;
#[path = "../crash_points/mod.rs"]
mod crash_points;
mod crashes;
#[path = "../crash_points/api.rs"]
mod crashing_api;
mod deletion;
mod environment;
mod outcomes;
mod ownership;
mod passwords;
mod schema;
mod suspended_store;
