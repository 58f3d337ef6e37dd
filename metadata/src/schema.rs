//! The version of the schema: what a store has against what this build needs. Both stores number their migrations from 1.

use sqlx::migrate::{MigrateError, Migrator};

use crate::{Error, Result};

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version found; 0 for an empty store.
    pub from: i64,
    /// The version that this build needs, and that is in force now.
    pub to: i64,
}

/// What a store has against what this build needs; equal when nothing is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// The version found; 0 for an empty store.
    pub found: i64,
    /// The version that this build needs.
    pub needed: i64,
}

/// Every table of ours, whoever references another before it, and last the migrator's own.
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

/// A migration that was run: its version and checksum.
pub(crate) type Stored = (i64, Vec<u8>);

/// The version stored and the version needed. An error when the store is ahead of this build, or was made by a migration
/// that has been changed since.
pub(crate) fn versions(migrator: &Migrator, stored: &[Stored]) -> Result<(i64, i64)> {
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
        return Err(Error::Schema(format!(
            "the metadata schema has version {from}, this build knows versions up to {needed}: run a newer build"
        )));
    }
    for migration in migrator.iter() {
        let found = stored.iter().find(|(version, _)| *version == migration.version);
        if found.is_some_and(|(_, checksum)| checksum.as_slice() != migration.checksum.as_ref()) {
            return Err(changed(migration.version));
        }
    }
    Ok((from, needed))
}

/// The refusal of a store that is behind this build.
pub(crate) fn too_old(from: i64, needed: i64) -> Error {
    let found = if from == 0 {
        "is empty".to_owned()
    } else {
        format!("has version {from}")
    };
    Error::Schema(format!(
        "the metadata schema {found}, this build needs version {needed}: run `streamhouse-agent migrate`"
    ))
}

fn changed(version: i64) -> Error {
    Error::Schema(format!(
        "migration {version} of the metadata schema is not the one that was run: this build and the store do not belong together"
    ))
}

/// The crate's error for a migration that failed; `refusal` reads the database's own errors.
pub(crate) fn migrate_error(error: MigrateError, refusal: fn(sqlx::Error) -> Error) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refusal(error),
        MigrateError::VersionMismatch(version) => changed(version),
        MigrateError::VersionMissing(version) => Error::Schema(format!(
            "the metadata schema has version {version}, which this build does not know: run a newer build"
        )),
        other => Error::Schema(other.to_string()),
    }
}
