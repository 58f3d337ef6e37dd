//! Migrating PostgreSQL, checking at connect that it was migrated, and dropping what was. No store migrates itself, so that a
//! rolling upgrade does it once and when its operator wants.

use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{Migrate, Migrator},
    query, query_scalar,
};

use super::{
    errors::{meaning, refusal},
    settings,
};
use crate::{
    ConnectOptions, Error, Result,
    failure::{Outcome, transact},
    schema::{Migrated, SchemaState, Stored, TABLES, migrate_error, too_old, versions},
};

/// The numbered steps, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Migrates the database that `url` names. The migrator holds an advisory lock meanwhile, and each step is a transaction.
pub(crate) async fn migrate(url: &str, options: &ConnectOptions) -> Result<Migrated> {
    // A migration of a large table takes its time; what it waits for is the lock of another one.
    let settings = settings(url, options)?.options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let mut conn = super::connect_once(&settings, options).await?;
    let (from, to) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
    if from < to {
        // Not `run`: its future cannot be sent between threads ("`Acquire` is not general enough").
        MIGRATOR
            .run_direct(None, &mut conn, false)
            .await
            .map_err(|error| migrate_error(error, refusal))?;
    }
    conn.close().await.map_err(refusal)?;
    Ok(Migrated { from, to })
}

/// Looks at the schema of the database that `url` names.
pub(crate) async fn schema(url: &str, options: &ConnectOptions) -> Result<SchemaState> {
    let mut conn = super::connect_once(&settings(url, options)?, options).await?;
    let (found, needed) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
    conn.close().await.map_err(refusal)?;
    Ok(SchemaState { found, needed })
}

/// Looks for the cluster's id in the database that `url` names.
pub(crate) async fn cluster_id(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let mut conn = super::connect_once(&settings(url, options)?, options).await?;
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

/// Looks for an agent that holds its lease in the database that `url` names.
pub(crate) async fn live_agent(url: &str, options: &ConnectOptions) -> Result<Option<String>> {
    let mut conn = super::connect_once(&settings(url, options)?, options).await?;
    let (found, _) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
    let live = if found > 0 {
        live(&mut conn).await.map_err(refusal)?
    } else {
        None
    };
    conn.close().await.map_err(refusal)?;
    Ok(live)
}

async fn live(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    query_scalar(
        "SELECT agent_id FROM agents WHERE sealed_at IS NULL AND lease_expires_at >= clock_timestamp() LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

/// Drops our tables in the database that `url` names.
pub(crate) async fn drop_schema(url: &str, options: &ConnectOptions) -> Result<bool> {
    // To drop large tables takes its time; to wait for whoever uses them is bounded.
    let settings = settings(url, options)?.options([("statement_timeout", "0")]);
    let mut conn = super::connect_once(&settings, options).await?;
    // Nobody migrates meanwhile; the lock goes with the connection.
    conn.lock().await.map_err(|error| migrate_error(error, refusal))?;
    let (found, _) = versions(&MIGRATOR, &stored(&mut conn).await?)?;
    if found > 0 {
        transact!(conn.begin(), meaning, tx => drop_all(&mut tx))?;
    }
    conn.close().await.map_err(refusal)?;
    Ok(found > 0)
}

/// Drops everything, unless an agent is live. None can register in between: it waits for the lock, and then finds no table.
async fn drop_all(conn: &mut PgConnection) -> Outcome<()> {
    // In the order of all others: the cluster, then the agents.
    query("LOCK TABLE cluster, agents IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *conn)
        .await?;
    if let Some(agent_id) = live(&mut *conn).await? {
        return Err(Error::AgentLives(agent_id).into());
    }
    let tables = format!("DROP TABLE IF EXISTS {}", TABLES.join(", "));
    query(AssertSqlSafe(tables)).execute(&mut *conn).await?;
    query("DROP SEQUENCE IF EXISTS producer_ids")
        .execute(conn)
        .await?;
    Ok(())
}

/// Refuses a database whose schema is not this build's.
pub(super) async fn check(conn: &mut PgConnection) -> Result<()> {
    let (from, needed) = versions(&MIGRATOR, &stored(conn).await?)?;
    if from < needed {
        Err(too_old(from, needed))
    } else {
        Ok(())
    }
}

async fn stored(conn: &mut PgConnection) -> Result<Vec<Stored>> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await
        .map_err(refusal)?;
    if !there {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(conn)
        .await
        .map_err(refusal)
}
