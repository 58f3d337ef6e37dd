//! The schema versions that a build runs on, and the decision about a migration. Both stores number
//! their migrations from 1.
//!
//! Several versions fit one build, so that agents are replaced first and the schema is migrated
//! afterwards: a migration never leaves the window of an agent that is live.

use std::fmt;

use serde::Serialize;
use sqlx::migrate::{MigrateError, Migrator};

use crate::{
    Error, Result,
    schema_window::{SchemaWindow, release_window},
};

/// The first schema version whose table `agents` has the window of each agent.
pub(crate) const AGENT_WINDOWS_VERSION: i64 = 6;

/// The first schema version that has users, ACLs and quotas.
pub(crate) const SECURITY_TABLES_VERSION: i64 = 7;

/// Refuses a change of users, ACLs or quotas on a schema without their tables.
pub(crate) fn check_security_tables(found: i64) -> Result<()> {
    if found < SECURITY_TABLES_VERSION {
        return Err(Error::SchemaMismatch(format!(
            "the metadata schema has version {found}, but schema version {SECURITY_TABLES_VERSION} is needed for users, ACLs and \
             quotas: run `streamhouse-agent migrate`"
        )));
    }
    Ok(())
}

/// Refuses a version outside the window of this build.
pub(crate) fn check_window(window: SchemaWindow, found: i64) -> Result<()> {
    if found > window.max {
        return Err(Error::SchemaMismatch(format!(
            "the metadata schema has version {found}, this build runs on {window}: run a newer build"
        )));
    }
    if found < window.min {
        let found = match found {
            0 => "is empty".to_owned(),
            found => format!("has version {found}"),
        };
        return Err(Error::SchemaMismatch(format!(
            "the metadata schema {found}, this build runs on {window}: run `streamhouse-agent migrate`"
        )));
    }
    Ok(())
}

/// The result of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationOutcome {
    /// The version before; 0 for an empty store.
    pub from: i64,
    /// The version that is now in force.
    pub to: i64,
}

/// A migration that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MigrationRequest {
    /// The version to migrate to; the newest of the build if `None`.
    pub to: Option<i64>,
    /// Migrates also if a live agent does not run on the new version.
    pub ignore_agents: bool,
}

/// The version of a store and the versions that this build runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// The version of the store; 0 for an empty store.
    pub found: i64,
    /// The versions that this build runs on.
    pub window: SchemaWindow,
}

impl SchemaState {
    /// Returns whether this build runs on the store.
    pub fn is_supported(&self) -> bool {
        self.window.contains(self.found)
    }
}

/// An agent that is not sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LiveAgent {
    /// The id of the agent.
    pub agent_id: String,
    /// The version that it runs.
    pub version: String,
    /// The schema versions that it runs on: as it registered them, otherwise those of its release;
    /// `None` if unknown.
    pub window: Option<SchemaWindow>,
}

/// An incarnation that is not sealed, as a store reads it whatever the version of its schema.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct UnsealedAgentRow {
    incarnation: i64,
    agent_id: String,
    version: String,
    /// The window that the agent registered, if it did.
    schema_min: Option<i64>,
    schema_max: Option<i64>,
    /// Whether its lease has expired.
    expired: bool,
}

impl UnsealedAgentRow {
    /// Returns the agent if it holds its lease.
    pub(crate) fn live_agent(&self) -> Option<LiveAgent> {
        (!self.expired).then(|| self.agent())
    }

    fn agent(&self) -> LiveAgent {
        let registered = self.schema_min.zip(self.schema_max);
        let window = registered.map(|(min, max)| SchemaWindow { min, max });
        LiveAgent {
            agent_id: self.agent_id.clone(),
            version: self.version.clone(),
            window: window.or_else(|| release_window(&self.version)),
        }
    }
}

/// Returns the incarnations that a migration to version `to` seals: their lease has expired, and
/// their agents are not known to run on that version. Such an agent may only be paused; once it is
/// sealed, nothing that it still sends is committed.
pub(crate) fn incarnations_to_seal(rows: &[UnsealedAgentRow], to: i64) -> Vec<i64> {
    let outdated = rows.iter().filter(|row| row.expired && !row.agent().runs_on(to));
    outdated.map(|row| row.incarnation).collect()
}

impl LiveAgent {
    /// Returns whether the agent is known to run on this version.
    pub fn runs_on(&self, version: i64) -> bool {
        self.window.is_some_and(|window| window.contains(version))
    }
}

impl fmt::Display for LiveAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {}, ", self.agent_id, self.version)?;
        match self.window {
            Some(window) => write!(f, "schema {window})"),
            None => f.write_str("schema versions unknown)"),
        }
    }
}

/// What a store holds, as far as it is known whatever the version of its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOverview {
    /// The version of the schema.
    pub schema: SchemaState,
    /// The id of the cluster; `None` for an empty store.
    pub cluster_id: Option<String>,
    /// The agents that hold their lease, by id.
    pub live_agents: Vec<LiveAgent>,
    /// The agents whose lease has expired and that are not sealed yet, by id.
    pub expired_agents: Vec<LiveAgent>,
}

impl StoreOverview {
    /// Returns the overview of a store without a schema.
    pub(crate) fn empty(window: SchemaWindow) -> Self {
        Self {
            schema: SchemaState { found: 0, window },
            cluster_id: None,
            live_agents: Vec::new(),
            expired_agents: Vec::new(),
        }
    }

    /// Returns the overview of a store with a schema and these agents.
    pub(crate) fn of_agents(
        schema: SchemaState,
        cluster_id: Option<String>,
        agents: &[UnsealedAgentRow],
    ) -> Self {
        let (expired, live): (Vec<_>, Vec<_>) = agents.iter().partition(|row| row.expired);
        let describe = |rows: Vec<&UnsealedAgentRow>| rows.into_iter().map(UnsealedAgentRow::agent).collect();
        Self {
            schema,
            cluster_id,
            live_agents: describe(live),
            expired_agents: describe(expired),
        }
    }

    /// Returns the expired agents that a migration to version `to` seals.
    pub fn sealed_by_migration(&self, to: i64) -> Vec<&LiveAgent> {
        let expired = self.expired_agents.iter();
        expired.filter(|agent| !agent.runs_on(to)).collect()
    }

    /// Returns what the migration would do.
    ///
    /// # Errors
    ///
    /// [`Error::MigrationBlocked`] if a live agent does not run on the new version,
    /// [`Error::SchemaMismatch`] if the store has a later version or this build does not know the
    /// new one.
    pub fn plan_migration(&self, request: &MigrationRequest) -> Result<MigrationOutcome> {
        let SchemaState { found, window } = self.schema;
        let to = request.to.unwrap_or(window.max);
        if to > window.max {
            return Err(Error::SchemaMismatch(format!(
                "the metadata schema cannot be migrated to version {to}: this build runs on {window}"
            )));
        }
        if to < found {
            return Err(Error::SchemaMismatch(format!(
                "the metadata schema has version {found} and cannot be migrated back to version {to}: restore a backup of that version"
            )));
        }
        let old: Vec<&LiveAgent> = self
            .live_agents
            .iter()
            .filter(|agent| !agent.runs_on(to))
            .collect();
        if to > found && !old.is_empty() && !request.ignore_agents {
            return Err(blocked_error(to, &old));
        }
        Ok(MigrationOutcome { from: found, to })
    }
}

/// The maximum number of agents that a message names.
const MAX_NAMED_AGENTS: usize = 5;

/// Returns the names of agents for a message.
pub fn list_agents(agents: &[&LiveAgent]) -> String {
    let named: Vec<String> = agents
        .iter()
        .take(MAX_NAMED_AGENTS)
        .map(ToString::to_string)
        .collect();
    let more = match agents.len().saturating_sub(MAX_NAMED_AGENTS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

fn blocked_error(to: i64, old: &[&LiveAgent]) -> Error {
    Error::MigrationBlocked(format!(
        "the metadata schema is not migrated to version {to}, because live agents are not known to run on it: {}; \
         replace or stop them first",
        list_agents(old)
    ))
}

/// All tables of StreamHouse, each before the tables that it references, and finally the
/// migrator's.
pub(crate) const TABLES: [&str; 21] = [
    "client_quotas",
    "acls",
    "scram_credentials",
    "user_owners",
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

/// Returns the stored version; 0 for an empty store.
///
/// # Errors
///
/// [`Error::SchemaMismatch`] if the store is newer than `window` or was created by a migration that
/// has been changed since.
pub(crate) fn check_versions(
    migrator: &Migrator,
    stored: &[AppliedMigration],
    window: SchemaWindow,
) -> Result<i64> {
    let found = stored
        .iter()
        .map(|(version, _)| *version)
        .max()
        .unwrap_or_default();
    if found > window.max {
        check_window(window, found)?;
    }
    for migration in migrator.iter() {
        let applied = stored.iter().find(|(version, _)| *version == migration.version);
        if applied.is_some_and(|(_, checksum)| checksum.as_slice() != migration.checksum.as_ref()) {
            return Err(changed_migration_error(migration.version));
        }
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: SchemaWindow = SchemaWindow { min: 6, max: 8 };

    fn agent(agent_id: &str, window: Option<(i64, i64)>) -> LiveAgent {
        LiveAgent {
            agent_id: agent_id.to_owned(),
            version: "0.0.9".to_owned(),
            window: window.map(|(min, max)| SchemaWindow { min, max }),
        }
    }

    fn plan(found: i64, agents: &[LiveAgent], to: Option<i64>, ignore_agents: bool) -> String {
        let overview = StoreOverview {
            schema: SchemaState {
                found,
                window: WINDOW,
            },
            cluster_id: None,
            live_agents: agents.to_vec(),
            expired_agents: Vec::new(),
        };
        match overview.plan_migration(&MigrationRequest { to, ignore_agents }) {
            Ok(MigrationOutcome { from, to }) => format!("{from} -> {to}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_migration_never_leaves_the_window_of_a_live_agent() {
        let (fits, old, unknown) = (
            agent("new-0", Some((6, 8))),
            agent("old-0", Some((6, 7))),
            agent("own-0", None),
        );
        assert_eq!(plan(0, &[], None, false), "0 -> 8");
        assert_eq!(plan(7, std::slice::from_ref(&fits), None, false), "7 -> 8");
        let both = [fits, old, unknown];
        assert_eq!(
            plan(7, &both, None, false),
            "the metadata schema is not migrated to version 8, because live agents are not known to run on it: \
             old-0 (version 0.0.9, schema versions 6 to 7), own-0 (version 0.0.9, schema versions unknown); replace or stop them first"
        );
        assert_eq!(plan(6, &both[..2], Some(7), false), "6 -> 7");
        assert_eq!(plan(7, &both, None, true), "7 -> 8");
        assert_eq!(plan(8, &both, None, false), "8 -> 8", "nothing is to be done");
        assert_eq!(plan(7, &both, Some(7), false), "7 -> 7");
    }

    #[test]
    fn a_migration_seals_the_expired_agents_that_do_not_run_on_it() {
        let row = |incarnation, window: Option<(i64, i64)>, expired| UnsealedAgentRow {
            incarnation,
            agent_id: format!("agent-{incarnation}"),
            version: "0.0.9".to_owned(),
            schema_min: window.map(|(min, _)| min),
            schema_max: window.map(|(_, max)| max),
            expired,
        };
        let rows = [
            row(1, Some((6, 7)), true),
            row(2, Some((6, 8)), true),
            row(3, None, true),
            row(4, None, false),
        ];
        assert_eq!(incarnations_to_seal(&rows, 8), [1, 3]);
        assert_eq!(incarnations_to_seal(&rows, 7), [3]);
        let schema = SchemaState {
            found: 6,
            window: WINDOW,
        };
        let overview = StoreOverview::of_agents(schema, None, &rows);
        assert_eq!(overview.live_agents, [agent("agent-4", None)]);
        let sealed = overview.sealed_by_migration(8);
        assert_eq!(sealed, [&agent("agent-1", Some((6, 7))), &agent("agent-3", None)]);
    }

    #[test]
    fn it_goes_forward_and_no_further_than_this_build() {
        let says = plan(7, &[], Some(6), true);
        assert!(says.contains("cannot be migrated back to version 6"), "{says}");
        let says = plan(7, &[], Some(9), true);
        assert!(says.contains("this build runs on versions 6 to 8"), "{says}");
    }

    #[test]
    fn outside_the_window_both_sides_are_named() {
        for (found, says) in [
            (
                9,
                "has version 9, this build runs on versions 6 to 8: run a newer build",
            ),
            (
                5,
                "has version 5, this build runs on versions 6 to 8: run `streamhouse-agent migrate`",
            ),
            (
                0,
                "is empty, this build runs on versions 6 to 8: run `streamhouse-agent migrate`",
            ),
        ] {
            let error = check_window(WINDOW, found).unwrap_err().to_string();
            assert!(error.ends_with(says), "{error}");
        }
        for inside in 6..=8 {
            check_window(WINDOW, inside).unwrap();
        }
    }

    #[test]
    fn many_agents_are_counted() {
        let agents: Vec<LiveAgent> = (0..7).map(|n| agent(&format!("agent-{n}"), None)).collect();
        let listed = list_agents(&agents.iter().collect::<Vec<_>>());
        assert!(
            listed.ends_with("agent-4 (version 0.0.9, schema versions unknown) and 2 more"),
            "{listed}"
        );
    }
}
