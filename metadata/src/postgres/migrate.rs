//! Migrating PostgreSQL, and checking at connect that it was migrated. Only `streamhouse-agent migrate` migrates, so that a
//! rolling upgrade does it once and when its operator wants.

use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::{errors::refusal, settings};
use crate::{
    ConnectOptions, Result,
    schema::{Migrated, Stored, migrate_error, too_old, versions},
};

/// The numbered steps, embedded in the build.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Migrates the database that `url` names. The migrator holds an advisory lock meanwhile, and each step is a transaction.
pub(crate) async fn migrate(url: &str) -> Result<Migrated> {
    let options = ConnectOptions::default();
    // A migration of a large table takes its time; what it waits for is the lock of another one.
    let settings = settings(url, &options)?.options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let mut conn = super::connect_once(&settings, &options).await?;
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
