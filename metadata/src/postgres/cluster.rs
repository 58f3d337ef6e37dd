//! The row of `cluster`: its lock, the version of the snapshot, and the timeline.

use sqlx::{query, query_as, query_scalar};

use super::StoreConnection;
use crate::{ClusterState, Timeline, rows, transaction::TransactionResult};

/// Locks the row of `cluster`, which serializes changes of agents, leaders, topics, users, ACLs and
/// quotas.
pub(super) async fn lock_cluster(conn: &mut StoreConnection) -> TransactionResult<()> {
    query("SELECT version FROM cluster FOR UPDATE")
        .execute(conn)
        .await?;
    Ok(())
}

/// As [`lock_cluster`], unless another transaction holds the lock; returns whether it was taken.
/// For callers that hold locks that come later in the order.
pub(super) async fn try_lock_cluster(conn: &mut StoreConnection) -> TransactionResult<bool> {
    let locked: Option<i64> = query_scalar("SELECT version FROM cluster FOR UPDATE SKIP LOCKED")
        .fetch_optional(conn)
        .await?;
    Ok(locked.is_some())
}

/// Increments the version of the snapshot. The caller holds the lock of [`lock_cluster`].
pub(super) async fn increment_version(conn: &mut StoreConnection) -> TransactionResult<u64> {
    let version: i64 = query_scalar("UPDATE cluster SET version = version + 1 RETURNING version")
        .fetch_one(conn)
        .await?;
    Ok(rows::to_unsigned("the version", version)?)
}

/// Selects the greatest numbers that the two sequences allocated; 0 before the first.
const LAST_ALLOCATED: &str = "
    SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM agents_incarnation_seq),
           (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM producer_ids)";

async fn read_timeline(conn: &mut StoreConnection, number: i64) -> TransactionResult<Timeline> {
    let (incarnation, producer_id): (i64, i64) = query_as(LAST_ALLOCATED).fetch_one(conn).await?;
    Ok(rows::timeline(number, incarnation, producer_id)?)
}

pub(super) async fn cluster_state(conn: &mut StoreConnection) -> TransactionResult<ClusterState> {
    let (cluster_id, number, diverged, has_topics): (String, i64, bool, bool) = query_as(
        "SELECT cluster_id, timeline, diverged_at IS NOT NULL, EXISTS (SELECT 1 FROM topics WHERE NOT internal)
         FROM cluster",
    )
    .fetch_one(&mut *conn)
    .await?;
    let timeline = read_timeline(conn, number).await?;
    Ok(rows::cluster_state((cluster_id, diverged, has_topics), timeline))
}

/// Takes the lock of [`lock_cluster`] and refuses a store with a reported divergence.
pub(super) async fn check_not_diverged(conn: &mut StoreConnection) -> TransactionResult<()> {
    let diverged = query_scalar("SELECT diverged_at IS NOT NULL FROM cluster FOR UPDATE")
        .fetch_one(conn)
        .await?;
    Ok(rows::check_not_diverged(diverged)?)
}

/// Raises the timeline. The caller holds the lock of [`lock_cluster`].
pub(super) async fn increment_timeline(conn: &mut StoreConnection) -> TransactionResult<Timeline> {
    let number = query_scalar("UPDATE cluster SET timeline = timeline + 1 RETURNING timeline")
        .fetch_one(&mut *conn)
        .await?;
    read_timeline(conn, number).await
}

pub(super) async fn advance_timeline(conn: &mut StoreConnection) -> TransactionResult<Timeline> {
    check_not_diverged(conn).await?;
    increment_timeline(conn).await
}

pub(super) async fn report_divergence(conn: &mut StoreConnection) -> TransactionResult<()> {
    query("UPDATE cluster SET diverged_at = clock_timestamp() WHERE diverged_at IS NULL")
        .execute(conn)
        .await?;
    Ok(())
}
