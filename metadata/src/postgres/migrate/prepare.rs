//! What happens under the migrator's lock before the first migration: it is decided whether to
//! migrate, and the expired agents that do not run on the new version are sealed.

use sqlx::{AssertSqlSafe, Connection, PgConnection, query, query_as, query_scalar, raw_sql};

use super::{MIGRATOR, MigrationFailure, TABLE_LOCK_TIMEOUT, unsealed_agents_sql};
use crate::{
    SchemaWindow,
    schema::{
        AppliedMigration, MigrationOutcome, MigrationRequest, SchemaState, StoreOverview, UnsealedAgentRow,
        check_versions, incarnations_to_seal,
    },
};

/// Plans a migration and seals the expired agents that do not run on the new version, which may
/// only be paused. The caller holds the migrator's lock, which keeps agents from registering again
/// before the migration is done.
pub(super) async fn prepare_migration(
    conn: &mut PgConnection,
    window: SchemaWindow,
    request: &MigrationRequest,
) -> Result<MigrationOutcome, MigrationFailure> {
    let planned = read_overview!(conn, window).plan_migration(request)?;
    if planned.from == 0 || planned.from >= planned.to {
        return Ok(planned);
    }
    let mut sealing = conn.begin().await?;
    let outcome = match seal_outdated(&mut sealing, planned).await {
        // An agent that has renewed its lease since is live.
        Ok(()) => plan_in_transaction(&mut sealing, window, request).await,
        Err(error) => Err(error.into()),
    };
    match &outcome {
        Ok(_) => sealing.commit().await?,
        Err(_) => sealing.rollback().await?,
    }
    outcome
}

async fn plan_in_transaction(
    conn: &mut PgConnection,
    window: SchemaWindow,
    request: &MigrationRequest,
) -> Result<MigrationOutcome, MigrationFailure> {
    Ok(read_overview!(conn, window).plan_migration(request)?)
}

/// Seals the expired agents that do not run on the new version, in the common lock order. Waits a
/// limited time for a commit of one of them that is in progress.
async fn seal_outdated(conn: &mut PgConnection, planned: MigrationOutcome) -> Result<(), sqlx::Error> {
    let agents: Vec<UnsealedAgentRow> = query_as(unsealed_agents_sql(planned.from))
        .fetch_all(&mut *conn)
        .await?;
    let outdated = incarnations_to_seal(&agents, planned.to);
    if outdated.is_empty() {
        return Ok(());
    }
    let limit = format!("SET LOCAL lock_timeout = {}", TABLE_LOCK_TIMEOUT.as_millis());
    raw_sql(AssertSqlSafe(limit)).execute(&mut *conn).await?;
    query("SELECT version FROM cluster FOR UPDATE")
        .execute(&mut *conn)
        .await?;
    let expired: Vec<i64> = query_scalar(
        "SELECT incarnation FROM agents
         WHERE incarnation = ANY($1) AND sealed_at IS NULL AND lease_expires_at < clock_timestamp()
         ORDER BY incarnation FOR UPDATE",
    )
    .bind(&outdated)
    .fetch_all(&mut *conn)
    .await?;
    if expired.is_empty() {
        return Ok(());
    }
    query("UPDATE agents SET sealed_at = clock_timestamp() WHERE incarnation = ANY($1)")
        .bind(&expired)
        .execute(&mut *conn)
        .await?;
    query("UPDATE cluster SET version = version + 1")
        .execute(conn)
        .await?;
    tracing::info!(
        incarnations = ?expired,
        "sealed agents whose lease has expired and that do not run on the new schema"
    );
    Ok(())
}
