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

use super::{connect_options, meaning, parse, refusal};
use crate::{
    ConnectOptions, Error, Result,
    failure::{Outcome, pause, transact, within},
    schema::{Migrated, SchemaState, Stored, TABLES, migrate_error, versions},
};

/// The numbered migrations, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Migrates the file that `url` names.
pub(crate) async fn migrate(url: &str) -> Result<Migrated> {
    let pool = SqlitePool::connect_with(connect_options(url)?)
        .await
        .map_err(refusal)?;
    let migrated = run(&pool).await;
    pool.close().await;
    migrated
}

/// Reads the version of the schema of the file that `url` names, without creating the file.
pub(crate) async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    let settings = parse(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    let stored = if is_there(&settings)? {
        within(options.call_limit(), async {
            let mut conn = settings.connect().await.map_err(refusal)?;
            let stored = stored(&mut conn).await?;
            conn.close().await.map_err(refusal)?;
            Ok(stored)
        })
        .await?
    } else {
        Vec::new()
    };
    let (found, needed) = versions(&MIGRATOR, &stored)?;
    Ok(SchemaState { found, needed })
}

/// Reads the id of the cluster from the file that `url` names.
pub(crate) async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let settings = parse(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    if !is_there(&settings)? {
        return Ok(None);
    }
    let mut conn = settings.connect().await.map_err(refusal)?;
    let (found, _) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
    let id = if found > 0 {
        let id = query_scalar("SELECT cluster_id FROM cluster");
        id.fetch_optional(&mut conn).await.map_err(refusal)?
    } else {
        None
    };
    conn.close().await.map_err(refusal)?;
    Ok(id)
}

/// Copies the file that `url` names, as one transaction sees it. The copy appears under its name
/// when it is complete.
pub(crate) async fn backup(url: &str, options: &ConnectOptions, to: &Path) -> Result<()> {
    let settings = parse(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    let source = settings.get_filename().display().to_string();
    if !is_there(&settings)? {
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
    let mut conn = settings.connect().await.map_err(refusal)?;
    versions(&MIGRATOR, &stored(&mut conn).await?)?;
    query("VACUUM INTO ?1")
        .bind(text)
        .execute(&mut conn)
        .await
        .map_err(refusal)?;
    conn.close().await.map_err(refusal)?;
    fs::File::open(&partial)
        .and_then(|copy| copy.sync_all())
        .and_then(|()| fs::rename(&partial, to))
        .map_err(|error| unwritten(&error))
}

/// Looks for an agent that holds its lease in the file that `url` names.
pub(crate) async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let settings = parse(url)?
        .read_only(true)
        .busy_timeout(options.statement_timeout);
    if !is_there(&settings)? {
        return Ok(None);
    }
    within(options.call_limit(), async {
        let mut conn = settings.connect().await.map_err(refusal)?;
        let (found, _) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
        let live = if found > 0 {
            live(&mut conn).await.map_err(refusal)?
        } else {
            None
        };
        conn.close().await.map_err(refusal)?;
        Ok(live)
    })
    .await
}

async fn live(conn: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    query_scalar(
        "SELECT agent_id FROM agents
         WHERE sealed_at IS NULL AND lease_expires_at >= CAST(unixepoch('subsec') * 1000 AS INTEGER) LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

/// The time limit for dropping all tables.
const DROP_LIMIT: Duration = Duration::from_secs(600);

/// Drops the tables of StreamHouse in the file that `url` names. The file stays.
pub(crate) async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    let settings = connect_options(url)?
        .create_if_missing(false)
        .busy_timeout(options.statement_timeout);
    if !is_there(&settings)? {
        return Ok(false);
    }
    within(DROP_LIMIT, async {
        let mut conn = settings.connect().await.map_err(refusal)?;
        let (found, _) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
        if found > 0 {
            transact!(DROP_LIMIT, conn.begin_with("BEGIN IMMEDIATE"), meaning, tx => drop_all(&mut tx))?;
        }
        conn.close().await.map_err(refusal)?;
        Ok(found > 0)
    })
    .await
}

/// Drops all tables unless an agent is live. The caller's write lock keeps agents from registering
/// meanwhile.
async fn drop_all(conn: &mut SqliteConnection) -> Outcome<()> {
    if let Some(agent_id) = live(&mut *conn).await? {
        return Err(Error::AgentLives(agent_id).into());
    }
    for table in TABLES {
        let sql = format!("DROP TABLE IF EXISTS {table}");
        query(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Returns whether the file exists; an in-memory store never has one.
fn is_there(settings: &SqliteConnectOptions) -> Result<bool> {
    let path = settings.get_filename();
    path.try_exists().map_err(|error| {
        Error::Unavailable(format!(
            "the SQLite file {} cannot be accessed: {error}",
            path.display()
        ))
    })
}

/// The maximum number of attempts when another process migrates the same file.
const ATTEMPTS: u32 = 10;

/// Migrates an open store. SQLite has no lock that outlasts a transaction, so one of two concurrent
/// migrators may fail because the other finished a migration first; it then reads the version
/// again.
pub(super) async fn run(pool: &SqlitePool) -> Result<Migrated> {
    let mut conn = pool.acquire().await.map_err(refusal)?;
    let mut attempt = 1;
    loop {
        let (from, to) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
        if from >= to {
            return Ok(Migrated { from, to });
        }
        match MIGRATOR.run_direct(None, &mut *conn, false).await {
            Ok(()) => return Ok(Migrated { from, to }),
            Err(error) if attempt >= ATTEMPTS => return Err(migrate_error(error, refusal)),
            Err(_) => tokio::time::sleep(pause(attempt)).await,
        }
        attempt += 1;
    }
}

async fn stored(conn: &mut SqliteConnection) -> Result<Vec<Stored>> {
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *conn)
        .await
        .map_err(refusal)?;
    if there == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(conn)
        .await
        .map_err(refusal)
}
