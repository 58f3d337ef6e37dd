//! Functions that open a store or work on a store as a whole: migrate it, inspect its schema, back
//! it up, drop it.
//!
//! The scheme of the address selects the backend. The agent and the operator call them.

use std::{path::Path, sync::Arc};

use crate::{ConnectOptions, Error, MetadataStore, MigrationOutcome, Result, SchemaState, postgres, sqlite};

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
/// [`Error::InvalidAddress`] if it is invalid. The message names the problem and contains no part
/// of a password.
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
/// [`Error::InvalidAddress`] if the address is invalid, [`Error::SchemaMismatch`] if the schema is
/// not that of this build, [`Error::Unavailable`] if the database cannot be reached.
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
/// [`Error::InvalidAddress`] and [`Error::Unavailable`] as for [`connect`].
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
/// StreamHouse, [`Error::InvalidAddress`] and [`Error::Unavailable`] as for [`connect`].
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
