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
    query_as, query_scalar, sqlite::SqliteConnectOptions,
};

use super::{classify_error, connect_options, parse_address, store_error};
use crate::{
    ConnectOptions, Error, Result, SchemaWindow,
    schema::{
        AGENT_WINDOWS_VERSION, AppliedMigration, MigrationOutcome, MigrationRequest, SchemaState,
        StoreOverview, TABLES, UnsealedAgentRow, check_versions, check_window, incarnations_to_seal,
        migrate_error,
    },
    transaction::{TransactionResult, retry_delay, transact, with_timeout},
};

/// The numbered migrations, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Migrates the file that `url` names.
pub(crate) async fn migrate(
    url: &str,
    options: &ConnectOptions,
    request: &MigrationRequest,
) -> Result<MigrationOutcome> {
    let pool = SqlitePool::connect_with(connect_options(url)?)
        .await
        .map_err(store_error)?;
    let migrated = run_migrations(&pool, options.schema, request).await;
    pool.close().await;
    migrated
}

/// Reads what the file that `url` names holds, without creating the file.
pub(crate) async fn overview(url: &str, options: &ConnectOptions) -> Result<StoreOverview> {
    let settings = parse_address(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    if !file_exists(&settings)? {
        return Ok(StoreOverview::empty(options.schema));
    }
    with_timeout(options.call_limit(), async {
        let mut conn = settings.connect().await.map_err(store_error)?;
        let overview = read_overview(&mut conn, options.schema).await?;
        conn.close().await.map_err(store_error)?;
        Ok(overview)
    })
    .await
}

async fn read_overview(conn: &mut SqliteConnection, window: SchemaWindow) -> Result<StoreOverview> {
    let found = check_versions(&MIGRATOR, &applied_migrations(conn).await?, window)?;
    if found == 0 {
        return Ok(StoreOverview::empty(window));
    }
    let cluster_id = query_scalar("SELECT cluster_id FROM cluster");
    let cluster_id = cluster_id.fetch_optional(&mut *conn).await.map_err(store_error)?;
    let agents = unsealed_agents(conn, found).await.map_err(store_error)?;
    let schema = SchemaState { found, window };
    Ok(StoreOverview::of_agents(schema, cluster_id, &agents))
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
    check_versions(&MIGRATOR, &applied_migrations(&mut conn).await?, options.schema)?;
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

/// Returns the incarnations that are not sealed, by agent id.
async fn unsealed_agents(
    conn: &mut SqliteConnection,
    version: i64,
) -> Result<Vec<UnsealedAgentRow>, sqlx::Error> {
    macro_rules! sql {
        ($window:literal) => {
            concat!(
                "SELECT incarnation, agent_id, version, ",
                $window,
                ", lease_expires_at < CAST(unixepoch('subsec') * 1000 AS INTEGER) AS expired
                 FROM agents WHERE sealed_at IS NULL ORDER BY agent_id"
            )
        };
    }
    let sql = if version >= AGENT_WINDOWS_VERSION {
        sql!("schema_min, schema_max")
    } else {
        sql!("NULL AS schema_min, NULL AS schema_max")
    };
    query_as(sql).fetch_all(conn).await
}

/// Seals incarnations.
async fn seal_incarnations(conn: &mut SqliteConnection, incarnations: &[i64]) -> Result<(), sqlx::Error> {
    for incarnation in incarnations {
        query("UPDATE agents SET sealed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE incarnation = ?1")
            .bind(incarnation)
            .execute(&mut *conn)
            .await?;
    }
    query("UPDATE cluster SET version = version + 1")
        .execute(conn)
        .await?;
    Ok(())
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
        let stored = applied_migrations(&mut conn).await?;
        let found = check_versions(&MIGRATOR, &stored, options.schema)?;
        if found > 0 {
            let begin = "BEGIN IMMEDIATE";
            transact!(DROP_TIMEOUT, conn.begin_with(begin), classify_error, tx => drop_tables(&mut tx, found))?;
        }
        conn.close().await.map_err(store_error)?;
        Ok(found > 0)
    })
    .await
}

/// Drops all tables unless an agent is live. The caller's write lock keeps agents from registering
/// meanwhile.
async fn drop_tables(conn: &mut SqliteConnection, version: i64) -> TransactionResult<()> {
    let agents = unsealed_agents(&mut *conn, version).await?;
    if let Some(agent) = agents.iter().find_map(UnsealedAgentRow::live_agent) {
        return Err(Error::AgentHoldsLease(agent.agent_id).into());
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

/// The maximum number of attempts when another process uses the same file.
const MAX_MIGRATION_ATTEMPTS: u32 = 10;

/// Migrates an open store; waits for another process that writes or migrates the same file.
pub(super) async fn run_migrations(
    pool: &SqlitePool,
    window: SchemaWindow,
    request: &MigrationRequest,
) -> Result<MigrationOutcome> {
    let mut conn = pool.acquire().await.map_err(store_error)?;
    let mut attempt = 1;
    loop {
        let planned = read_overview(&mut conn, window).await?.plan_migration(request)?;
        if planned.from >= planned.to {
            return Ok(planned);
        }
        match migrate_once(&mut conn, window, request).await {
            Err(Error::Unavailable(_)) if attempt < MAX_MIGRATION_ATTEMPTS => {
                tokio::time::sleep(retry_delay(attempt)).await;
            }
            done => return done,
        }
        attempt += 1;
    }
}

/// Plans and runs all migrations in one transaction, which also seals the expired agents that do
/// not run on the result. Its write lock keeps agents from registering and from renewing meanwhile.
async fn migrate_once(
    conn: &mut SqliteConnection,
    window: SchemaWindow,
    request: &MigrationRequest,
) -> Result<MigrationOutcome> {
    let mut whole = conn.begin_with("BEGIN IMMEDIATE").await.map_err(store_error)?;
    let outcome = read_overview(&mut whole, window).await?.plan_migration(request)?;
    if outcome.from < outcome.to {
        if outcome.from > 0 {
            seal_outdated(&mut whole, outcome).await.map_err(store_error)?;
        }
        MIGRATOR
            .run_direct(Some(outcome.to), &mut *whole, false)
            .await
            .map_err(|error| migrate_error(error, store_error))?;
    }
    whole.commit().await.map_err(store_error)?;
    Ok(outcome)
}

/// Seals the expired agents that do not run on the new version.
async fn seal_outdated(conn: &mut SqliteConnection, planned: MigrationOutcome) -> Result<(), sqlx::Error> {
    let agents = unsealed_agents(&mut *conn, planned.from).await?;
    let outdated = incarnations_to_seal(&agents, planned.to);
    if !outdated.is_empty() {
        seal_incarnations(conn, &outdated).await?;
        tracing::info!(
            incarnations = ?outdated,
            "sealed agents whose lease has expired and that do not run on the new schema"
        );
    }
    Ok(())
}

/// Refuses a schema outside the window. Returns the window if the schema has the columns for it.
pub(super) async fn check_registration(
    conn: &mut SqliteConnection,
    window: SchemaWindow,
) -> TransactionResult<Option<SchemaWindow>> {
    let found = schema_version(conn).await?;
    check_window(window, found)?;
    Ok((found >= AGENT_WINDOWS_VERSION).then_some(window))
}

/// Returns the version of the schema in force.
pub(super) async fn schema_version(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    let found: Option<i64> = query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(conn)
        .await?;
    Ok(found.unwrap_or_default())
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
