//! Recovery when the bucket is ahead of this store.

use sqlx::{SqliteConnection, query, query_scalar};
use uuid::Uuid;

use super::{
    cluster::increment_timeline, current_time_ms, security::has_security_tables, topics::assign_new_folder,
};
use crate::{
    Error, RecoveryOutcome, RecoveryRequest, Timeline, keys::parse_stored_wal_key, rows::to_signed,
    transaction::TransactionResult, types::SKIPPED_VERSIONS,
};

pub(super) async fn recover(
    conn: &mut SqliteConnection,
    recovery: &RecoveryRequest,
) -> TransactionResult<RecoveryOutcome> {
    let now = current_time_ms(conn).await?;
    let live = query_scalar(
        "SELECT agent_id FROM agents WHERE sealed_at IS NULL AND lease_expires_at >= ?1 LIMIT 1",
    );
    if let Some(agent_id) = live.bind(now).fetch_optional(&mut *conn).await? {
        return Err(Error::AgentHoldsLease(agent_id).into());
    }
    // They are not swept again: their objects may belong to another history.
    let incarnations = query(
        "UPDATE agents SET sealed_at = coalesce(sealed_at, ?1), swept_at = coalesce(swept_at, ?1), last_look = 1
         WHERE swept_at IS NULL OR NOT last_look",
    )
    .bind(now)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let intents = query("DELETE FROM segment_intents").execute(&mut *conn).await?;
    query("DELETE FROM abandoned_segments")
        .execute(&mut *conn)
        .await?;
    for (name, &uses) in &recovery.topic_name_uses {
        query(
            "INSERT INTO topic_names (name, uses) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET uses = max(topic_names.uses, excluded.uses)",
        )
        .bind(name)
        .bind(to_signed("the uses of a name", uses)?)
        .execute(&mut *conn)
        .await?;
    }
    let topics: Vec<Uuid> = query_scalar("SELECT topic_id FROM topics WHERE deleted_at IS NULL")
        .fetch_all(&mut *conn)
        .await?;
    for &topic in &topics {
        assign_new_folder(conn, topic).await?;
    }
    raise_sequences(conn, &recovery.observed).await?;
    skip_versions(conn).await?;
    Ok(RecoveryOutcome {
        timeline: increment_timeline(conn).await?,
        topics: topics.len() as u64,
        intents: intents.rows_affected(),
        incarnations,
    })
}

/// Advances the timeline and the sequences of incarnations and producer ids beyond those of another
/// history.
async fn raise_sequences(conn: &mut SqliteConnection, beyond: &Timeline) -> TransactionResult<()> {
    query(
        "UPDATE cluster SET timeline = max(timeline, ?1), last_producer_id = max(last_producer_id, ?2), diverged_at = NULL",
    )
    .bind(to_signed("the timeline", beyond.number)?)
    .bind(beyond.producer_id)
    .execute(&mut *conn)
    .await?;
    let moved = query("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'agents'")
        .bind(beyond.incarnation.0)
        .execute(&mut *conn)
        .await?;
    if moved.rows_affected() == 0 {
        query("INSERT INTO sqlite_sequence (name, seq) VALUES ('agents', ?1)")
            .bind(beyond.incarnation.0)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Advances the versions of the snapshots beyond any that an agent can have read of the other
/// history: it would take another state for what it knows.
async fn skip_versions(conn: &mut SqliteConnection) -> TransactionResult<()> {
    query("UPDATE cluster SET version = version + ?1")
        .bind(SKIPPED_VERSIONS)
        .execute(&mut *conn)
        .await?;
    if has_security_tables(&mut *conn).await? {
        query("UPDATE cluster SET security_version = security_version + ?1")
            .bind(SKIPPED_VERSIONS)
            .execute(conn)
            .await?;
    }
    Ok(())
}

pub(super) async fn unknown_objects(
    conn: &mut SqliteConnection,
    keys: &[String],
) -> TransactionResult<Vec<String>> {
    let mut unknown = Vec::new();
    for key in keys {
        let known: bool = match parse_stored_wal_key(key) {
            Some((incarnation, sequence)) => {
                query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM wal_objects WHERE incarnation = ?1 AND sequence = ?2)",
                )
                .bind(incarnation)
                .bind(sequence)
                .fetch_one(&mut *conn)
                .await?
            }
            None => {
                query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM segments WHERE key = ?1)
                     OR EXISTS (SELECT 1 FROM segment_intents WHERE key = ?1)
                     OR EXISTS (SELECT 1 FROM deletions WHERE key = ?1)",
                )
                .bind(key)
                .fetch_one(&mut *conn)
                .await?
            }
        };
        if !known {
            unknown.push(key.clone());
        }
    }
    Ok(unknown)
}
