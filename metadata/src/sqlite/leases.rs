//! Moves of leases, and the snapshot of agents, topics and leaders.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::{
    cluster::increment_version, current_time_ms, security::security_version, snapshot_version,
    topics::read_topics,
};
use crate::{
    AgentEntry, ClusterSnapshot, LeaseMove, LeaseMoveOutcome,
    leases::{PartitionLeaseRow, plan_moves},
    rows::{AgentRow, unswept_incarnations},
    transaction::TransactionResult,
};

pub(super) async fn snapshot(
    conn: &mut SqliteConnection,
    known: Option<u64>,
) -> TransactionResult<Option<ClusterSnapshot>> {
    let version = snapshot_version(conn).await?;
    if known == Some(version) {
        return Ok(None);
    }
    let now = current_time_ms(conn).await?;
    let cluster_id = query_scalar("SELECT cluster_id FROM cluster")
        .fetch_one(&mut *conn)
        .await?;
    let agents: Vec<AgentRow> = query_as(
        "SELECT incarnation, node_id, agent_id, grpc_address, http_address, kafka_address, zone, version, draining
         FROM agents WHERE sealed_at IS NULL ORDER BY node_id",
    )
    .fetch_all(&mut *conn)
    .await?;
    let unswept = query_as(
        "SELECT incarnation, max(0, ?1 - sealed_at) FROM agents
         WHERE sealed_at IS NOT NULL AND swept_at IS NULL ORDER BY incarnation",
    )
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let security_version = security_version(&mut *conn).await?;
    let topics = read_topics(conn).await?;
    Ok(Some(ClusterSnapshot {
        version,
        security_version,
        cluster_id,
        agents: agents.into_iter().map(AgentEntry::from).collect(),
        unswept: unswept_incarnations(unswept)?,
        topics,
    }))
}

pub(super) async fn move_leases(
    conn: &mut SqliteConnection,
    moves: &[LeaseMove],
) -> TransactionResult<Vec<LeaseMoveOutcome>> {
    let agents: Vec<(i64, bool)> =
        query_as("SELECT incarnation, draining FROM agents WHERE sealed_at IS NULL")
            .fetch_all(&mut *conn)
            .await?;
    let mut rows: Vec<PartitionLeaseRow> = Vec::with_capacity(moves.len());
    for lease_move in moves {
        let row = query_as(
            "SELECT id, holder, epoch, log_start, rolled, high_watermark, size_bytes FROM partitions
             WHERE id = ?1 AND NOT deleted",
        );
        rows.extend(
            row.bind(lease_move.partition.0)
                .fetch_optional(&mut *conn)
                .await?,
        );
    }
    let plan = plan_moves(moves, &agents, rows);
    for (uid, lease) in &plan.changed {
        query("UPDATE partitions SET holder = ?2, epoch = ?3 WHERE id = ?1")
            .bind(uid.0)
            .bind(lease.holder.map(|holder| holder.0))
            .bind(lease.epoch)
            .execute(&mut *conn)
            .await?;
    }
    if !plan.changed.is_empty() {
        increment_version(conn).await?;
    }
    Ok(plan.outcomes)
}
