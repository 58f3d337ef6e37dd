//! Garbage collection in small steps.
//!
//! Several agents may run it at once: each step takes rows that no other transaction has locked.
//! The statements contain the size of a step,
//! [`MAX_DELETED_ROWS`](crate::garbage_step::MAX_DELETED_ROWS), as a literal, so that the planner
//! knows it.

use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{
    StoreConnection,
    agents::is_sealed,
    cluster::{increment_version, lock_cluster, try_lock_cluster},
    segments::{abandon_intents, queue_deletions, release_objects},
};
use crate::{
    GarbageBatch, GarbagePolicy, Incarnation,
    garbage_step::{
        MAX_COUNTED_OBJECTS, garbage_batch, greatest_sequences, is_full_step, orphan_sequences,
        storable_sequences,
    },
    keys::parse_wal_key,
    rows::{check_sealed, millis, row_limit, to_signed},
    segment_plan::{AbandonedSegmentRow, DeletedRangeRow, sum_deleted_ranges},
    transaction::TransactionResult,
};

/// Deletes a chunk of the ranges of a deleted topic.
pub(super) const PURGE_RANGES: &str = "
    WITH chunk AS MATERIALIZED (
        SELECT r.partition_id, r.end_offset FROM partitions p JOIN ranges r ON r.partition_id = p.id
        WHERE p.topic_id = $1 LIMIT 1000)
    DELETE FROM ranges r USING chunk WHERE r.partition_id = chunk.partition_id AND r.end_offset = chunk.end_offset
    RETURNING r.end_offset, r.incarnation, r.sequence, r.length";

/// Deletes a chunk of the segments of a deleted topic.
pub(super) const PURGE_SEGMENTS: &str = "
    WITH chunk AS MATERIALIZED (
        SELECT s.partition_id, s.end_offset FROM partitions p JOIN segments s ON s.partition_id = p.id
        WHERE p.topic_id = $1 LIMIT 1000)
    DELETE FROM segments s USING chunk WHERE s.partition_id = chunk.partition_id AND s.end_offset = chunk.end_offset
    RETURNING s.key";

const PURGE_INTENTS: &str = "
    WITH chunk AS MATERIALIZED (
        SELECT i.partition_id, i.base_offset FROM partitions p JOIN segment_intents i ON i.partition_id = p.id
        WHERE p.topic_id = $1 LIMIT 1000)
    DELETE FROM segment_intents i USING chunk
    WHERE i.partition_id = chunk.partition_id AND i.base_offset = chunk.base_offset
    RETURNING i.partition_id, i.base_offset, i.key, i.incarnation";

const PURGE_PRODUCERS: &str = "
    WITH chunk AS MATERIALIZED (
        SELECT s.partition_id, s.producer_id FROM partitions p JOIN producer_state s ON s.partition_id = p.id
        WHERE p.topic_id = $1 LIMIT 1000)
    DELETE FROM producer_state s USING chunk
    WHERE s.partition_id = chunk.partition_id AND s.producer_id = chunk.producer_id";

const PURGE_OFFSETS: &str = "
    WITH chunk AS MATERIALIZED (
        SELECT o.partition_id, o.group_id FROM partitions p JOIN consumer_offsets o ON o.partition_id = p.id
        WHERE p.topic_id = $1 LIMIT 1000)
    DELETE FROM consumer_offsets o USING chunk
    WHERE o.partition_id = chunk.partition_id AND o.group_id = chunk.group_id";

/// Deletes a chunk of the states of idle producers.
pub(super) const EXPIRE_PRODUCERS: &str = "
    WITH idle AS MATERIALIZED (
        SELECT partition_id, producer_id FROM producer_state WHERE last_used <= now() - $1::bigint * interval '1 ms'
        ORDER BY last_used LIMIT 1000 FOR UPDATE SKIP LOCKED)
    DELETE FROM producer_state s USING idle
    WHERE s.partition_id = idle.partition_id AND s.producer_id = idle.producer_id";

/// Selects incarnations that were swept long enough ago and have no object, for a second sweep.
pub(super) const SWEPT_INCARNATIONS: &str = "
    SELECT incarnation FROM agents a
    WHERE swept_at IS NOT NULL AND swept_at <= now() - $1::bigint * interval '1 ms' AND NOT last_look
    AND NOT EXISTS (SELECT 1 FROM wal_objects w WHERE w.incarnation = a.incarnation)
    ORDER BY swept_at LIMIT 1000 FOR UPDATE SKIP LOCKED";

/// Deletes incarnations that were swept a second time and that no partition names as its holder.
pub(super) const DELETE_SWEPT_INCARNATIONS: &str = "
    WITH looked AS MATERIALIZED (
        SELECT incarnation FROM agents a WHERE last_look AND swept_at IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM wal_objects w WHERE w.incarnation = a.incarnation)
        ORDER BY incarnation LIMIT 1000 FOR UPDATE SKIP LOCKED),
    named AS MATERIALIZED (
        SELECT DISTINCT holder FROM partitions WHERE EXISTS (SELECT 1 FROM looked) AND holder IS NOT NULL)
    DELETE FROM agents a USING looked
    WHERE a.incarnation = looked.incarnation AND NOT EXISTS (SELECT 1 FROM named WHERE named.holder = a.incarnation)
    RETURNING a.incarnation";

/// Queues segments that an incarnation may have uploaded late, if it was sealed long enough ago or
/// its row is deleted, except those that the log contains by now.
pub(super) const QUEUE_ABANDONED: &str = "
    WITH due AS MATERIALIZED (
        SELECT a.incarnation, a.key, a.topic_id, l.incarnation IS NULL AS forgotten
        FROM abandoned_segments a LEFT JOIN agents l ON l.incarnation = a.incarnation
        WHERE a.queued_at IS NULL
        AND (l.incarnation IS NULL OR l.sealed_at <= now() - $1::bigint * interval '1 ms')
        AND a.key IS DISTINCT FROM (SELECT i.key FROM segment_intents i
                                    WHERE i.partition_id = a.partition_id AND i.base_offset = a.base_offset)
        AND a.key IS DISTINCT FROM (SELECT s.key FROM segments s
                                    WHERE s.partition_id = a.partition_id AND s.end_offset > a.base_offset
                                    ORDER BY s.end_offset LIMIT 1)
        ORDER BY a.incarnation, a.key LIMIT 1000 FOR UPDATE OF a SKIP LOCKED
    ), queued AS (
        INSERT INTO deletions (key, topic_id, queued_at) SELECT key, topic_id, clock_timestamp() FROM due
        ON CONFLICT (key) DO NOTHING
    ), dropped AS (
        DELETE FROM abandoned_segments a USING due
        WHERE due.forgotten AND a.incarnation = due.incarnation AND a.key = due.key
    ), looked AS (
        UPDATE abandoned_segments a SET queued_at = clock_timestamp() FROM due
        WHERE NOT due.forgotten AND a.incarnation = due.incarnation AND a.key = due.key
    )
    SELECT count(*) FROM due";

/// Selects objects that have been unreferenced for long enough, oldest first.
pub(super) const UNREFERENCED: &str = "
    SELECT key, incarnation, sequence FROM (
        (SELECT unreferenced_at AS since, NULL AS key, incarnation, sequence FROM wal_objects
         WHERE unreferenced_at IS NOT NULL AND unreferenced_at <= now() - $1::bigint * interval '1 ms'
         ORDER BY unreferenced_at LIMIT $2)
        UNION ALL
        (SELECT queued_at, key, 0, 0 FROM deletions
         WHERE queued_at <= now() - $1::bigint * interval '1 ms' ORDER BY queued_at LIMIT $2)
    ) objects ORDER BY since LIMIT $2";

/// Selects which WAL objects of an incarnation have a row.
pub(super) const KNOWN_OBJECTS: &str =
    "SELECT sequence FROM wal_objects WHERE incarnation = $1 AND sequence = ANY($2::bigint[])";

/// Deletes a chunk of the rows of a deleted topic; returns whether there is more.
pub(super) async fn purge_topics(conn: &mut StoreConnection) -> TransactionResult<bool> {
    let topic: Option<Uuid> = query_scalar(
        "SELECT topic_id FROM topics WHERE deleted_at IS NOT NULL AND NOT purged
         ORDER BY deleted_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(topic_id) = topic
        && purge_chunk(conn, topic_id).await?
    {
        query("DELETE FROM partitions WHERE topic_id = $1")
            .bind(topic_id)
            .execute(&mut *conn)
            .await?;
        query("UPDATE topics SET purged = true WHERE topic_id = $1")
            .bind(topic_id)
            .execute(&mut *conn)
            .await?;
    }
    query(
        "WITH done AS MATERIALIZED (
             SELECT topic_id FROM topics t WHERE deleted_at IS NOT NULL AND purged
             AND NOT EXISTS (SELECT 1 FROM deletions d WHERE d.topic_id = t.topic_id) FOR UPDATE SKIP LOCKED)
         DELETE FROM topics t USING done WHERE t.topic_id = done.topic_id",
    )
    .execute(conn)
    .await?;
    Ok(topic.is_some())
}

/// Deletes a chunk of each table for one topic; returns whether nothing is left.
async fn purge_chunk(conn: &mut StoreConnection, topic_id: Uuid) -> TransactionResult<bool> {
    let ranges: Vec<DeletedRangeRow> = query_as(PURGE_RANGES)
        .bind(topic_id)
        .fetch_all(&mut *conn)
        .await?;
    release_objects(conn, &sum_deleted_ranges(&ranges)).await?;
    let mut rows = ranges.len();
    let keys: Vec<String> = query_scalar(PURGE_SEGMENTS)
        .bind(topic_id)
        .fetch_all(&mut *conn)
        .await?;
    queue_deletions(conn, topic_id, &keys).await?;
    let intents: Vec<AbandonedSegmentRow> = query_as(PURGE_INTENTS)
        .bind(topic_id)
        .fetch_all(&mut *conn)
        .await?;
    abandon_intents(conn, topic_id, &intents).await?;
    rows += keys.len() + intents.len();
    for sql in [PURGE_PRODUCERS, PURGE_OFFSETS] {
        let deleted = query(sql).bind(topic_id).execute(&mut *conn).await?;
        rows += usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX);
    }
    Ok(rows == 0)
}

/// Deletes the states of producers that appended nothing for the policy's time.
pub(super) async fn expire_producers(
    conn: &mut StoreConnection,
    policy: &GarbagePolicy,
) -> TransactionResult<bool> {
    let deleted = query(EXPIRE_PRODUCERS)
        .bind(millis(policy.producer_expiry))
        .execute(conn)
        .await?;
    Ok(is_full_step(deleted.rows_affected()))
}

/// Deletes the offsets, and then the rows, of groups without members that committed nothing for the
/// policy's time.
pub(super) async fn expire_offsets(
    conn: &mut StoreConnection,
    policy: &GarbagePolicy,
) -> TransactionResult<bool> {
    let retention = millis(policy.offsets_retention);
    let groups: Vec<String> = query_scalar(
        "SELECT group_id FROM consumer_groups
         WHERE idle_since IS NOT NULL AND idle_since <= now() - $1::bigint * interval '1 ms'
         ORDER BY idle_since LIMIT 1000 FOR UPDATE SKIP LOCKED",
    )
    .bind(retention)
    .fetch_all(&mut *conn)
    .await?;
    if groups.is_empty() {
        return Ok(false);
    }
    query(
        "DELETE FROM consumer_offsets
         WHERE group_id = ANY($1) AND committed_at <= now() - $2::bigint * interval '1 ms'",
    )
    .bind(&groups)
    .bind(retention)
    .execute(&mut *conn)
    .await?;
    // They are due again with their next offset, so that they do not precede others in the queue.
    query(
        "UPDATE consumer_groups g SET idle_since = o.next
         FROM (SELECT group_id, min(committed_at) AS next FROM consumer_offsets WHERE group_id = ANY($1) GROUP BY group_id) o
         WHERE g.group_id = o.group_id",
    )
    .bind(&groups)
    .execute(&mut *conn)
    .await?;
    query(
        "DELETE FROM consumer_groups g WHERE group_id = ANY($1)
         AND NOT EXISTS (SELECT 1 FROM consumer_offsets o WHERE o.group_id = g.group_id)",
    )
    .bind(&groups)
    .execute(conn)
    .await?;
    Ok(is_full_step(groups.len() as u64))
}

/// Queues segments that sealed incarnations may have uploaded late.
pub(super) async fn queue_abandoned(
    conn: &mut StoreConnection,
    policy: &GarbagePolicy,
) -> TransactionResult<bool> {
    let queued: i64 = query_scalar(QUEUE_ABANDONED)
        .bind(millis(policy.object_grace))
        .fetch_one(conn)
        .await?;
    // The next step returns what was queued now.
    Ok(queued > 0)
}

/// Deletes incarnations that are sealed, have no object, and that no partition names as its holder.
///
/// An incarnation without a row cannot commit either, and its number is never used again. Each is
/// swept a second time before: it counts as not swept again.
pub(super) async fn delete_swept_incarnations(
    conn: &mut StoreConnection,
    policy: &GarbagePolicy,
) -> TransactionResult<bool> {
    let ended: Vec<i64> = query_scalar(SWEPT_INCARNATIONS)
        .bind(millis(policy.incarnation_retention))
        .fetch_all(&mut *conn)
        .await?;
    if !ended.is_empty() {
        request_second_sweep(conn, &ended).await?;
    }
    let forgotten: Vec<i64> = query_scalar(DELETE_SWEPT_INCARNATIONS)
        .fetch_all(&mut *conn)
        .await?;
    if !forgotten.is_empty() {
        query("DELETE FROM abandoned_segments WHERE incarnation = ANY($1) AND queued_at IS NOT NULL")
            .bind(&forgotten)
            .execute(conn)
            .await?;
    }
    Ok(is_full_step(forgotten.len() as u64))
}

/// Requests a second sweep of incarnations. If another transaction is changing agents, the next
/// step does it.
async fn request_second_sweep(conn: &mut StoreConnection, incarnations: &[i64]) -> TransactionResult<()> {
    if !try_lock_cluster(conn).await? {
        return Ok(());
    }
    query("UPDATE agents SET last_look = true, swept_at = NULL WHERE incarnation = ANY($1)")
        .bind(incarnations)
        .execute(&mut *conn)
        .await?;
    query("UPDATE abandoned_segments SET queued_at = NULL WHERE incarnation = ANY($1)")
        .bind(incarnations)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await?;
    Ok(())
}

/// Returns the objects to delete now, and how many wait.
pub(super) async fn find_unreferenced(
    conn: &mut StoreConnection,
    policy: &GarbagePolicy,
    limit: usize,
) -> TransactionResult<GarbageBatch> {
    let grace = millis(policy.object_grace);
    let objects = query_as(UNREFERENCED)
        .bind(grace)
        .bind(row_limit(limit))
        .fetch_all(&mut *conn)
        .await?;
    let waiting = query_scalar(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM wal_objects WHERE unreferenced_at IS NOT NULL
                 AND unreferenced_at > now() - $1::bigint * interval '1 ms' LIMIT $2) w)
              + (SELECT count(*) FROM (SELECT 1 FROM deletions
                 WHERE queued_at > now() - $1::bigint * interval '1 ms' LIMIT $2) d)",
    )
    .bind(grace)
    .bind(MAX_COUNTED_OBJECTS)
    .fetch_one(conn)
    .await?;
    Ok(garbage_batch(objects, waiting, limit)?)
}

pub(super) async fn confirm_deleted(conn: &mut StoreConnection, keys: &[String]) -> TransactionResult<()> {
    let mut wal: Vec<(i64, i64)> = Vec::new();
    let mut named: Vec<&str> = Vec::new();
    for key in keys {
        match parse_wal_key(key) {
            Some((incarnation, sequence)) => wal.push((incarnation.0, to_signed("the sequence", sequence)?)),
            None => named.push(key),
        }
    }
    if !named.is_empty() {
        // In order, so that concurrent confirmations of the same keys do not deadlock.
        query(
            "WITH gone AS MATERIALIZED (SELECT key FROM deletions WHERE key = ANY($1) ORDER BY key FOR UPDATE)
             DELETE FROM deletions d USING gone WHERE d.key = gone.key",
        )
        .bind(&named)
        .execute(&mut *conn)
        .await?;
    }
    if wal.is_empty() {
        return Ok(());
    }
    let (incarnations, sequences): (Vec<i64>, Vec<i64>) = wal.into_iter().unzip();
    let gone: Vec<(i64, i64)> = query_as(
        "WITH gone AS MATERIALIZED (
             SELECT w.incarnation, w.sequence FROM UNNEST($1::bigint[], $2::bigint[]) AS u (incarnation, sequence)
             JOIN wal_objects w ON w.incarnation = u.incarnation AND w.sequence = u.sequence
             WHERE w.live_ranges = 0 ORDER BY w.incarnation, w.sequence FOR UPDATE OF w)
         DELETE FROM wal_objects w USING gone WHERE w.incarnation = gone.incarnation AND w.sequence = gone.sequence
         RETURNING w.incarnation, w.sequence",
    )
    .bind(incarnations)
    .bind(sequences)
    .fetch_all(&mut *conn)
    .await?;
    record_deleted_sequences(conn, &gone).await
}

/// Records the greatest deleted sequence of each incarnation.
async fn record_deleted_sequences(conn: &mut StoreConnection, gone: &[(i64, i64)]) -> TransactionResult<()> {
    for (incarnation, sequence) in greatest_sequences(gone) {
        query(
            "UPDATE agents SET forgotten_sequence = greatest(forgotten_sequence, $2) WHERE incarnation = $1",
        )
        .bind(incarnation)
        .bind(sequence)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

pub(super) async fn orphans(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
    sequences: &[u64],
) -> TransactionResult<Vec<u64>> {
    check_sealed(incarnation, is_sealed(conn, incarnation).await?)?;
    let known = query_scalar(KNOWN_OBJECTS)
        .bind(incarnation.0)
        .bind(storable_sequences(sequences))
        .fetch_all(conn)
        .await?;
    Ok(orphan_sequences(sequences, known))
}

pub(super) async fn mark_swept(
    conn: &mut StoreConnection,
    incarnation: Incarnation,
) -> TransactionResult<()> {
    lock_cluster(conn).await?;
    check_sealed(incarnation, is_sealed(conn, incarnation).await?)?;
    let swept =
        query("UPDATE agents SET swept_at = clock_timestamp() WHERE incarnation = $1 AND swept_at IS NULL")
            .bind(incarnation.0)
            .execute(&mut *conn)
            .await?;
    if swept.rows_affected() > 0 {
        increment_version(conn).await?;
    }
    Ok(())
}
