//! Moves of leases, and the snapshot of agents, topics and leaders.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{query, query_as, query_scalar};

use super::{
    StoreConnection,
    agents::{increment_version, lock_cluster},
};
use crate::{
    AgentEntry, ClusterSnapshot, Incarnation, LeaseMove, LeaseMoveOutcome, LogBounds, PartitionUid,
    leases::{PartitionLeaseRow, apply_move},
    rows::to_unsigned,
    transaction::TransactionResult,
};

/// Returns the version of the snapshot.
pub(super) async fn snapshot_version(conn: &mut StoreConnection) -> TransactionResult<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(to_unsigned("the version", version)?)
}

#[derive(sqlx::FromRow)]
struct AgentColumns {
    incarnation: i64,
    node_id: i32,
    agent_id: String,
    grpc_address: String,
    http_address: String,
    kafka_address: String,
    zone: String,
    version: String,
    draining: bool,
}

/// Reads the snapshot; the transaction must see one database snapshot.
pub(super) async fn snapshot(conn: &mut StoreConnection) -> TransactionResult<ClusterSnapshot> {
    let (version, cluster_id): (i64, String) = query_as("SELECT version, cluster_id FROM cluster")
        .fetch_one(&mut *conn)
        .await?;
    let agents: Vec<AgentColumns> = query_as(
        "SELECT incarnation, node_id, agent_id, grpc_address, http_address, kafka_address, zone, version, draining
         FROM agents WHERE sealed_at IS NULL ORDER BY node_id",
    )
    .fetch_all(&mut *conn)
    .await?;
    let agents = agents.into_iter().map(|row| AgentEntry {
        incarnation: Incarnation(row.incarnation),
        node_id: row.node_id,
        agent_id: row.agent_id,
        grpc_address: row.grpc_address,
        http_address: row.http_address,
        kafka_address: row.kafka_address,
        zone: row.zone,
        version: row.version,
        draining: row.draining,
    });
    let agents = agents.collect();
    let rows: Vec<(i64, i64)> = query_as(
        "SELECT incarnation, greatest(0, extract(epoch FROM clock_timestamp() - sealed_at) * 1000)::bigint FROM agents
         WHERE sealed_at IS NOT NULL AND swept_at IS NULL ORDER BY incarnation",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut unswept = Vec::with_capacity(rows.len());
    for (incarnation, for_ms) in rows {
        unswept.push((
            Incarnation(incarnation),
            Duration::from_millis(to_unsigned("a time", for_ms)?),
        ));
    }
    let topics = super::topics::read_topics(conn).await?;
    Ok(ClusterSnapshot {
        version: to_unsigned("the version", version)?,
        cluster_id,
        agents,
        unswept,
        topics,
    })
}

#[derive(sqlx::FromRow)]
struct PartitionLeaseColumns {
    id: i64,
    holder: Option<i64>,
    epoch: i32,
    log_start: i64,
    rolled: i64,
    high_watermark: i64,
    size_bytes: i64,
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
    let live: HashSet<Incarnation> = agents.iter().map(|agent| Incarnation(agent.0)).collect();
    let eligible: HashSet<Incarnation> = agents
        .iter()
        .filter(|(_, draining)| !draining)
        .map(|agent| Incarnation(agent.0))
        .collect();
    let uids: Vec<i64> = moves.iter().map(|lease_move| lease_move.partition.0).collect();
    let rows: Vec<PartitionLeaseColumns> = query_as(
        "SELECT id, holder, epoch, log_start, rolled, high_watermark, size_bytes FROM partitions
         WHERE id = ANY($1) AND NOT deleted ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(&uids)
    .fetch_all(&mut *conn)
    .await?;
    let mut rows: HashMap<PartitionUid, PartitionLeaseRow> =
        rows.into_iter().map(|row| lease_row(&row, &live)).collect();
    let mut changed: HashMap<PartitionUid, (Option<i64>, i32)> = HashMap::new();
    let mut outcomes = Vec::with_capacity(moves.len());
    for lease_move in moves {
        let Some(row) = rows.get_mut(&lease_move.partition) else {
            outcomes.push(LeaseMoveOutcome::Lost);
            continue;
        };
        let before = (row.holder, row.epoch);
        outcomes.push(apply_move(row, lease_move, &eligible));
        if (row.holder, row.epoch) != before {
            changed.insert(
                lease_move.partition,
                (row.holder.map(|holder| holder.0), row.epoch),
            );
        }
    }
    if !changed.is_empty() {
        write_leases(conn, changed).await?;
        increment_version(conn).await?;
    }
    Ok(outcomes)
}

fn lease_row(row: &PartitionLeaseColumns, live: &HashSet<Incarnation>) -> (PartitionUid, PartitionLeaseRow) {
    let bounds = LogBounds {
        log_start: row.log_start,
        rolled: row.rolled,
        high_watermark: row.high_watermark,
        size_bytes: row.size_bytes,
    };
    let holder = row.holder.map(Incarnation).filter(|holder| live.contains(holder));
    (
        PartitionUid(row.id),
        PartitionLeaseRow {
            holder,
            epoch: row.epoch,
            bounds,
        },
    )
}

async fn write_leases(
    conn: &mut StoreConnection,
    changed: HashMap<PartitionUid, (Option<i64>, i32)>,
) -> TransactionResult<()> {
    let mut uids = Vec::with_capacity(changed.len());
    let mut holders = Vec::with_capacity(changed.len());
    let mut epochs = Vec::with_capacity(changed.len());
    for (uid, (holder, epoch)) in changed {
        uids.push(uid.0);
        holders.push(holder);
        epochs.push(epoch);
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
