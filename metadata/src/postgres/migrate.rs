//! Migrates PostgreSQL, checks the schema on connect, and drops it. A store does not migrate
//! itself, so that a rolling upgrade does it once and when the operator decides.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, Row,
    migrate::{Migrate, MigrateError, Migrator},
    query, query_as, query_scalar, raw_sql,
};

use self::prepare::prepare_migration;
use super::{
    PostgresConnector, ServerTimeouts, StoreConnection, TransactionScope, connect_once,
    errors::{PostgresErrorClass, classify_error, store_error},
};
use crate::{
    ConnectOptions, Error, Result, SchemaWindow,
    schema::{
        AGENT_WINDOWS_VERSION, AppliedMigration, MigrationOutcome, MigrationRequest, SchemaState,
        StoreOverview, TABLES, UnsealedAgentRow, check_versions, check_window, migrate_error,
    },
    transaction::{
        MAX_ATTEMPTS, TransactionError, TransactionResult, retry_delay, timeout_error, with_timeout,
    },
};

/// The numbered migrations, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// The time limit for dropping all tables, which may be large.
const DROP_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs `$body` in `$scope` on the connection `$conn`, and again after a conflict with another
/// transaction.
macro_rules! run_in_scope {
    ($conn:ident, $scope:ident, $body:expr) => {{
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome: TransactionResult<_> = async {
                let open = $conn.begin(TransactionScope::$scope).await?;
                let done: TransactionResult<_> = $body.await;
                match &done {
                    Ok(_) if open => $conn.commit().await?,
                    // If it fails, the connection is broken, which releases the locks too.
                    Err(_) if open => drop($conn.rollback().await),
                    _ => {}
                }
                done
            }
            .await;
            match outcome {
                Ok(value) => break Ok(value),
                Err(TransactionError::Refused(error)) => break Err(error),
                Err(TransactionError::TimedOut) => break Err(timeout_error(Duration::ZERO)),
                Err(TransactionError::Sql(error)) => match classify_error(error) {
                    PostgresErrorClass::Retryable(_) if attempt < MAX_ATTEMPTS => {
                        tokio::time::sleep(retry_delay(attempt)).await
                    }
                    PostgresErrorClass::Retryable(error)
                    | PostgresErrorClass::StaleConnection(error)
                    | PostgresErrorClass::BrokenConnection(error)
                    | PostgresErrorClass::Final(error) => break Err(error),
                },
            }
        }
    }};
}

/// The maximum time for which a migration waits for a table that others use. Their next statements
/// wait behind it, and no agent may miss its renewals because of that.
const TABLE_LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after which such a migration tries again, and how often it does.
const LOCK_RETRY_DELAY: Duration = Duration::from_secs(2);
const MAX_LOCK_ATTEMPTS: u32 = 25;

/// Reads the migrations that were run, on any connection.
macro_rules! read_applied {
    ($conn:expr) => {{
        let there: bool = query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut *$conn)
            .await?;
        let stored: Vec<AppliedMigration> = if there {
            query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
                .fetch_all(&mut *$conn)
                .await?
        } else {
            Vec::new()
        };
        stored
    }};
}

/// Reads what the database holds, on any connection.
macro_rules! read_overview {
    ($conn:expr, $window:expr) => {{
        let stored = read_applied!($conn);
        let found = check_versions(&MIGRATOR, &stored, $window)?;
        if found == 0 {
            StoreOverview::empty($window)
        } else {
            let cluster_id = query_scalar("SELECT cluster_id FROM cluster")
                .fetch_optional(&mut *$conn)
                .await?;
            let agents: Vec<UnsealedAgentRow> = query_as(unsealed_agents_sql(found))
                .fetch_all(&mut *$conn)
                .await?;
            let schema = SchemaState {
                found,
                window: $window,
            };
            StoreOverview::of_agents(schema, cluster_id, &agents)
        }
    }};
}

/// Selects the incarnations that are not sealed, by agent id.
macro_rules! unsealed_agents_sql {
    ($window:literal) => {
        concat!(
            "SELECT incarnation, agent_id, version, ",
            $window,
            ", lease_expires_at < clock_timestamp() AS expired
             FROM agents WHERE sealed_at IS NULL ORDER BY agent_id"
        )
    };
}

fn unsealed_agents_sql(version: i64) -> &'static str {
    if version >= AGENT_WINDOWS_VERSION {
        unsealed_agents_sql!("schema_min::bigint AS schema_min, schema_max::bigint AS schema_max")
    } else {
        unsealed_agents_sql!("NULL::bigint AS schema_min, NULL::bigint AS schema_max")
    }
}

mod prepare;

/// Migrates the database that `url` names. The migrator holds an advisory lock, and each migration
/// is a transaction.
pub(crate) async fn migrate(
    url: &str,
    options: &ConnectOptions,
    request: &MigrationRequest,
) -> Result<MigrationOutcome> {
    let mut attempt = 1;
    loop {
        match migrate_once(url, options, request).await {
            Err(failure) if failure.is_lock_timeout() && attempt < MAX_LOCK_ATTEMPTS => {
                tracing::info!(
                    attempt,
                    "a table to migrate is in use, as by a backup; trying again"
                );
                tokio::time::sleep(LOCK_RETRY_DELAY).await;
            }
            done => return done.map_err(Error::from),
        }
        attempt += 1;
    }
}

/// The reason why a migration failed.
#[derive(Debug)]
enum MigrationFailure {
    Refused(Error),
    Failed(MigrateError),
}

impl MigrationFailure {
    /// Returns whether a table was in use for too long.
    fn is_lock_timeout(&self) -> bool {
        let Self::Failed(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = self
        else {
            return false;
        };
        let code = error.as_database_error().and_then(|error| error.code());
        code.as_deref() == Some("55P03")
    }
}

impl From<Error> for MigrationFailure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for MigrationFailure {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(MigrateError::Execute(error))
    }
}

impl From<MigrateError> for MigrationFailure {
    fn from(error: MigrateError) -> Self {
        Self::Failed(error)
    }
}

impl From<MigrationFailure> for Error {
    fn from(failure: MigrationFailure) -> Self {
        match failure {
            MigrationFailure::Refused(error) => error,
            MigrationFailure::Failed(error) => migrate_error(error, store_error),
        }
    }
}

async fn migrate_once(
    url: &str,
    options: &ConnectOptions,
    request: &MigrationRequest,
) -> Result<MigrationOutcome, MigrationFailure> {
    // A migration of a large table takes long, and so does the wait for a concurrent migration.
    let unbounded = ServerTimeouts {
        statement: 0,
        lock: 0,
    };
    let mut conn = connect_once(&PostgresConnector::new(url, options, unbounded)?, options).await?;
    let outcome = if conn.is_pooled() {
        migrate_through_pooler(&mut conn, options.schema, request).await?
    } else {
        let raw = conn.raw();
        // Held until the connection is closed. The migrator takes it once more.
        raw.lock().await?;
        let outcome = prepare_migration(raw, options.schema, request).await?;
        if outcome.from < outcome.to {
            let limit = format!("SET lock_timeout = {}", TABLE_LOCK_TIMEOUT.as_millis());
            raw_sql(AssertSqlSafe(limit)).execute(&mut *raw).await?;
            // Not `run_to`: its future is not `Send` ("`Acquire` is not general enough").
            MIGRATOR.run_direct(Some(outcome.to), raw, false).await?;
        }
        outcome
    };
    conn.close().await?;
    Ok(outcome)
}

/// Runs all migrations in one transaction, which a pooler keeps on one server connection. The
/// migrator's prepared statements and lock belong to that connection and are released before
/// another client gets it.
async fn migrate_through_pooler(
    conn: &mut StoreConnection,
    window: SchemaWindow,
    request: &MigrationRequest,
) -> Result<MigrationOutcome, MigrationFailure> {
    let mut whole = conn.raw().begin().await?;
    raw_sql("DEALLOCATE ALL").execute(&mut *whole).await?;
    // The migrator releases its lock when it is done, which is before this transaction commits.
    let database: String = raw_sql("SELECT current_database()::text")
        .fetch_one(&mut *whole)
        .await?
        .try_get(0)?;
    let lock = format!("SELECT pg_advisory_xact_lock({})", migration_lock_key(&database));
    raw_sql(AssertSqlSafe(lock)).execute(&mut *whole).await?;
    let planned = prepare_migration(&mut whole, window, request).await;
    let migrated = match &planned {
        Ok(outcome) if outcome.from < outcome.to => {
            let limit = format!("SET LOCAL lock_timeout = {}", TABLE_LOCK_TIMEOUT.as_millis());
            raw_sql(AssertSqlSafe(limit)).execute(&mut *whole).await?;
            let mut steps = whole.begin().await?;
            let migrated = MIGRATOR.run_direct(Some(outcome.to), &mut *steps, false).await;
            match migrated {
                Ok(()) => steps.commit().await?,
                Err(_) => steps.rollback().await?,
            }
            migrated
        }
        _ => Ok(()),
    };
    raw_sql("SELECT pg_advisory_unlock_all(); DEALLOCATE ALL")
        .execute(&mut *whole)
        .await?;
    whole.commit().await?;
    migrated?;
    planned
}

/// Reads what the database that `url` names holds.
pub(crate) async fn overview(url: &str, options: &ConnectOptions) -> Result<StoreOverview> {
    let mut conn = open(url, options).await?;
    with_timeout(options.attempt_limit(), async {
        let overview = run_in_scope!(conn, Statement, read_overview(&mut conn, options.schema))?;
        conn.close().await.map_err(store_error)?;
        Ok(overview)
    })
    .await
}

async fn read_overview(conn: &mut StoreConnection, window: SchemaWindow) -> TransactionResult<StoreOverview> {
    Ok(read_overview!(conn, window))
}

async fn open(url: &str, options: &ConnectOptions) -> Result<StoreConnection> {
    let opening = PostgresConnector::new(url, options, ServerTimeouts::from_options(options))?;
    connect_once(&opening, options).await
}

/// Drops the tables of StreamHouse in the database that `url` names.
pub(crate) async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    // Dropping large tables takes long; the wait for transactions that use them is bounded.
    let timeouts = ServerTimeouts {
        statement: 0,
        ..ServerTimeouts::from_options(options)
    };
    let mut conn = connect_once(&PostgresConnector::new(url, options, timeouts)?, options).await?;
    with_timeout(DROP_TIMEOUT, async {
        let dropped = run_in_scope!(conn, Transaction, drop_tables(&mut conn, options.schema))?;
        conn.close().await.map_err(store_error)?;
        Ok(dropped)
    })
    .await
}

/// Drops all tables unless an agent is live; returns whether there were any. No agent can register
/// meanwhile: it waits for the lock and then finds no table.
async fn drop_tables(conn: &mut StoreConnection, window: SchemaWindow) -> TransactionResult<bool> {
    // Excludes a concurrent migration.
    let database: String = query_scalar("SELECT current_database()::text")
        .fetch_one(&mut *conn)
        .await?;
    query("SELECT pg_advisory_xact_lock($1)")
        .bind(migration_lock_key(&database))
        .execute(&mut *conn)
        .await?;
    let found = check_versions(&MIGRATOR, &read_applied!(conn), window)?;
    if found == 0 {
        return Ok(false);
    }
    // In the common lock order: the cluster, then the agents.
    query("LOCK TABLE cluster, agents IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *conn)
        .await?;
    let agents: Vec<UnsealedAgentRow> = query_as(unsealed_agents_sql(found)).fetch_all(&mut *conn).await?;
    if let Some(agent) = agents.iter().find_map(UnsealedAgentRow::live_agent) {
        return Err(Error::AgentHoldsLease(agent.agent_id).into());
    }
    let tables = format!("DROP TABLE IF EXISTS {}", TABLES.join(", "));
    query(AssertSqlSafe(tables)).execute(&mut *conn).await?;
    query("DROP SEQUENCE IF EXISTS producer_ids")
        .execute(conn)
        .await?;
    Ok(true)
}

/// Returns the key of the migrator's advisory lock: a constant times the CRC-32 of the database's
/// name.
fn migration_lock_key(database: &str) -> i64 {
    let crc = database.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    });
    0x3d32_ad9e * i64::from(!crc)
}

/// What [`check_registration`] compares.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegistrationFence {
    /// The key of the lock that a migration holds.
    lock_key: i64,
    /// The versions that this build runs on.
    window: SchemaWindow,
}

/// Refuses a database whose schema is outside the window of this build, or changed.
pub(super) async fn check_schema(
    conn: &mut StoreConnection,
    window: SchemaWindow,
) -> Result<RegistrationFence> {
    run_in_scope!(conn, Statement, async {
        let found = check_versions(&MIGRATOR, &read_applied!(conn), window)?;
        check_window(window, found)?;
        let database: String = query_scalar("SELECT current_database()::text")
            .fetch_one(&mut *conn)
            .await?;
        Ok(RegistrationFence {
            lock_key: migration_lock_key(&database),
            window,
        })
    })
}

/// Excludes migrations until the transaction ends, and refuses a schema outside the window. Returns
/// the window if the schema has the columns for it.
pub(super) async fn check_registration(
    conn: &mut StoreConnection,
    fence: RegistrationFence,
) -> TransactionResult<Option<SchemaWindow>> {
    // Before any other lock: a migration waits for this one with no lock on a table.
    query("SELECT pg_advisory_xact_lock_shared($1)")
        .bind(fence.lock_key)
        .execute(&mut *conn)
        .await?;
    let found = schema_version(conn).await?;
    check_window(fence.window, found)?;
    Ok((found >= AGENT_WINDOWS_VERSION).then_some(fence.window))
}

/// Returns the version of the schema in force.
pub(super) async fn schema_version(conn: &mut StoreConnection) -> TransactionResult<i64> {
    let found: Option<i64> = query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(conn)
        .await?;
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, migrate::Migrate, query_scalar};
    use streamhouse_testkit::Postgres;

    use super::migration_lock_key;

    #[tokio::test]
    async fn the_migrators_lock_is_the_one_that_a_drop_takes() {
        let url = Postgres::shared().unwrap().create_database("locked").unwrap();
        let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
        conn.lock().await.unwrap();
        let held: (i64, i64) = sqlx::query_as(
            "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        assert_eq!((held.0 << 32) | held.1, migration_lock_key("locked"));
        let free: bool = query_scalar("SELECT pg_advisory_unlock($1)")
            .bind(migration_lock_key("locked"))
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert!(free);
    }
}
