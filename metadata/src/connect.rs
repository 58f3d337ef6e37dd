//! Functions that open a store or work on a store as a whole: migrate it, inspect its schema, back
//! it up, drop it.
//!
//! The scheme of the address selects the backend. The agent and the operator call them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    ConnectOptions, Error, MetadataStore, MigrationOutcome, MigrationRequest, Result, SchemaState,
    StoreOverview, postgres, sqlite,
};

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
/// A SQLite file is created and migrated; PostgreSQL must have been migrated with [`migrate`] to a
/// version that this build runs on. A
/// connection pooler in front of PostgreSQL is detected; statements are then not prepared. Takes no
/// longer than [`ConnectOptions::call_limit`].
///
/// # Errors
///
/// [`Error::InvalidAddress`] if the address is invalid, [`Error::SchemaMismatch`] if this build
/// does not run on the schema, [`Error::Unavailable`] if the database cannot be reached.
pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::connect(url, options).await,
        BackendKind::Sqlite => sqlite::connect(url, options).await,
    }
}

/// Opens the store at `url` as it is: neither creates nor migrates it. For commands that only look;
/// otherwise as [`connect`].
///
/// # Errors
///
/// As [`connect`]; [`Error::SchemaMismatch`] also if the store is empty or the SQLite file does not
/// exist.
pub async fn connect_existing(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::connect(url, options).await,
        BackendKind::Sqlite => sqlite::connect_existing(url, options).await,
    }
}

/// Returns the file of an embedded store (SQLite), which [`connect`] creates and migrates; `None`
/// for PostgreSQL.
pub fn embedded_file(url: &str) -> Option<PathBuf> {
    match parse_backend(url).ok()? {
        BackendKind::Postgres => None,
        BackendKind::Sqlite => sqlite::file_path(url).ok(),
    }
}

/// Migrates the schema of the store at `url` to the newest version of this build; see
/// [`migrate_to`].
///
/// # Errors
///
/// As [`migrate_to`].
pub async fn migrate(url: &str, options: &ConnectOptions) -> Result<MigrationOutcome> {
    migrate_to(url, options, &MigrationRequest::default()).await
}

/// Migrates the schema of the store at `url`.
///
/// May be repeated and run concurrently. No agent registers during a migration. A migration takes
/// the time that it needs, but does not wait long for a table that others use: they would have to
/// wait behind it. It then steps back and tries again, for about two minutes.
///
/// # Errors
///
/// [`Error::MigrationBlocked`] if a live agent does not run on the new version,
/// [`Error::SchemaMismatch`] if the schema is newer than this build or was changed,
/// [`Error::InvalidAddress`] and [`Error::Unavailable`] as for [`connect`].
pub async fn migrate_to(
    url: &str,
    options: &ConnectOptions,
    request: &MigrationRequest,
) -> Result<MigrationOutcome> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::migrate(url, options, request).await,
        BackendKind::Sqlite => sqlite::migrate(url, options, request).await,
    }
}

/// Returns the version of the schema at `url`, the id of the cluster and the live agents.
///
/// Only reads, and with any older version of the schema. An empty store or a SQLite file that does
/// not exist has version 0.
///
/// # Errors
///
/// [`Error::SchemaMismatch`] if the schema is newer than this build or was not created by
/// StreamHouse, [`Error::InvalidAddress`] and [`Error::Unavailable`] as for [`connect`].
pub async fn overview(url: &str, options: &ConnectOptions) -> Result<StoreOverview> {
    match parse_backend(url)? {
        BackendKind::Postgres => postgres::overview(url, options).await,
        BackendKind::Sqlite => sqlite::overview(url, options).await,
    }
}

/// Returns the version of the schema at `url` and the versions that this build runs on; see
/// [`overview`].
///
/// # Errors
///
/// As [`overview`].
pub async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    Ok(overview(url, options).await?.schema)
}

/// Returns the id of the cluster whose store is at `url`; `None` for an empty store. See
/// [`overview`].
///
/// # Errors
///
/// As [`overview`].
pub async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    Ok(overview(url, options).await?.cluster_id)
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

/// Returns the id of an agent that holds its lease in the store at `url`, if there is one; see
/// [`overview`]. Used before a store is deleted.
///
/// # Errors
///
/// As [`overview`].
pub async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let live = overview(url, options).await?.live_agents.into_iter().next();
    Ok(live.map(|agent| agent.agent_id))
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
