//! Recovery when the bucket is ahead of this store.

use sqlx::{query, query_scalar};
use uuid::Uuid;

use super::{
    StoreConnection,
    cluster::{increment_timeline, lock_cluster},
    security::has_security_tables,
    topics::assign_new_folder,
};
use crate::{
    Error, RecoveryOutcome, RecoveryRequest, keys::parse_stored_wal_key, rows::to_signed,
    transaction::TransactionResult, types::SKIPPED_VERSIONS,
};

pub(super) async fn recover(
    conn: &mut StoreConnection,
    recovery: &RecoveryRequest,
) -> TransactionResult<RecoveryOutcome> {
    lock_cluster(conn).await?;
    let live = query_scalar(
        "SELECT agent_id FROM agents WHERE sealed_at IS NULL AND lease_expires_at >= clock_timestamp() LIMIT 1",
    );
    if let Some(agent_id) = live.fetch_optional(&mut *conn).await? {
        return Err(Error::AgentHoldsLease(agent_id).into());
    }
    // They are not swept again: their objects may belong to another history.
    let incarnations = query(
        "UPDATE agents SET sealed_at = coalesce(sealed_at, clock_timestamp()),
                           swept_at = coalesce(swept_at, clock_timestamp()), last_look = true
         WHERE swept_at IS NULL OR NOT last_look",
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let intents = query("DELETE FROM segment_intents").execute(&mut *conn).await?;
    query("DELETE FROM abandoned_segments")
        .execute(&mut *conn)
        .await?;
    for (name, &uses) in &recovery.topic_name_uses {
        query(
            "INSERT INTO topic_names (name, uses) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET uses = greatest(topic_names.uses, excluded.uses)",
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
    let beyond = recovery.observed;
    query(
        "SELECT setval('agents_incarnation_seq', greatest($1, (SELECT last_value FROM agents_incarnation_seq))),
                setval('producer_ids', greatest($2, (SELECT last_value FROM producer_ids)))",
    )
    .bind(beyond.incarnation.0)
    .bind(beyond.producer_id)
    .execute(&mut *conn)
    .await?;
    query("UPDATE cluster SET timeline = greatest(timeline, $1), diverged_at = NULL")
        .bind(to_signed("the timeline", beyond.number)?)
        .execute(&mut *conn)
        .await?;
    skip_versions(conn).await?;
    Ok(RecoveryOutcome {
        timeline: increment_timeline(conn).await?,
        topics: topics.len() as u64,
        intents: intents.rows_affected(),
        incarnations,
    })
}

/// Advances the versions of the snapshots beyond any that an agent can have read of the other
/// history: it would take another state for what it knows.
async fn skip_versions(conn: &mut StoreConnection) -> TransactionResult<()> {
    query("UPDATE cluster SET version = version + $1")
        .bind(SKIPPED_VERSIONS)
        .execute(&mut *conn)
        .await?;
    if has_security_tables(&mut *conn).await? {
        query("UPDATE cluster SET security_version = security_version + $1")
            .bind(SKIPPED_VERSIONS)
            .execute(conn)
            .await?;
    }
    Ok(())
}

pub(super) async fn unknown_objects(
    conn: &mut StoreConnection,
    keys: &[String],
) -> TransactionResult<Vec<String>> {
    let (mut incarnations, mut sequences, mut wal, mut named) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        match parse_stored_wal_key(key) {
            Some((incarnation, sequence)) => {
                incarnations.push(incarnation);
                sequences.push(sequence);
                wal.push(key.as_str());
            }
            None => named.push(key.as_str()),
        }
    }
    let unknown = query_scalar(
        "SELECT u.key FROM UNNEST($1::bigint[], $2::bigint[], $3::text[]) AS u (incarnation, sequence, key)
         WHERE NOT EXISTS (SELECT 1 FROM wal_objects w WHERE w.incarnation = u.incarnation AND w.sequence = u.sequence)
         UNION ALL
         SELECT u.key FROM UNNEST($4::text[]) AS u (key)
         WHERE NOT EXISTS (SELECT 1 FROM segments s WHERE s.key = u.key)
           AND NOT EXISTS (SELECT 1 FROM segment_intents i WHERE i.key = u.key)
           AND NOT EXISTS (SELECT 1 FROM deletions d WHERE d.key = u.key)",
    )
    .bind(incarnations)
    .bind(sequences)
    .bind(wal)
    .bind(named)
    .fetch_all(conn)
    .await?;
    Ok(unknown)
}
