//! The row of `cluster`: the version of the snapshot, and the timeline.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::current_time_ms;
use crate::{ClusterState, Timeline, rows, transaction::TransactionResult};

/// Increments the version of the snapshot.
pub(super) async fn increment_version(conn: &mut SqliteConnection) -> TransactionResult<()> {
    query("UPDATE cluster SET version = version + 1")
        .execute(conn)
        .await?;
    Ok(())
}

async fn read_timeline(conn: &mut SqliteConnection) -> TransactionResult<Timeline> {
    let (number, incarnation, producer_id): (i64, i64, i64) = query_as(
        "SELECT timeline, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'agents'), 0), last_producer_id
         FROM cluster",
    )
    .fetch_one(conn)
    .await?;
    Ok(rows::timeline(number, incarnation, producer_id)?)
}

pub(super) async fn cluster_state(conn: &mut SqliteConnection) -> TransactionResult<ClusterState> {
    let cluster = query_as(
        "SELECT cluster_id, diverged_at IS NOT NULL, EXISTS (SELECT 1 FROM topics WHERE NOT internal) FROM cluster",
    )
    .fetch_one(&mut *conn)
    .await?;
    let timeline = read_timeline(conn).await?;
    Ok(rows::cluster_state(cluster, timeline))
}

/// Refuses a store with a reported divergence.
pub(super) async fn check_not_diverged(conn: &mut SqliteConnection) -> TransactionResult<()> {
    let diverged = query_scalar("SELECT diverged_at IS NOT NULL FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(rows::check_not_diverged(diverged)?)
}

/// Raises the timeline.
pub(super) async fn increment_timeline(conn: &mut SqliteConnection) -> TransactionResult<Timeline> {
    query("UPDATE cluster SET timeline = timeline + 1")
        .execute(&mut *conn)
        .await?;
    read_timeline(conn).await
}

pub(super) async fn advance_timeline(conn: &mut SqliteConnection) -> TransactionResult<Timeline> {
    check_not_diverged(conn).await?;
    increment_timeline(conn).await
}

pub(super) async fn report_divergence(conn: &mut SqliteConnection) -> TransactionResult<()> {
    let now = current_time_ms(conn).await?;
    query("UPDATE cluster SET diverged_at = ?1 WHERE diverged_at IS NULL")
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}
