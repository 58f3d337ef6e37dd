//! The cluster as a whole: its timeline, and recovery when the bucket is ahead of this store.

use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{
    StoreConnection,
    agents::{increment_version, lock_cluster},
    topics::assign_new_folder,
};
use crate::{
    ClusterState, Error, Incarnation, RecoveryOutcome, RecoveryRequest, Timeline,
    keys::parse_wal_key,
    rows::{to_signed, to_unsigned},
    transaction::TransactionResult,
};

/// Selects the greatest numbers that the two sequences allocated; 0 before the first.
const LAST_ALLOCATED: &str = "
    SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM agents_incarnation_seq),
           (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM producer_ids)";

async fn read_timeline(conn: &mut StoreConnection, number: i64) -> TransactionResult<Timeline> {
    let (incarnation, producer_id): (i64, i64) = query_as(LAST_ALLOCATED).fetch_one(conn).await?;
    Ok(Timeline {
        number: to_unsigned("the timeline", number)?,
        incarnation: Incarnation(incarnation),
        producer_id,
    })
}

pub(super) async fn cluster_state(conn: &mut StoreConnection) -> TransactionResult<ClusterState> {
    let (cluster_id, number, diverged, has_topics): (String, i64, bool, bool) = query_as(
        "SELECT cluster_id, timeline, diverged_at IS NOT NULL, EXISTS (SELECT 1 FROM topics WHERE NOT internal)
         FROM cluster",
    )
    .fetch_one(&mut *conn)
    .await?;
    let timeline = read_timeline(conn, number).await?;
    Ok(ClusterState {
        cluster_id,
        timeline,
        diverged,
        in_use: has_topics || timeline.incarnation.0 > 0,
    })
}

/// Takes the lock of [`lock_cluster`] and refuses a store with a reported divergence.
pub(super) async fn check_not_diverged(conn: &mut StoreConnection) -> TransactionResult<()> {
    let diverged: bool = query_scalar("SELECT diverged_at IS NOT NULL FROM cluster FOR UPDATE")
        .fetch_one(conn)
        .await?;
    if diverged {
        Err(Error::Diverged.into())
    } else {
        Ok(())
    }
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
    increment_version(conn).await?;
    Ok(RecoveryOutcome {
        timeline: increment_timeline(conn).await?,
        topics: topics.len() as u64,
        intents: intents.rows_affected(),
        incarnations,
    })
}

pub(super) async fn unknown_objects(
    conn: &mut StoreConnection,
    keys: &[String],
) -> TransactionResult<Vec<String>> {
    let (mut incarnations, mut sequences, mut wal, mut named) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        match parse_wal_key(key).map(|(incarnation, sequence)| (incarnation, i64::try_from(sequence))) {
            Some((incarnation, Ok(sequence))) => {
                incarnations.push(incarnation.0);
                sequences.push(sequence);
                wal.push(key.as_str());
            }
            Some((_, Err(_))) | None => named.push(key.as_str()),
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
