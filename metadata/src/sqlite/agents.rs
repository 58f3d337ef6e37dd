//! Incarnations of agents, and the check of a lease that every write of an agent passes.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::{
    cluster::{check_not_diverged, increment_timeline, increment_version},
    current_time_ms,
    migrate::check_registration,
    snapshot_version,
};
use crate::{
    AgentIdentity, AgentRegistration, Error, Incarnation, Lease, LeaseRenewal, SchemaWindow,
    SilenceThreshold,
    rows::{LeasedPartitionRow, check_lease, millis, needs_drain, silence_ms, smallest_free_node_id},
    transaction::TransactionResult,
};

/// Gives an agent id a node id, unless it still has one: the smallest that no live agent has. If
/// that was the id of an agent that is gone, it is no longer.
///
/// The caller has sealed the agent's own incarnations.
async fn ensure_node_id(conn: &mut SqliteConnection, agent_id: &str) -> TransactionResult<()> {
    let known: Option<i32> = query_scalar("SELECT node_id FROM nodes WHERE agent_id = ?1")
        .bind(agent_id)
        .fetch_optional(&mut *conn)
        .await?;
    if known.is_some() {
        return Ok(());
    }
    let taken: Vec<i32> = query_scalar("SELECT node_id FROM agents WHERE sealed_at IS NULL")
        .fetch_all(&mut *conn)
        .await?;
    let free = smallest_free_node_id(&taken);
    query("DELETE FROM nodes WHERE node_id = ?1")
        .bind(free)
        .execute(&mut *conn)
        .await?;
    query("INSERT INTO nodes (agent_id, node_id) VALUES (?1, ?2)")
        .bind(agent_id)
        .bind(free)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

pub(super) async fn register(
    conn: &mut SqliteConnection,
    new: &AgentRegistration,
    window: SchemaWindow,
) -> TransactionResult<AgentIdentity> {
    let window = check_registration(conn, window).await?;
    check_not_diverged(conn).await?;
    let now = current_time_ms(conn).await?;
    query("UPDATE agents SET sealed_at = ?1 WHERE agent_id = ?2 AND sealed_at IS NULL")
        .bind(now)
        .bind(&new.agent_id)
        .execute(&mut *conn)
        .await?;
    ensure_node_id(conn, &new.agent_id).await?;
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
    if let Some(window) = window {
        query("UPDATE agents SET schema_min = ?2, schema_max = ?3 WHERE incarnation = ?1")
            .bind(incarnation)
            .bind(window.min)
            .bind(window.max)
            .execute(&mut *conn)
            .await?;
    }
    increment_version(conn).await?;
    Ok(AgentIdentity {
        incarnation: Incarnation(incarnation),
        node_id,
        timeline: increment_timeline(conn).await?,
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
    let draining = query_scalar("SELECT draining FROM agents WHERE incarnation = ?1 AND sealed_at IS NULL")
        .bind(incarnation.0)
        .fetch_optional(&mut *conn)
        .await?;
    if !needs_drain(incarnation, draining)? {
        return Ok(());
    }
    query("UPDATE agents SET draining = 1 WHERE incarnation = ?1")
        .bind(incarnation.0)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await
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
    // The last renewal happened one lease duration before the lease ends.
    let silent = query(
        "UPDATE agents SET sealed_at = ?1
         WHERE incarnation = ?2 AND sealed_at IS NULL
           AND lease_expires_at - lease_ttl_ms + coalesce(?3, lease_ttl_ms / 2) <= ?1",
    )
    .bind(now)
    .bind(incarnation.0)
    .bind(silence_ms(silence))
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

/// Returns the partition's row if the lease is in force.
pub(super) async fn read_leased_partition(
    conn: &mut SqliteConnection,
    lease: Lease,
) -> TransactionResult<LeasedPartitionRow> {
    let sealed = is_sealed(conn, lease.incarnation).await?;
    let row = query_as(
        "SELECT p.holder, p.epoch, p.deleted, p.log_start, p.rolled, p.high_watermark, p.size_bytes, p.partition,
                t.topic_id, t.name, t.folder
         FROM partitions p JOIN topics t ON t.topic_id = p.topic_id WHERE p.id = ?1",
    )
    .bind(lease.partition.0)
    .fetch_optional(conn)
    .await?;
    Ok(check_lease(lease, sealed, row)?)
}
