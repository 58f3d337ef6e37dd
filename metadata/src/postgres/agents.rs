//! Incarnations of agents, and the fence that every write of an agent passes.
//!
//! Every transaction takes its locks in this order, so that none deadlock: the lock that excludes
//! migrations (for a registration), the row of `cluster` (for a change of agents, leaders, topics,
//! users, ACLs or quotas), rows of `agents`, rows of `partitions` by id, rows of `wal_objects` by
//! key; the rows of users, ACLs and quotas need no order below that of `cluster`. A write of an
//! agent locks the agent's row FOR KEY SHARE: renewals do not conflict with it, but a seal (FOR
//! UPDATE) waits for it. Therefore nothing of an incarnation commits after it was sealed.

use sqlx::{query, query_as, query_scalar};

use super::{
    StoreConnection,
    cluster::{check_not_diverged, increment_timeline, increment_version, lock_cluster, try_lock_cluster},
    migrate::{RegistrationFence, check_registration},
};
use crate::{
    AgentIdentity, AgentRegistration, Error, Incarnation, Lease, LeaseRenewal, SilenceThreshold,
    rows::{
        LeasedPartitionRow, check_lease, millis, needs_drain, silence_ms, smallest_free_node_id, to_unsigned,
    },
    transaction::TransactionResult,
};

/// Seals incarnations whose rows the caller has locked FOR UPDATE.
async fn seal_locked(conn: &mut StoreConnection, incarnations: &[i64]) -> TransactionResult<()> {
    query("UPDATE agents SET sealed_at = clock_timestamp() WHERE incarnation = ANY($1)")
        .bind(incarnations)
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives an agent id a node id, unless it still has one: the smallest that no live agent has. If
/// that was the id of an agent that is gone, it is no longer.
///
/// The caller holds the lock of [`lock_cluster`] and has sealed the agent's own incarnations.
async fn ensure_node_id(conn: &mut StoreConnection, agent_id: &str) -> TransactionResult<()> {
    let known: Option<i32> = query_scalar("SELECT node_id FROM nodes WHERE agent_id = $1")
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
    query("DELETE FROM nodes WHERE node_id = $1")
        .bind(free)
        .execute(&mut *conn)
        .await?;
    query("INSERT INTO nodes (agent_id, node_id) VALUES ($1, $2)")
        .bind(agent_id)
        .bind(free)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

pub(super) async fn register(
    conn: &mut StoreConnection,
    new: &AgentRegistration,
    fence: RegistrationFence,
) -> TransactionResult<AgentIdentity> {
    let window = check_registration(conn, fence).await?;
    check_not_diverged(conn).await?;
    let old: Vec<i64> =
        query_scalar("SELECT incarnation FROM agents WHERE agent_id = $1 AND sealed_at IS NULL FOR UPDATE")
            .bind(&new.agent_id)
            .fetch_all(&mut *conn)
            .await?;
    if !old.is_empty() {
        seal_locked(conn, &old).await?;
    }
    ensure_node_id(conn, &new.agent_id).await?;
    let (incarnation, node_id): (i64, i32) = query_as(
        "INSERT INTO agents (agent_id, node_id, grpc_address, http_address, kafka_address, zone, version, lease_ttl_ms,
                             lease_expires_at)
         SELECT $1, node_id, $2, $3, $4, $5, $6, $7, clock_timestamp() + $7::bigint * interval '1 ms'
         FROM nodes WHERE agent_id = $1
         RETURNING incarnation, node_id",
    )
    .bind(&new.agent_id)
    .bind(&new.grpc_address)
    .bind(&new.http_address)
    .bind(&new.kafka_address)
    .bind(&new.zone)
    .bind(&new.version)
    .bind(millis(new.lease_ttl))
    .fetch_one(&mut *conn)
    .await?;
    if let Some(window) = window {
        query("UPDATE agents SET schema_min = $2, schema_max = $3 WHERE incarnation = $1")
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

/// Renews a lease, a column that no index covers, and looks for other leases that have expired.
pub(super) const RENEW_LEASE: &str = "
    UPDATE agents SET lease_expires_at = now() + lease_ttl_ms * interval '1 ms'
    WHERE incarnation = $1 AND sealed_at IS NULL
    RETURNING (SELECT version FROM cluster),
              EXISTS (SELECT 1 FROM agents other
                      WHERE other.sealed_at IS NULL AND other.lease_expires_at < now() AND other.incarnation <> $1)";

/// Renews a lease; also returns whether leases of others have expired.
pub(super) async fn renew_lease(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
) -> TransactionResult<(LeaseRenewal, bool)> {
    let renewed: Option<(i64, bool)> = query_as(RENEW_LEASE)
        .bind(incarnation.0)
        .fetch_optional(conn)
        .await?;
    let (version, expired) = renewed.ok_or(Error::Sealed(incarnation))?;
    Ok((
        LeaseRenewal {
            version: to_unsigned("the version", version)?,
            sealed_others: 0,
        },
        expired,
    ))
}

/// Seals the incarnations whose lease has expired; returns `None` if there is none to seal now.
///
/// Does not wait for locks: an incarnation in the middle of a commit, and a concurrent change by
/// another agent, are left to the next renewal. So one agent that hangs in a transaction cannot
/// make the others miss their renewals.
pub(super) async fn seal_expired(conn: &mut StoreConnection) -> TransactionResult<Option<LeaseRenewal>> {
    if !try_lock_cluster(conn).await? {
        return Ok(None);
    }
    let expired: Vec<i64> = query_scalar(
        "SELECT incarnation FROM agents WHERE sealed_at IS NULL AND lease_expires_at < now()
         ORDER BY incarnation FOR UPDATE SKIP LOCKED",
    )
    .fetch_all(&mut *conn)
    .await?;
    if expired.is_empty() {
        return Ok(None);
    }
    seal_locked(conn, &expired).await?;
    let version = increment_version(conn).await?;
    Ok(Some(LeaseRenewal {
        version,
        sealed_others: u32::try_from(expired.len()).unwrap_or(u32::MAX),
    }))
}

pub(super) async fn mark_draining(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
) -> TransactionResult<()> {
    lock_cluster(conn).await?;
    let draining = query_scalar("SELECT draining FROM agents WHERE incarnation = $1 AND sealed_at IS NULL")
        .bind(incarnation.0)
        .fetch_optional(&mut *conn)
        .await?;
    if !needs_drain(incarnation, draining)? {
        return Ok(());
    }
    query("UPDATE agents SET draining = true WHERE incarnation = $1")
        .bind(incarnation.0)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await?;
    Ok(())
}

pub(super) async fn seal(conn: &mut StoreConnection, incarnation: Incarnation) -> TransactionResult<()> {
    lock_cluster(conn).await?;
    let live: Vec<i64> = query_scalar(
        "SELECT incarnation FROM agents WHERE incarnation = $1 AND sealed_at IS NULL FOR UPDATE",
    )
    .bind(incarnation.0)
    .fetch_all(&mut *conn)
    .await?;
    if !live.is_empty() {
        seal_locked(conn, &live).await?;
        increment_version(conn).await?;
    }
    Ok(())
}

/// Seals an incarnation whose lease was not renewed for the given time; returns whether it is
/// sealed.
///
/// As [`seal_expired`], it does not wait for a transaction of that incarnation: the caller retries.
pub(super) async fn seal_if_silent(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
    silence: SilenceThreshold,
) -> TransactionResult<bool> {
    lock_cluster(conn).await?;
    // The last renewal happened one lease duration before the lease ends.
    let live: Option<(bool,)> = query_as(
        "SELECT lease_expires_at - (lease_ttl_ms - coalesce($2::bigint, lease_ttl_ms / 2)) * interval '1 ms'
                <= clock_timestamp()
         FROM agents WHERE incarnation = $1 AND sealed_at IS NULL FOR UPDATE SKIP LOCKED",
    )
    .bind(incarnation.0)
    .bind(silence_ms(silence))
    .fetch_optional(&mut *conn)
    .await?;
    match live {
        Some((false,)) => Ok(false),
        Some((true,)) => {
            seal_locked(conn, &[incarnation.0]).await?;
            increment_version(conn).await?;
            Ok(true)
        }
        None => Ok(is_sealed(conn, incarnation).await?.unwrap_or(true)),
    }
}

/// Returns whether the incarnation is sealed; `None` if it is unknown.
pub(super) async fn is_sealed(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
) -> TransactionResult<Option<bool>> {
    let sealed = query_scalar("SELECT sealed_at IS NOT NULL FROM agents WHERE incarnation = $1")
        .bind(incarnation.0)
        .fetch_optional(conn)
        .await?;
    Ok(sealed)
}

/// Selects the row of a partition with its topic, for a write of its holder.
macro_rules! leased_sql {
    ($lock:literal) => {
        concat!(
            "SELECT p.holder, p.epoch, p.deleted, p.log_start, p.rolled, p.high_watermark, p.size_bytes, p.partition,
                    t.topic_id, t.name, t.folder
             FROM partitions p JOIN topics t ON t.topic_id = p.topic_id WHERE p.id = $1 ",
            $lock
        )
    };
}
pub(super) const LEASED_EXCLUSIVE: &str = leased_sql!("FOR NO KEY UPDATE OF p");
pub(super) const LEASED_SHARED: &str = leased_sql!("FOR SHARE OF p");

/// The strength of the lock on the partition's row, which is held until the transaction ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum RowLock {
    /// For changes of the log.
    Exclusive,
    /// For changes that only require that the lease stays in force.
    Shared,
}

/// Locks and returns the partition's row if the lease is in force; it stays in force until the
/// transaction ends.
pub(super) async fn lock_leased_partition(
    conn: &mut StoreConnection,
    lease: Lease,
    lock: RowLock,
) -> TransactionResult<LeasedPartitionRow> {
    let sealed: Option<bool> =
        query_scalar("SELECT sealed_at IS NOT NULL FROM agents WHERE incarnation = $1 FOR KEY SHARE")
            .bind(lease.incarnation.0)
            .fetch_optional(&mut *conn)
            .await?;
    let sql = match lock {
        RowLock::Exclusive => LEASED_EXCLUSIVE,
        RowLock::Shared => LEASED_SHARED,
    };
    let row = query_as(sql).bind(lease.partition.0).fetch_optional(conn).await?;
    Ok(check_lease(lease, sealed, row)?)
}
