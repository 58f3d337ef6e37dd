//! Incarnations of agents, their leases, and the snapshot of agents, topics and leaders.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{SqliteConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{current_time_ms, snapshot_version};
use crate::{
    AgentEntry, AgentIdentity, AgentRegistration, ClusterSnapshot, Error, Incarnation, Lease, LeaseMove,
    LeaseMoveOutcome, LeaseRenewal, LogBounds, PartitionUid, SilenceThreshold,
    leases::{PartitionLeaseRow, apply_move},
    rows::{LeasedPartitionRow, check_lease, millis, to_unsigned},
    transaction::TransactionResult,
};

/// Increments the version of the snapshot.
pub(super) async fn increment_version(conn: &mut SqliteConnection) -> TransactionResult<()> {
    query("UPDATE cluster SET version = version + 1")
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn register(
    conn: &mut SqliteConnection,
    new: &AgentRegistration,
) -> TransactionResult<AgentIdentity> {
    super::cluster::check_not_diverged(conn).await?;
    let now = current_time_ms(conn).await?;
    query("UPDATE agents SET sealed_at = ?1 WHERE agent_id = ?2 AND sealed_at IS NULL")
        .bind(now)
        .bind(&new.agent_id)
        .execute(&mut *conn)
        .await?;
    query(
        "INSERT INTO nodes (agent_id, node_id) SELECT ?1, coalesce(max(node_id), 0) + 1 FROM nodes WHERE true
         ON CONFLICT (agent_id) DO NOTHING",
    )
    .bind(&new.agent_id)
    .execute(&mut *conn)
    .await?;
    let (incarnation, node_id): (i64, i32) = query_as(
        "INSERT INTO agents (agent_id, node_id, grpc_address, http_address, kafka_address, zone, version, lease_ttl_ms,
                             registered_at, lease_expires_at)
         SELECT ?1, node_id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8 + ?7 FROM nodes WHERE agent_id = ?1
         RETURNING incarnation, node_id",
    )
    .bind(&new.agent_id)
    .bind(&new.grpc_address)
    .bind(&new.http_address)
    .bind(&new.kafka_address)
    .bind(&new.zone)
    .bind(&new.version)
    .bind(millis(new.lease_ttl))
    .bind(now)
    .fetch_one(&mut *conn)
    .await?;
    increment_version(conn).await?;
    Ok(AgentIdentity {
        incarnation: Incarnation(incarnation),
        node_id,
        timeline: super::cluster::increment_timeline(conn).await?,
    })
}

pub(super) async fn renew_lease(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
) -> TransactionResult<LeaseRenewal> {
    let now = current_time_ms(conn).await?;
    let renewed = query(
        "UPDATE agents SET lease_expires_at = ?1 + lease_ttl_ms WHERE incarnation = ?2 AND sealed_at IS NULL",
    )
    .bind(now)
    .bind(incarnation.0)
    .execute(&mut *conn)
    .await?;
    if renewed.rows_affected() == 0 {
        return Err(Error::Sealed(incarnation).into());
    }
    let expired = query("UPDATE agents SET sealed_at = ?1 WHERE sealed_at IS NULL AND lease_expires_at < ?1")
        .bind(now)
        .execute(&mut *conn)
        .await?;
    if expired.rows_affected() > 0 {
        increment_version(conn).await?;
    }
    let sealed_others = u32::try_from(expired.rows_affected()).unwrap_or(u32::MAX);
    Ok(LeaseRenewal {
        version: snapshot_version(conn).await?,
        sealed_others,
    })
}

pub(super) async fn mark_draining(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
) -> TransactionResult<()> {
    let draining: Option<bool> =
        query_scalar("SELECT draining FROM agents WHERE incarnation = ?1 AND sealed_at IS NULL")
            .bind(incarnation.0)
            .fetch_optional(&mut *conn)
            .await?;
    match draining {
        None => Err(Error::Sealed(incarnation).into()),
        Some(true) => Ok(()),
        Some(false) => {
            query("UPDATE agents SET draining = 1 WHERE incarnation = ?1")
                .bind(incarnation.0)
                .execute(&mut *conn)
                .await?;
            increment_version(conn).await
        }
    }
}

pub(super) async fn seal(conn: &mut SqliteConnection, incarnation: Incarnation) -> TransactionResult<()> {
    let now = current_time_ms(conn).await?;
    let sealed = query("UPDATE agents SET sealed_at = ?1 WHERE incarnation = ?2 AND sealed_at IS NULL")
        .bind(now)
        .bind(incarnation.0)
        .execute(&mut *conn)
        .await?;
    if sealed.rows_affected() > 0 {
        increment_version(conn).await?;
    }
    Ok(())
}

/// Seals an incarnation whose lease was not renewed for the given time; returns whether it is
/// sealed.
pub(super) async fn seal_if_silent(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
    silence: SilenceThreshold,
) -> TransactionResult<bool> {
    let now = current_time_ms(conn).await?;
    let silent_ms = match silence {
        SilenceThreshold::AtLeast(duration) => Some(millis(duration)),
        SilenceThreshold::HalfLease => None,
    };
    // The last renewal happened one lease duration before the lease ends.
    let silent = query(
        "UPDATE agents SET sealed_at = ?1
         WHERE incarnation = ?2 AND sealed_at IS NULL
           AND lease_expires_at - lease_ttl_ms + coalesce(?3, lease_ttl_ms / 2) <= ?1",
    )
    .bind(now)
    .bind(incarnation.0)
    .bind(silent_ms)
    .execute(&mut *conn)
    .await?;
    if silent.rows_affected() > 0 {
        increment_version(conn).await?;
        return Ok(true);
    }
    Ok(is_sealed(conn, incarnation).await?.unwrap_or(true))
}

/// Returns whether the incarnation is sealed; `None` if it is unknown.
pub(super) async fn is_sealed(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
) -> TransactionResult<Option<bool>> {
    let sealed = query_scalar("SELECT sealed_at IS NOT NULL FROM agents WHERE incarnation = ?1")
        .bind(incarnation.0)
        .fetch_optional(conn)
        .await?;
    Ok(sealed)
}

#[derive(sqlx::FromRow)]
struct LeaseColumns {
    holder: Option<i64>,
    epoch: i32,
    deleted: bool,
    log_start: i64,
    rolled: i64,
    high_watermark: i64,
    size_bytes: i64,
    partition: i32,
    topic_id: Uuid,
    name: String,
    folder: String,
}

/// Returns the partition's row if the lease is in force.
pub(super) async fn read_leased_partition(
    conn: &mut SqliteConnection,
    lease: Lease,
) -> TransactionResult<LeasedPartitionRow> {
    let sealed = is_sealed(conn, lease.incarnation).await?;
    let row: Option<LeaseColumns> = query_as(
        "SELECT p.holder, p.epoch, p.deleted, p.log_start, p.rolled, p.high_watermark, p.size_bytes, p.partition,
                t.topic_id, t.name, t.folder
         FROM partitions p JOIN topics t ON t.topic_id = p.topic_id WHERE p.id = ?1",
    )
    .bind(lease.partition.0)
    .fetch_optional(conn)
    .await?;
    let row = row.map(|row| LeasedPartitionRow {
        holder: row.holder.map(Incarnation),
        epoch: row.epoch,
        deleted: row.deleted,
        bounds: LogBounds {
            log_start: row.log_start,
            rolled: row.rolled,
            high_watermark: row.high_watermark,
            size_bytes: row.size_bytes,
        },
        partition: row.partition,
        topic_id: row.topic_id,
        topic: row.name,
        folder: row.folder,
    });
    Ok(check_lease(lease, sealed, row)?)
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
    let unswept: Vec<(i64, i64)> = query_as(
        "SELECT incarnation, max(0, ?1 - sealed_at) FROM agents
         WHERE sealed_at IS NOT NULL AND swept_at IS NULL ORDER BY incarnation",
    )
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let mut unswept_ages = Vec::with_capacity(unswept.len());
    for (incarnation, for_ms) in unswept {
        unswept_ages.push((
            Incarnation(incarnation),
            Duration::from_millis(to_unsigned("a time", for_ms)?),
        ));
    }
    let topics = super::topics::read_topics(conn).await?;
    Ok(Some(ClusterSnapshot {
        version,
        cluster_id,
        agents: agents.collect(),
        unswept: unswept_ages,
        topics,
    }))
}

#[derive(sqlx::FromRow)]
struct PartitionLeaseColumns {
    holder: Option<i64>,
    epoch: i32,
    log_start: i64,
    rolled: i64,
    high_watermark: i64,
    size_bytes: i64,
}

pub(super) async fn move_leases(
    conn: &mut SqliteConnection,
    moves: &[LeaseMove],
) -> TransactionResult<Vec<LeaseMoveOutcome>> {
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
    let mut rows: HashMap<PartitionUid, PartitionLeaseRow> = HashMap::new();
    let mut outcomes = Vec::with_capacity(moves.len());
    let mut changed = false;
    for lease_move in moves {
        if !rows.contains_key(&lease_move.partition)
            && let Some(row) = lease_row(conn, lease_move.partition, &live).await?
        {
            rows.insert(lease_move.partition, row);
        }
        let Some(row) = rows.get_mut(&lease_move.partition) else {
            outcomes.push(LeaseMoveOutcome::Lost);
            continue;
        };
        let before = (row.holder, row.epoch);
        outcomes.push(apply_move(row, lease_move, &eligible));
        if (row.holder, row.epoch) != before {
            changed = true;
            query("UPDATE partitions SET holder = ?2, epoch = ?3 WHERE id = ?1")
                .bind(lease_move.partition.0)
                .bind(row.holder.map(|holder| holder.0))
                .bind(row.epoch)
                .execute(&mut *conn)
                .await?;
        }
    }
    if changed {
        increment_version(conn).await?;
    }
    Ok(outcomes)
}

async fn lease_row(
    conn: &mut SqliteConnection,
    uid: PartitionUid,
    live: &HashSet<Incarnation>,
) -> TransactionResult<Option<PartitionLeaseRow>> {
    let row: Option<PartitionLeaseColumns> = query_as(
        "SELECT holder, epoch, log_start, rolled, high_watermark, size_bytes FROM partitions WHERE id = ?1 AND NOT deleted",
    )
    .bind(uid.0)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| PartitionLeaseRow {
        holder: row.holder.map(Incarnation).filter(|holder| live.contains(holder)),
        epoch: row.epoch,
        bounds: LogBounds {
            log_start: row.log_start,
            rolled: row.rolled,
            high_watermark: row.high_watermark,
            size_bytes: row.size_bytes,
        },
    }))
}
