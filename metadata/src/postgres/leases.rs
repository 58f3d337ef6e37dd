//! Moves of leases, and the snapshot of agents, topics and leaders.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{query, query_as, query_scalar};

use super::{
    PgConnection,
    agents::{bump, lock_cluster},
};
use crate::{
    AgentRecord, Incarnation, LeaseMove, LogBounds, MoveOutcome, PartitionUid, Snapshot,
    failure::Outcome,
    leases::{HeldRow, decide_move},
    rows::unsigned,
};

/// Returns the version of the snapshot.
pub(super) async fn version(conn: &mut PgConnection) -> Outcome<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(unsigned("the version", version)?)
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
pub(super) async fn snapshot(conn: &mut PgConnection) -> Outcome<Snapshot> {
    let (version, cluster_id): (i64, String) = query_as("SELECT version, cluster_id FROM cluster")
        .fetch_one(&mut *conn)
        .await?;
    let agents: Vec<AgentColumns> = query_as(
        "SELECT incarnation, node_id, agent_id, grpc_address, http_address, kafka_address, zone, version, draining
         FROM agents WHERE sealed_at IS NULL ORDER BY node_id",
    )
    .fetch_all(&mut *conn)
    .await?;
    let agents = agents.into_iter().map(|row| AgentRecord {
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
            Duration::from_millis(unsigned("a time", for_ms)?),
        ));
    }
    let topics = super::topics::all(conn).await?;
    Ok(Snapshot {
        version: unsigned("the version", version)?,
        cluster_id,
        agents,
        unswept,
        topics,
    })
}

#[derive(sqlx::FromRow)]
struct HeldColumns {
    id: i64,
    holder: Option<i64>,
    epoch: i32,
    log_start: i64,
    rolled: i64,
    high_watermark: i64,
    size_bytes: i64,
}

pub(super) async fn move_leases(conn: &mut PgConnection, moves: &[LeaseMove]) -> Outcome<Vec<MoveOutcome>> {
    // The lock prevents that agents are sealed, registered or marked as draining meanwhile.
    lock_cluster(conn).await?;
    let agents: Vec<(i64, bool)> =
        query_as("SELECT incarnation, draining FROM agents WHERE sealed_at IS NULL")
            .fetch_all(&mut *conn)
            .await?;
    let live: HashSet<Incarnation> = agents.iter().map(|agent| Incarnation(agent.0)).collect();
    let takers: HashSet<Incarnation> = agents
        .iter()
        .filter(|(_, draining)| !draining)
        .map(|agent| Incarnation(agent.0))
        .collect();
    let uids: Vec<i64> = moves.iter().map(|wish| wish.partition.0).collect();
    let rows: Vec<HeldColumns> = query_as(
        "SELECT id, holder, epoch, log_start, rolled, high_watermark, size_bytes FROM partitions
         WHERE id = ANY($1) AND NOT deleted ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(&uids)
    .fetch_all(&mut *conn)
    .await?;
    let mut rows: HashMap<PartitionUid, HeldRow> = rows.into_iter().map(|row| held(&row, &live)).collect();
    let mut changed: HashMap<PartitionUid, (Option<i64>, i32)> = HashMap::new();
    let mut outcomes = Vec::with_capacity(moves.len());
    for wish in moves {
        let Some(row) = rows.get_mut(&wish.partition) else {
            outcomes.push(MoveOutcome::Lost);
            continue;
        };
        let before = (row.holder, row.epoch);
        outcomes.push(decide_move(row, wish, &takers));
        if (row.holder, row.epoch) != before {
            changed.insert(wish.partition, (row.holder.map(|holder| holder.0), row.epoch));
        }
    }
    if !changed.is_empty() {
        write(conn, changed).await?;
        bump(conn).await?;
    }
    Ok(outcomes)
}

fn held(row: &HeldColumns, live: &HashSet<Incarnation>) -> (PartitionUid, HeldRow) {
    let bounds = LogBounds {
        log_start: row.log_start,
        rolled: row.rolled,
        high_watermark: row.high_watermark,
        size_bytes: row.size_bytes,
    };
    let holder = row.holder.map(Incarnation).filter(|holder| live.contains(holder));
    (
        PartitionUid(row.id),
        HeldRow {
            holder,
            epoch: row.epoch,
            bounds,
        },
    )
}

async fn write(conn: &mut PgConnection, changed: HashMap<PartitionUid, (Option<i64>, i32)>) -> Outcome<()> {
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
