//! Migrates a SQLite file, which every connect does; reads its schema version, copies it, and drops
//! its tables.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection, SqliteConnection, SqlitePool, migrate::Migrator, query,
    query_scalar, sqlite::SqliteConnectOptions,
};

use super::{classify_error, connect_options, parse_address, store_error};
use crate::{
    ConnectOptions, Error, Result,
    schema::{AppliedMigration, MigrationOutcome, SchemaState, TABLES, check_versions, migrate_error},
    transaction::{TransactionResult, retry_delay, transact, with_timeout},
};

/// The numbered migrations, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Migrates the file that `url` names.
pub(crate) async fn migrate(url: &str) -> Result<MigrationOutcome> {
    let pool = SqlitePool::connect_with(connect_options(url)?)
        .await
        .map_err(store_error)?;
    let migrated = run_migrations(&pool).await;
    pool.close().await;
    migrated
}

/// Reads the version of the schema of the file that `url` names, without creating the file.
pub(crate) async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    let settings = parse_address(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    let stored = if file_exists(&settings)? {
        with_timeout(options.call_limit(), async {
            let mut conn = settings.connect().await.map_err(store_error)?;
            let stored = applied_migrations(&mut conn).await?;
            conn.close().await.map_err(store_error)?;
            Ok(stored)
        })
        .await?
    } else {
        Vec::new()
    };
    let (found, needed) = check_versions(&MIGRATOR, &stored)?;
    Ok(SchemaState { found, needed })
}

/// Reads the id of the cluster from the file that `url` names.
pub(crate) async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let settings = parse_address(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    if !file_exists(&settings)? {
        return Ok(None);
    }
    let mut conn = settings.connect().await.map_err(store_error)?;
    let (found, _) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
    let id = if found > 0 {
        let id = query_scalar("SELECT cluster_id FROM cluster");
        id.fetch_optional(&mut conn).await.map_err(store_error)?
    } else {
        None
    };
    conn.close().await.map_err(store_error)?;
    Ok(id)
}

/// Copies the file that `url` names, as one transaction sees it. The copy appears under its name
/// when it is complete.
pub(crate) async fn backup(url: &str, options: &ConnectOptions, to: &Path) -> Result<()> {
    let settings = parse_address(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    let source = settings.get_filename().display().to_string();
    if !file_exists(&settings)? {
        return Err(Error::Unavailable(format!("there is no SQLite file {source}")));
    }
    let unwritten =
        |why: &dyn Display| Error::Unavailable(format!("the copy {} cannot be written: {why}", to.display()));
    if to.try_exists().map_err(|error| unwritten(&error))? {
        return Err(unwritten(&"it exists; choose another name"));
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // A remainder of an interrupted attempt.
    let _ = fs::remove_file(&partial);
    let text = partial
        .to_str()
        .ok_or_else(|| unwritten(&"its name is not Unicode"))?;
    let mut conn = settings.connect().await.map_err(store_error)?;
    check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
    query("VACUUM INTO ?1")
        .bind(text)
        .execute(&mut conn)
        .await
        .map_err(store_error)?;
    conn.close().await.map_err(store_error)?;
    fs::File::open(&partial)
        .and_then(|copy| copy.sync_all())
        .and_then(|()| fs::rename(&partial, to))
        .map_err(|error| unwritten(&error))
}

/// Looks for an agent that holds its lease in the file that `url` names.
pub(crate) async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let settings = parse_address(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    if !file_exists(&settings)? {
        return Ok(None);
    }
    with_timeout(options.call_limit(), async {
        let mut conn = settings.connect().await.map_err(store_error)?;
        let (found, _) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        let live = if found > 0 {
            find_live_agent(&mut conn).await.map_err(store_error)?
        } else {
            None
        };
        conn.close().await.map_err(store_error)?;
        Ok(live)
    })
    .await
}

async fn find_live_agent(conn: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    query_scalar(
        "SELECT agent_id FROM agents
         WHERE sealed_at IS NULL AND lease_expires_at >= CAST(unixepoch('subsec') * 1000 AS INTEGER) LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

/// The time limit for dropping all tables.
const DROP_TIMEOUT: Duration = Duration::from_secs(600);

/// Drops the tables of StreamHouse in the file that `url` names. The file stays.
pub(crate) async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    let settings = connect_options(url)?
        .create_if_missing(false)
        .busy_timeout(options.statement_timeout);
    if !file_exists(&settings)? {
        return Ok(false);
    }
    with_timeout(DROP_TIMEOUT, async {
        let mut conn = settings.connect().await.map_err(store_error)?;
        let (found, _) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        if found > 0 {
            transact!(DROP_TIMEOUT, conn.begin_with("BEGIN IMMEDIATE"), classify_error, tx => drop_tables(&mut tx))?;
        }
        conn.close().await.map_err(store_error)?;
        Ok(found > 0)
    })
    .await
}

/// Drops all tables unless an agent is live. The caller's write lock keeps agents from registering
/// meanwhile.
async fn drop_tables(conn: &mut SqliteConnection) -> TransactionResult<()> {
    if let Some(agent_id) = find_live_agent(&mut *conn).await? {
        return Err(Error::AgentHoldsLease(agent_id).into());
    }
    for table in TABLES {
        let sql = format!("DROP TABLE IF EXISTS {table}");
        query(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Returns whether the file exists; an in-memory store never has one.
fn file_exists(settings: &SqliteConnectOptions) -> Result<bool> {
    let path = settings.get_filename();
    path.try_exists().map_err(|error| {
        Error::Unavailable(format!(
            "the SQLite file {} cannot be accessed: {error}",
            path.display()
        ))
    })
}

/// The maximum number of attempts when another process migrates the same file.
const MAX_MIGRATION_ATTEMPTS: u32 = 10;

/// Migrates an open store. SQLite has no lock that outlasts a transaction, so one of two concurrent
/// migrators may fail because the other finished a migration first; it then reads the version
/// again.
pub(super) async fn run_migrations(pool: &SqlitePool) -> Result<MigrationOutcome> {
    let mut conn = pool.acquire().await.map_err(store_error)?;
    let mut attempt = 1;
    loop {
        let (from, to) = check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?)?;
        if from >= to {
            return Ok(MigrationOutcome { from, to });
        }
        match MIGRATOR.run_direct(None, &mut *conn, false).await {
            Ok(()) => return Ok(MigrationOutcome { from, to }),
            Err(error) if attempt >= MAX_MIGRATION_ATTEMPTS => return Err(migrate_error(error, store_error)),
            Err(_) => tokio::time::sleep(retry_delay(attempt)).await,
        }
        attempt += 1;
    }
}

async fn applied_migrations(conn: &mut SqliteConnection) -> Result<Vec<AppliedMigration>> {
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *conn)
        .await
        .map_err(store_error)?;
    if there == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(conn)
        .await
        .map_err(store_error)
}
