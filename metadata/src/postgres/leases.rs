//! Moves of leases, and the snapshot of agents, topics and leaders.

use std::collections::BTreeMap;

use sqlx::{query, query_as, query_scalar};

use super::{
    StoreConnection,
    cluster::{increment_version, lock_cluster},
    security::security_version,
    topics::read_topics,
};
use crate::{
    AgentEntry, ClusterSnapshot, LeaseMove, LeaseMoveOutcome, PartitionUid,
    leases::{PartitionLease, PartitionLeaseRow, plan_moves},
    rows::{AgentRow, to_unsigned, unswept_incarnations},
    transaction::TransactionResult,
};

/// Returns the version of the snapshot.
pub(super) async fn snapshot_version(conn: &mut StoreConnection) -> TransactionResult<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(to_unsigned("the version", version)?)
}

/// Reads the snapshot; the transaction must see one database snapshot.
pub(super) async fn snapshot(conn: &mut StoreConnection) -> TransactionResult<ClusterSnapshot> {
    let (version, cluster_id): (i64, String) = query_as("SELECT version, cluster_id FROM cluster")
        .fetch_one(&mut *conn)
        .await?;
    let agents: Vec<AgentRow> = query_as(
        "SELECT incarnation, node_id, agent_id, grpc_address, http_address, kafka_address, zone, version, draining
         FROM agents WHERE sealed_at IS NULL ORDER BY node_id",
    )
    .fetch_all(&mut *conn)
    .await?;
    let unswept = query_as(
        "SELECT incarnation, greatest(0, extract(epoch FROM clock_timestamp() - sealed_at) * 1000)::bigint FROM agents
         WHERE sealed_at IS NOT NULL AND swept_at IS NULL ORDER BY incarnation",
    )
    .fetch_all(&mut *conn)
    .await?;
    let security_version = security_version(&mut *conn).await?;
    let topics = read_topics(conn).await?;
    Ok(ClusterSnapshot {
        version: to_unsigned("the version", version)?,
        security_version,
        cluster_id,
        agents: agents.into_iter().map(AgentEntry::from).collect(),
        unswept: unswept_incarnations(unswept)?,
        topics,
    })
}

pub(super) async fn move_leases(
    conn: &mut StoreConnection,
    moves: &[LeaseMove],
) -> TransactionResult<Vec<LeaseMoveOutcome>> {
    // The lock prevents that agents are sealed, registered or marked as draining meanwhile.
    lock_cluster(conn).await?;
    let agents: Vec<(i64, bool)> =
        query_as("SELECT incarnation, draining FROM agents WHERE sealed_at IS NULL")
            .fetch_all(&mut *conn)
            .await?;
    let uids: Vec<i64> = moves.iter().map(|lease_move| lease_move.partition.0).collect();
    let rows: Vec<PartitionLeaseRow> = query_as(
        "SELECT id, holder, epoch, log_start, rolled, high_watermark, size_bytes FROM partitions
         WHERE id = ANY($1) AND NOT deleted ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(&uids)
    .fetch_all(&mut *conn)
    .await?;
    let plan = plan_moves(moves, &agents, rows);
    if !plan.changed.is_empty() {
        write_leases(conn, plan.changed).await?;
        increment_version(conn).await?;
    }
    Ok(plan.outcomes)
}

async fn write_leases(
    conn: &mut StoreConnection,
    changed: BTreeMap<PartitionUid, PartitionLease>,
) -> TransactionResult<()> {
    let mut uids = Vec::with_capacity(changed.len());
    let mut holders = Vec::with_capacity(changed.len());
    let mut epochs = Vec::with_capacity(changed.len());
    for (uid, lease) in changed {
        uids.push(uid.0);
        holders.push(lease.holder.map(|holder| holder.0));
        epochs.push(lease.epoch);
    }
    query(
        "UPDATE partitions p SET holder = u.holder, epoch = u.epoch
         FROM UNNEST($1::bigint[], $2::bigint[], $3::integer[]) AS u (id, holder, epoch) WHERE p.id = u.id",
    )
    .bind(uids)
    .bind(holders)
    .bind(epochs)
    .execute(conn)
    .await?;
    Ok(())
}
