//! Real servers for tests: PostgreSQL with PgBouncer, MinIO, the Kubernetes API and an OpenTelemetry Collector on free ports, gone when the test is.
//!
//! Owns: how tests find, start, stop and break the servers they need, and how they run the built binaries. Called by tests only.
//! Guarantees: everything listens on 127.0.0.1; every process started here ends, and every folder made here is removed, when its
//! value is dropped *or* the test process ends in any way, SIGKILL included. The API blocks; it works in sync and async tests alike.
//! Without the feature `servers` there are processes, ports and waiting only: what the repository's own tools need.

#[cfg(feature = "servers")]
mod agent;
#[cfg(feature = "servers")]
mod authority;
#[cfg(feature = "servers")]
mod cli;
#[cfg(feature = "servers")]
mod collector;
#[cfg(feature = "servers")]
mod docs;
mod guard;
#[cfg(feature = "servers")]
mod http;
#[cfg(feature = "servers")]
mod kube_api;
#[cfg(feature = "servers")]
mod minio;
#[cfg(feature = "servers")]
mod pgbouncer;
mod ports;
#[cfg(feature = "servers")]
mod postgres;
mod process;
#[cfg(feature = "servers")]
mod programs;
#[cfg(feature = "servers")]
mod silent_proxy;
mod wait;

#[cfg(feature = "servers")]
pub use agent::{Agent, AgentBuilder};
#[cfg(feature = "servers")]
pub use authority::{Authority, Issued};
#[cfg(feature = "servers")]
pub use cli::{Cli, Output};
#[cfg(feature = "servers")]
pub use collector::{Collector, ReceivedSpan};
#[cfg(feature = "servers")]
pub use docs::assert_current;
#[cfg(feature = "servers")]
pub use http::{Response, http_get};
#[cfg(feature = "servers")]
pub use kube_api::KubeApi;
#[cfg(feature = "servers")]
pub use minio::MinIo;
#[cfg(feature = "servers")]
pub use pgbouncer::PgBouncer;
pub use ports::Port;
#[cfg(feature = "servers")]
pub use postgres::Postgres;
pub use process::{Process, Spawn};
#[cfg(feature = "servers")]
pub use programs::built_binary;
#[cfg(feature = "servers")]
pub use silent_proxy::SilentProxy;
pub use wait::until;
