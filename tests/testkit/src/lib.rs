//! Real servers for tests: PostgreSQL with PgBouncer, MinIO, the Kubernetes API, Apache Kafka and
//! an OpenTelemetry Collector, on free ports for the duration of a test.
//!
//! Owns how tests start, stop and disturb the servers they need, and how they run the built
//! binaries. Used by tests only.
//!
//! Guarantees: everything listens on 127.0.0.1; every process started here ends, and every folder
//! created here is removed, when its value is dropped *or* the test process ends in any way,
//! SIGKILL included. The API blocks; it works in sync and async tests.
//!
//! Without the feature `servers` it has documents, processes, ports, waiting, and how PostgreSQL
//! and MinIO are prepared and started: what the repository's own tools need.

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
mod documents;
mod guard;
mod http;
#[cfg(feature = "servers")]
mod kafka;
#[cfg(feature = "servers")]
mod kube_api;
#[cfg(feature = "servers")]
mod minio;
mod minio_setup;
#[cfg(feature = "servers")]
mod pgbouncer;
mod ports;
#[cfg(feature = "servers")]
mod postgres;
mod postgres_setup;
mod process;
mod programs;
#[cfg(feature = "servers")]
mod python;
#[cfg(feature = "servers")]
mod silent_proxy;
#[cfg(feature = "servers")]
mod tokens;
mod unix_user;
mod wait;

#[cfg(feature = "servers")]
pub use agent::{AgentProcess, AgentProcessBuilder};
#[cfg(feature = "servers")]
pub use authority::{CertificateAuthority, IssuedCertificate};
#[cfg(feature = "servers")]
pub use cli::{CliRunner, ProgramOutput};
#[cfg(feature = "servers")]
pub use collector::{OtelCollector, ReceivedSpan};
#[cfg(feature = "servers")]
pub use docs::assert_current;
pub use documents::{CommandScope, DocumentedCommand, extract_commands};
pub use guard::create_temp_folder;
pub use http::{HttpResponse, http_get};
#[cfg(feature = "servers")]
pub use kafka::{KafkaBroker, KafkaProgram};
#[cfg(feature = "servers")]
pub use kube_api::KubeApi;
#[cfg(feature = "servers")]
pub use minio::MinIo;
pub use minio_setup::MinIoSetup;
#[cfg(feature = "servers")]
pub use pgbouncer::PgBouncer;
pub use ports::ReservedPort;
#[cfg(feature = "servers")]
pub use postgres::Postgres;
pub use postgres_setup::{PostgresLogin, PostgresSetup};
pub use process::{ChildProcess, ProcessBuilder};
#[cfg(feature = "servers")]
pub use programs::{built_binary, franz_go_client, franz_go_tests};
#[cfg(feature = "servers")]
pub use python::kafka_python;
#[cfg(feature = "servers")]
pub use silent_proxy::SilentProxy;
#[cfg(feature = "servers")]
pub use tokens::TokenIssuer;
pub use unix_user::UnixUser;
pub use wait::wait_until;
