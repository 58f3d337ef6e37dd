//! Opening a store: the address chooses which one. Called by whoever needs metadata, once.

use std::{sync::Arc, time::Duration};

use crate::{Error, MetadataStore, Migrated, Result, sqlite};

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Connections at most (readers, for SQLite).
    pub max_connections: u32,
    /// How long a call waits for a free connection, and for the first one to be made.
    pub acquire_timeout: Duration,
    /// How long one statement may take, waiting for locks included. A transaction whose agent stands still is ended by the
    /// database after the same time, so that it holds up nobody for longer.
    pub statement_timeout: Duration,
    /// The name that the database shows for our connections.
    pub application_name: String,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            application_name: "streamhouse".to_owned(),
        }
    }
}

/// Which store an address means.
enum Backend {
    Postgres,
    Sqlite,
}

fn backend(url: &str) -> Result<Backend> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Backend::Postgres),
        Some("sqlite") => Ok(Backend::Sqlite),
        // Not the address itself: it may hold a password.
        _ => Err(Error::Unavailable(
            "the metadata address must begin with postgres://, postgresql:// or sqlite:".to_owned(),
        )),
    }
}

/// Opens the store at `url`: `postgres://user:password@host:port/database?sslmode=verify-full`, `sqlite:PATH` or
/// `sqlite::memory:`. A SQLite file is created and migrated; PostgreSQL must have been migrated with [`migrate`], else
/// [`Error::Schema`] says so. A pooler between us and PostgreSQL must keep a connection for a whole session: statements are prepared
/// and time-outs set once.
pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    match backend(url)? {
        Backend::Postgres => crate::postgres::connect(url, options).await,
        Backend::Sqlite => sqlite::connect(url, options).await,
    }
}

/// Brings the schema of the store at `url` to the version of this build. May be repeated and run by several at once.
pub async fn migrate(url: &str) -> Result<Migrated> {
    match backend(url)? {
        Backend::Postgres => crate::postgres::migrate(url).await,
        Backend::Sqlite => sqlite::migrate(url).await,
    }
}
