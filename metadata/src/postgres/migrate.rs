//! Migrates PostgreSQL, checks the schema on connect, and drops it. A store does not migrate
//! itself, so that a rolling upgrade does it once and when the operator decides.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, Row,
    migrate::{MigrateError, Migrator},
    query, query_scalar, raw_sql,
};

use super::{
    PostgresConnector, ServerTimeouts, StoreConnection, TransactionScope, connect_once,
    errors::{PostgresErrorClass, classify_error, store_error},
};
use crate::{
    ConnectOptions, Error, Result,
    schema::{
        AppliedMigration, MigrationOutcome, SchemaState, TABLES, check_versions, migrate_error,
        outdated_schema_error,
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

/// Migrates the database that `url` names. The migrator holds an advisory lock, and each migration
/// is a transaction.
pub(crate) async fn migrate(url: &str, options: &ConnectOptions) -> Result<MigrationOutcome> {
    // A migration of a large table takes long; it waits only for the lock of a concurrent
    // migration.
    let unbounded = ServerTimeouts {
        statement: 0,
        lock: 0,
    };
    let mut conn = connect_once(&PostgresConnector::new(url, options, unbounded)?, options).await?;
    let (from, to) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
    if from < to {
        let migrated = if conn.is_pooled() {
            migrate_through_pooler(&mut conn).await
        } else {
            // Not `run`: its future is not `Send` ("`Acquire` is not general enough").
            MIGRATOR.run_direct(None, conn.raw(), false).await
        };
        migrated.map_err(|error| migrate_error(error, store_error))?;
    }
    conn.close().await.map_err(store_error)?;
    Ok(MigrationOutcome { from, to })
}

/// Runs all migrations in one transaction, which a pooler keeps on one server connection. The
/// migrator's prepared statements and lock belong to that connection and are released before
/// another client gets it.
async fn migrate_through_pooler(conn: &mut StoreConnection) -> Result<(), MigrateError> {
    let mut whole = conn.raw().begin().await?;
    raw_sql("DEALLOCATE ALL").execute(&mut *whole).await?;
    // The migrator releases its lock when it is done, which is before this transaction commits.
    let database: String = raw_sql("SELECT current_database()::text")
        .fetch_one(&mut *whole)
        .await?
        .try_get(0)?;
    let lock = format!("SELECT pg_advisory_xact_lock({})", migration_lock_key(&database));
    raw_sql(AssertSqlSafe(lock)).execute(&mut *whole).await?;
    let mut steps = whole.begin().await?;
    let migrated = MIGRATOR.run_direct(None, &mut *steps, false).await;
    match migrated {
        Ok(()) => steps.commit().await?,
        Err(_) => steps.rollback().await?,
    }
    raw_sql("SELECT pg_advisory_unlock_all(); DEALLOCATE ALL")
        .execute(&mut *whole)
        .await?;
    whole.commit().await?;
    migrated
}

/// Reads the version of the schema of the database that `url` names.
pub(crate) async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    let mut conn = open(url, options).await?;
    with_timeout(options.attempt_limit(), async {
        let (found, needed) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        conn.close().await.map_err(store_error)?;
        Ok(SchemaState { found, needed })
    })
    .await
}

/// Reads the id of the cluster from the database that `url` names.
pub(crate) async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let mut conn = open(url, options).await?;
    with_timeout(options.attempt_limit(), async {
        let (found, _) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        let id = if found > 0 {
            run_in_scope!(conn, Statement, read_cluster_id(&mut conn))?
        } else {
            None
        };
        conn.close().await.map_err(store_error)?;
        Ok(id)
    })
    .await
}

async fn read_cluster_id(conn: &mut StoreConnection) -> TransactionResult<Option<String>> {
    let id = query_scalar("SELECT cluster_id FROM cluster");
    Ok(id.fetch_optional(conn).await?)
}

/// Looks for an agent that holds its lease in the database that `url` names.
pub(crate) async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let mut conn = open(url, options).await?;
    with_timeout(options.attempt_limit(), async {
        let (found, _) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        let live = if found > 0 {
            run_in_scope!(conn, Statement, find_live_agent(&mut conn))?
        } else {
            None
        };
        conn.close().await.map_err(store_error)?;
        Ok(live)
    })
    .await
}

async fn open(url: &str, options: &ConnectOptions) -> Result<StoreConnection> {
    let opening = PostgresConnector::new(url, options, ServerTimeouts::from_options(options))?;
    connect_once(&opening, options).await
}

async fn find_live_agent(conn: &mut StoreConnection) -> TransactionResult<Option<String>> {
    let live = query_scalar(
        "SELECT agent_id FROM agents WHERE sealed_at IS NULL AND lease_expires_at >= clock_timestamp() LIMIT 1",
    )
    .fetch_optional(conn)
    .await?;
    Ok(live)
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
        let dropped = run_in_scope!(conn, Transaction, drop_tables(&mut conn))?;
        conn.close().await.map_err(store_error)?;
        Ok(dropped)
    })
    .await
}

/// Drops all tables unless an agent is live; returns whether there were any. No agent can register
/// meanwhile: it waits for the lock and then finds no table.
async fn drop_tables(conn: &mut StoreConnection) -> TransactionResult<bool> {
    // Excludes a concurrent migration.
    let database: String = query_scalar("SELECT current_database()::text")
        .fetch_one(&mut *conn)
        .await?;
    query("SELECT pg_advisory_xact_lock($1)")
        .bind(migration_lock_key(&database))
        .execute(&mut *conn)
        .await?;
    let (found, _) = check_versions(&MIGRATOR, &read_applied_migrations(conn).await?)?;
    if found == 0 {
        return Ok(false);
    }
    // In the common lock order: the cluster, then the agents.
    query("LOCK TABLE cluster, agents IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *conn)
        .await?;
    if let Some(agent_id) = find_live_agent(&mut *conn).await? {
        return Err(Error::AgentHoldsLease(agent_id).into());
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

/// Refuses a database whose schema is older than this build, newer, or changed.
pub(super) async fn check_schema(conn: &mut StoreConnection) -> Result<()> {
    let (from, needed) = check_versions(&MIGRATOR, &applied_migrations(conn).await?)?;
    if from < needed {
        Err(outdated_schema_error(from, needed))
    } else {
        Ok(())
    }
}

async fn applied_migrations(conn: &mut StoreConnection) -> Result<Vec<AppliedMigration>> {
    run_in_scope!(conn, Statement, read_applied_migrations(conn))
}

async fn read_applied_migrations(conn: &mut StoreConnection) -> TransactionResult<Vec<AppliedMigration>> {
    let there: bool = query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Ok(Vec::new());
    }
    let stored =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(conn)
            .await?;
    Ok(stored)
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
