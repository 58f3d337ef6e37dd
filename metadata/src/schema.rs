//! Compares the version of a store's schema with the one that this build needs. Both stores number
//! their migrations from 1.

use sqlx::migrate::{MigrateError, Migrator};

use crate::{Error, Result};

/// The result of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationOutcome {
    /// The version before; 0 for an empty store.
    pub from: i64,
    /// The version that this build needs and that is now in force.
    pub to: i64,
}

/// The version of a store and the version that this build needs; equal if nothing has to be
/// migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// The version of the store; 0 for an empty store.
    pub found: i64,
    /// The version that this build needs.
    pub needed: i64,
}

/// All tables of StreamHouse, each before the tables that it references, and finally the
/// migrator's.
pub(crate) const TABLES: [&str; 17] = [
    "topic_owners",
    "topic_names",
    "abandoned_segments",
    "consumer_offsets",
    "consumer_groups",
    "producer_state",
    "deletions",
    "segment_intents",
    "segments",
    "ranges",
    "wal_objects",
    "partitions",
    "topics",
    "agents",
    "nodes",
    "cluster",
    "_sqlx_migrations",
];

/// The version and checksum of a migration that was run.
pub(crate) type AppliedMigration = (i64, Vec<u8>);

/// Returns the stored and the needed version.
///
/// # Errors
///
/// [`Error::SchemaMismatch`] if the store is newer than this build or was created by a migration
/// that has been changed since.
pub(crate) fn check_versions(migrator: &Migrator, stored: &[AppliedMigration]) -> Result<(i64, i64)> {
    let needed = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default();
    let from = stored
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or_default();
    if from > needed {
        return Err(Error::SchemaMismatch(format!(
            "the metadata schema has version {from}, this build knows versions up to {needed}: run a newer build"
        )));
    }
    for migration in migrator.iter() {
        let found = stored.iter().find(|(version, _)| *version == migration.version);
        if found.is_some_and(|(_, checksum)| checksum.as_slice() != migration.checksum.as_ref()) {
            return Err(changed_migration_error(migration.version));
        }
    }
    Ok((from, needed))
}

/// Returns the error for a store that is older than this build.
pub(crate) fn outdated_schema_error(from: i64, needed: i64) -> Error {
    let found = if from == 0 {
        "is empty".to_owned()
    } else {
        format!("has version {from}")
    };
    Error::SchemaMismatch(format!(
        "the metadata schema {found}, this build needs version {needed}: run `streamhouse-agent migrate`"
    ))
}

fn changed_migration_error(version: i64) -> Error {
    Error::SchemaMismatch(format!(
        "migration {version} of the metadata schema is not the one that was run: this build and the metadata store are incompatible"
    ))
}

/// Converts the error of a failed migration; `refusal` converts the errors of the database.
pub(crate) fn migrate_error(error: MigrateError, refusal: fn(sqlx::Error) -> Error) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refusal(error),
        MigrateError::VersionMismatch(version) => changed_migration_error(version),
        MigrateError::VersionMissing(version) => Error::SchemaMismatch(format!(
            "the metadata schema has version {version}, which this build does not know: run a newer build"
        )),
        other => Error::SchemaMismatch(other.to_string()),
    }
}
