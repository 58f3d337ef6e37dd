//! Functions that open a store or work on a store as a whole: migrate it, inspect its schema, back
//! it up, drop it.
//!
//! The scheme of the address selects the backend. The agent and the operator call them.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use crate::{Error, MetadataStore, MigrationOutcome, Result, SchemaState, postgres, sqlite};

/// Configures the connections to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The maximum number of connections, at least 3 (for SQLite: of readers).
    ///
    /// Lease renewals, writes and reads use separate pools. Of 8 connections they have 2, 3 and 3;
    /// of more, leases have 2 and the others half of the rest each.
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for a new one to be opened.
    pub acquire_timeout: Duration,
    /// How long one statement may take, including the wait for locks.
    ///
    /// The database ends a transaction whose client is idle after the same time, so that it holds
    /// its locks no longer. The client gives up a call slightly later, even if the database does
    /// not respond, and closes the connection.
    pub statement_timeout: Duration,
    /// The application name that the database shows, unless the address contains one.
    pub application_name: String,
    /// Overrides the TLS parameters of the address (`sslmode`, `sslrootcert`). Ignored by SQLite.
    pub tls: Option<TlsOptions>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            application_name: "streamhouse".to_owned(),
            tls: None,
        }
    }
}

impl ConnectOptions {
    /// Returns how long one attempt may take once it has a connection: slightly longer than the
    /// database's limit for a statement, so that a slow database ends the statement itself.
    pub(crate) fn attempt_limit(&self) -> Duration {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        self.statement_timeout + (self.statement_timeout / 5).clamp(least, most)
    }

    /// Returns the maximum duration of any call, including the wait for a connection and all
    /// attempts.
    pub fn call_limit(&self) -> Duration {
        self.acquire_timeout + self.attempt_limit()
    }
}

/// Configures TLS to PostgreSQL, with certificates in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How the server's certificate is verified.
    pub mode: TlsMode,
    /// Certificates in PEM that are trusted in addition to the system's.
    pub ca_pem: Option<Vec<u8>>,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("mode", &self.mode)
            .field("ca_pem", &self.ca_pem.as_ref().map(Vec::len))
            .finish()
    }
}

/// How the server's certificate is verified; named after libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Encrypts without verification. With a CA, the same as [`VerifyCa`](Self::VerifyCa), as in
    /// libpq.
    Require,
    /// Requires a certificate that a trusted CA signed.
    VerifyCa,
    /// As [`VerifyCa`](Self::VerifyCa), and the certificate must name the host of the address.
    VerifyFull,
}

/// The backend that an address selects.
enum BackendKind {
    Postgres,
    Sqlite,
}

fn parse_backend(url: &str) -> Result<BackendKind> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(BackendKind::Postgres),
        Some("sqlite") => Ok(BackendKind::Sqlite),
        // The address itself may contain a password.
        _ => Err(Error::InvalidAddress(
            "the metadata address must begin with postgres://, postgresql:// or sqlite:".to_owned(),
        )),
    }
}

/// Validates an address without connecting.
///
/// # Errors
///
/// [`Error::Address`] if it is invalid. The message names the problem and contains no part of a
/// password.
pub fn check_address(url: &str) -> Result<()> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::check_address(url),
        BackendKind::Sqlite => sqlite::check_address(url),
    }
}

/// Opens the store at `url`: `postgres://user:password@host:port/database?sslmode=verify-full`,
/// `sqlite:PATH` or `sqlite::memory:`.
///
/// A SQLite file is created and migrated; PostgreSQL must have been migrated with [`migrate`]. A
/// connection pooler in front of PostgreSQL is detected; statements are then not prepared. Takes no
/// longer than [`ConnectOptions::call_limit`].
///
/// # Errors
///
/// [`Error::Address`] if the address is invalid, [`Error::SchemaMismatch`] if the schema is not
/// that of this build, [`Error::Unavailable`] if the database cannot be reached.
pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::connect(url, options).await,
        BackendKind::Sqlite => sqlite::connect(url, options).await,
    }
}

/// Migrates the schema of the store at `url` to the version of this build.
///
/// May be repeated and run concurrently. A migration takes the time that it needs: only the timeout
/// for the connection applies.
///
/// # Errors
///
/// [`Error::SchemaMismatch`] if the schema is newer than this build or was changed,
/// [`Error::Address`] and [`Error::Unavailable`] as for [`connect`].
pub async fn migrate(url: &str, options: &ConnectOptions) -> Result<MigrationOutcome> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::migrate(url, options).await,
        BackendKind::Sqlite => sqlite::migrate(url).await,
    }
}

/// Returns the version of the schema at `url` and the version that this build needs.
///
/// Only reads. An empty store or a SQLite file that does not exist has version 0.
///
/// # Errors
///
/// [`Error::SchemaMismatch`] if the schema is newer than this build or was not created by
/// StreamHouse, [`Error::Address`] and [`Error::Unavailable`] as for [`connect`].
pub async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::schema(url, options).await,
        BackendKind::Sqlite => sqlite::schema(url, options).await,
    }
}

/// Returns the id of the cluster whose store is at `url`, whatever the version of its schema;
/// `None` for an empty store. Only reads.
///
/// # Errors
///
/// As [`schema`].
pub async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::cluster_id(url, options).await,
        BackendKind::Sqlite => sqlite::cluster_id(url, options).await,
    }
}

/// Copies the SQLite file at `url` to `to` as of one moment, also while agents use it.
///
/// Returns `false` for PostgreSQL, which has its own tools for backups.
///
/// # Errors
///
/// [`Error::Unavailable`] if the file does not exist, or `to` exists or cannot be written;
/// [`Error::SchemaMismatch`] as for [`schema`].
pub async fn backup(url: &str, options: &ConnectOptions, to: &Path) -> Result<bool> {
    match parse_backend(url)? {
        BackendKind::Postgres => Ok(false),
        BackendKind::Sqlite => sqlite::backup(url, options, to).await.map(|()| true),
    }
}

/// Returns the id of an agent that holds its lease in the store at `url`, if there is one.
///
/// Used before a store is deleted. Only reads; a store without a schema has no agent.
///
/// # Errors
///
/// As [`schema`].
pub async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::live_agent(url, options).await,
        BackendKind::Sqlite => sqlite::live_agent(url, options).await,
    }
}

/// Drops every table of StreamHouse in the store at `url`, with all metadata of the cluster. Other
/// tables in the same database stay.
///
/// Drops all tables or none, and may be repeated. Returns whether there was a table to drop.
///
/// # Errors
///
/// [`Error::AgentHoldsLease`] while an agent holds its lease, [`Error::SchemaMismatch`] if the
/// tables are not those of this or an older build.
pub async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::drop_schema(url, options).await,
        BackendKind::Sqlite => sqlite::drop_schema(url, options).await,
    }
}
