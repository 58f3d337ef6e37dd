//! Migrating a SQLite file; every connect does it.

use sqlx::{SqliteConnection, SqlitePool, migrate::Migrator};

use super::{connect_options, refusal};
use crate::{
    Result,
    failure::pause,
    schema::{Migrated, Stored, migrate_error, versions},
};

/// The numbered steps, embedded in the build.
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

/// How often a migration is begun again when a rival process migrates the same file.
const ATTEMPTS: u32 = 10;

/// Migrates an open store. SQLite has no lock that outlasts a transaction, so of two that migrate at once one may find a
/// step done half way through its own; it looks again.
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
