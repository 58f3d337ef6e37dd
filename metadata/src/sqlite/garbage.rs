//! Garbage collection in small steps.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, SqliteConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{
    agents::is_sealed,
    cluster::increment_version,
    current_time_ms,
    segments::{abandon_intents, queue_deletions, release_objects},
};
use crate::{
    GarbageBatch, GarbagePolicy, Incarnation,
    garbage_step::{
        MAX_COUNTED_OBJECTS, MAX_DELETED_ROWS, garbage_batch, greatest_sequences, is_full_step,
        orphan_sequences, storable_sequences,
    },
    keys::parse_wal_key,
    rows::{check_sealed, millis, row_limit, to_signed},
    segment_plan::{AbandonedSegmentRow, DeletedRangeRow, sum_deleted_ranges},
    transaction::TransactionResult,
};

pub(super) async fn collect_garbage(
    conn: &mut SqliteConnection,
    policy: &GarbagePolicy,
    limit: usize,
) -> TransactionResult<GarbageBatch> {
    let now = current_time_ms(conn).await?;
    let mut more = purge_topics(conn).await?;
    more |= expire_producers(conn, now - millis(policy.producer_expiry)).await?;
    more |= expire_offsets(conn, now - millis(policy.offsets_retention)).await?;
    more |= delete_swept_incarnations(conn, now - millis(policy.incarnation_retention)).await?;
    let due = now - millis(policy.object_grace);
    more |= queue_abandoned(conn, due).await?;
    let objects = query_as(
        "SELECT key, incarnation, sequence FROM (
             SELECT unreferenced_at AS since, NULL AS key, incarnation, sequence FROM wal_objects
             WHERE unreferenced_at IS NOT NULL AND unreferenced_at <= ?1
             UNION ALL
             SELECT queued_at, key, 0, 0 FROM deletions WHERE queued_at <= ?1)
         ORDER BY since, key, incarnation, sequence LIMIT ?2",
    )
    .bind(due)
    .bind(row_limit(limit))
    .fetch_all(&mut *conn)
    .await?;
    let waiting = query_scalar(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM wal_objects WHERE unreferenced_at > ?1 LIMIT ?2))
              + (SELECT count(*) FROM (SELECT 1 FROM deletions WHERE queued_at > ?1 LIMIT ?2))",
    )
    .bind(due)
    .bind(MAX_COUNTED_OBJECTS)
    .fetch_one(conn)
    .await?;
    let batch = garbage_batch(objects, waiting, limit)?;
    Ok(GarbageBatch {
        more: more | batch.more,
        ..batch
    })
}

/// Deletes a chunk of the rows of a deleted topic; returns whether there is more.
async fn purge_topics(conn: &mut SqliteConnection) -> TransactionResult<bool> {
    let topic: Option<Uuid> = query_scalar(
        "SELECT topic_id FROM topics WHERE deleted_at IS NOT NULL AND NOT purged ORDER BY deleted_at LIMIT 1",
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(topic_id) = topic
        && purge_chunk(conn, topic_id).await?
    {
        query("DELETE FROM partitions WHERE topic_id = ?1")
            .bind(topic_id)
            .execute(&mut *conn)
            .await?;
        query("UPDATE topics SET purged = 1 WHERE topic_id = ?1")
            .bind(topic_id)
            .execute(&mut *conn)
            .await?;
    }
    query(
        "DELETE FROM topics
         WHERE purged AND NOT EXISTS (SELECT 1 FROM deletions d WHERE d.topic_id = topics.topic_id)",
    )
    .execute(conn)
    .await?;
    Ok(topic.is_some())
}

/// Deletes a chunk of each table for one topic; returns whether nothing is left.
async fn purge_chunk(conn: &mut SqliteConnection, topic_id: Uuid) -> TransactionResult<bool> {
    let ranges: Vec<DeletedRangeRow> = query_as(
        "DELETE FROM ranges WHERE (partition_id, end_offset) IN (
             SELECT r.partition_id, r.end_offset FROM partitions p JOIN ranges r ON r.partition_id = p.id
             WHERE p.topic_id = ?1 LIMIT ?2)
         RETURNING end_offset, incarnation, sequence, length",
    )
    .bind(topic_id)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    release_objects(conn, &sum_deleted_ranges(&ranges)).await?;
    let mut rows = ranges.len();
    let keys: Vec<String> = query_scalar(
        "DELETE FROM segments WHERE (partition_id, end_offset) IN (
             SELECT s.partition_id, s.end_offset FROM partitions p JOIN segments s ON s.partition_id = p.id
             WHERE p.topic_id = ?1 LIMIT ?2)
         RETURNING key",
    )
    .bind(topic_id)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    queue_deletions(conn, topic_id, &keys).await?;
    let intents: Vec<AbandonedSegmentRow> = query_as(
        "DELETE FROM segment_intents WHERE (partition_id, base_offset) IN (
             SELECT i.partition_id, i.base_offset FROM partitions p JOIN segment_intents i ON i.partition_id = p.id
             WHERE p.topic_id = ?1 LIMIT ?2)
         RETURNING partition_id, base_offset, key, incarnation",
    )
    .bind(topic_id)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    abandon_intents(conn, topic_id, &intents).await?;
    rows += keys.len() + intents.len();
    for (table, column) in [
        ("producer_state", "producer_id"),
        ("consumer_offsets", "group_id"),
    ] {
        let sql = format!(
            "DELETE FROM {table} WHERE (partition_id, {column}) IN (
                 SELECT r.partition_id, r.{column} FROM partitions p JOIN {table} r ON r.partition_id = p.id
                 WHERE p.topic_id = ?1 LIMIT ?2)"
        );
        let deleted = query(AssertSqlSafe(sql))
            .bind(topic_id)
            .bind(MAX_DELETED_ROWS)
            .execute(&mut *conn)
            .await?;
        rows += usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX);
    }
    Ok(rows == 0)
}

/// Deletes the states of producers that appended nothing since `due`.
async fn expire_producers(conn: &mut SqliteConnection, due: i64) -> TransactionResult<bool> {
    let deleted = query(
        "DELETE FROM producer_state WHERE (partition_id, producer_id) IN (
             SELECT partition_id, producer_id FROM producer_state WHERE last_used <= ?1 ORDER BY last_used LIMIT ?2)",
    )
    .bind(due)
    .bind(MAX_DELETED_ROWS)
    .execute(conn)
    .await?;
    Ok(is_full_step(deleted.rows_affected()))
}

/// Deletes the offsets, and then the rows, of groups without members that committed nothing since
/// `due`.
async fn expire_offsets(conn: &mut SqliteConnection, due: i64) -> TransactionResult<bool> {
    let groups: Vec<String> = query_scalar(
        "SELECT group_id FROM consumer_groups WHERE idle_since IS NOT NULL AND idle_since <= ?1
         ORDER BY idle_since LIMIT ?2",
    )
    .bind(due)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    for group in &groups {
        query("DELETE FROM consumer_offsets WHERE group_id = ?1 AND committed_at <= ?2")
            .bind(group)
            .bind(due)
            .execute(&mut *conn)
            .await?;
        let next: Option<i64> =
            query_scalar("SELECT min(committed_at) FROM consumer_offsets WHERE group_id = ?1")
                .bind(group)
                .fetch_one(&mut *conn)
                .await?;
        match next {
            // It is due again with its next offset, so that it does not precede others in the
            // queue.
            Some(next) => {
                query("UPDATE consumer_groups SET idle_since = ?2 WHERE group_id = ?1")
                    .bind(group)
                    .bind(next)
                    .execute(&mut *conn)
                    .await?;
            }
            None => {
                query("DELETE FROM consumer_groups WHERE group_id = ?1")
                    .bind(group)
                    .execute(&mut *conn)
                    .await?;
            }
        }
    }
    Ok(is_full_step(groups.len() as u64))
}

/// Queues segments that an incarnation may have uploaded late, if it was sealed before `due` or its
/// row is deleted, except those that the log contains by now.
async fn queue_abandoned(conn: &mut SqliteConnection, due: i64) -> TransactionResult<bool> {
    let abandoned: Vec<(i64, String, Uuid, bool)> = query_as(
        "SELECT a.incarnation, a.key, a.topic_id, l.incarnation IS NULL
         FROM abandoned_segments a LEFT JOIN agents l ON l.incarnation = a.incarnation
         WHERE a.queued_at IS NULL AND (l.incarnation IS NULL OR l.sealed_at <= ?1)
         AND a.key IS NOT (SELECT i.key FROM segment_intents i
                           WHERE i.partition_id = a.partition_id AND i.base_offset = a.base_offset)
         AND a.key IS NOT (SELECT s.key FROM segments s
                           WHERE s.partition_id = a.partition_id AND s.end_offset > a.base_offset
                           ORDER BY s.end_offset LIMIT 1)
         ORDER BY a.incarnation, a.key LIMIT ?2",
    )
    .bind(due)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    let now = current_time_ms(conn).await?;
    for (incarnation, key, topic_id, forgotten) in &abandoned {
        queue_deletions(conn, *topic_id, std::slice::from_ref(key)).await?;
        let sql = if *forgotten {
            "DELETE FROM abandoned_segments WHERE incarnation = ?1 AND key = ?2"
        } else {
            "UPDATE abandoned_segments SET queued_at = ?3 WHERE incarnation = ?1 AND key = ?2"
        };
        query(sql)
            .bind(incarnation)
            .bind(key)
            .bind(now)
            .execute(&mut *conn)
            .await?;
    }
    // The next step returns what was queued now.
    Ok(!abandoned.is_empty())
}

/// Deletes incarnations that were swept before `due`, have no object, and that no partition names
/// as its holder.
///
/// An incarnation without a row cannot commit either, and its number is never used again. Each is
/// swept a second time before: it counts as not swept again.
async fn delete_swept_incarnations(conn: &mut SqliteConnection, due: i64) -> TransactionResult<bool> {
    let ended: Vec<(i64, bool)> = query_as(
        "SELECT incarnation, last_look FROM agents a WHERE swept_at IS NOT NULL AND (last_look OR swept_at <= ?1)
         AND NOT EXISTS (SELECT 1 FROM wal_objects w WHERE w.incarnation = a.incarnation)
         ORDER BY swept_at LIMIT ?2",
    )
    .bind(due)
    .bind(MAX_DELETED_ROWS)
    .fetch_all(&mut *conn)
    .await?;
    if ended.is_empty() {
        return Ok(false);
    }
    let holders: Vec<i64> = query_scalar("SELECT DISTINCT holder FROM partitions WHERE holder IS NOT NULL")
        .fetch_all(&mut *conn)
        .await?;
    let holders: HashSet<i64> = holders.into_iter().collect();
    let (mut forgotten, mut unlooked) = (0, false);
    for (incarnation, last_look) in ended {
        if !last_look {
            unlooked = true;
            for sql in [
                "UPDATE agents SET last_look = 1, swept_at = NULL WHERE incarnation = ?1",
                "UPDATE abandoned_segments SET queued_at = NULL WHERE incarnation = ?1",
            ] {
                query(sql).bind(incarnation).execute(&mut *conn).await?;
            }
        } else if !holders.contains(&incarnation) {
            for sql in [
                "DELETE FROM agents WHERE incarnation = ?1",
                "DELETE FROM abandoned_segments WHERE incarnation = ?1 AND queued_at IS NOT NULL",
            ] {
                query(sql).bind(incarnation).execute(&mut *conn).await?;
            }
            forgotten += 1;
        }
    }
    if unlooked {
        increment_version(conn).await?;
    }
    Ok(is_full_step(forgotten))
}

pub(super) async fn confirm_deleted(conn: &mut SqliteConnection, keys: &[String]) -> TransactionResult<()> {
    let mut gone: Vec<(i64, i64)> = Vec::new();
    for key in keys {
        let Some((incarnation, sequence)) = parse_wal_key(key) else {
            query("DELETE FROM deletions WHERE key = ?1")
                .bind(key)
                .execute(&mut *conn)
                .await?;
            continue;
        };
        let sequence = to_signed("the sequence", sequence)?;
        let deleted =
            query("DELETE FROM wal_objects WHERE incarnation = ?1 AND sequence = ?2 AND live_ranges = 0")
                .bind(incarnation.0)
                .bind(sequence)
                .execute(&mut *conn)
                .await?;
        if deleted.rows_affected() > 0 {
            gone.push((incarnation.0, sequence));
        }
    }
    for (incarnation, sequence) in greatest_sequences(&gone) {
        query("UPDATE agents SET forgotten_sequence = max(forgotten_sequence, ?2) WHERE incarnation = ?1")
            .bind(incarnation)
            .bind(sequence)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

pub(super) async fn orphans(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
    sequences: &[u64],
) -> TransactionResult<Vec<u64>> {
    check_sealed(incarnation, is_sealed(conn, incarnation).await?)?;
    let mut known = Vec::new();
    for sequence in storable_sequences(sequences) {
        let row: Option<i64> =
            query_scalar("SELECT sequence FROM wal_objects WHERE incarnation = ?1 AND sequence = ?2")
                .bind(incarnation.0)
                .bind(sequence)
                .fetch_optional(&mut *conn)
                .await?;
        known.extend(row);
    }
    Ok(orphan_sequences(sequences, known))
}

pub(super) async fn mark_swept(
    conn: &mut SqliteConnection,
    incarnation: Incarnation,
) -> TransactionResult<()> {
    check_sealed(incarnation, is_sealed(conn, incarnation).await?)?;
    let now = current_time_ms(conn).await?;
    let swept = query("UPDATE agents SET swept_at = ?2 WHERE incarnation = ?1 AND swept_at IS NULL")
        .bind(incarnation.0)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    if swept.rows_affected() > 0 {
        increment_version(conn).await?;
    }
    Ok(())
}
