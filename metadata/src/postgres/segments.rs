//! Rolls WAL ranges into segments, and advances the log start.

use sqlx::{query, query_as};
use uuid::Uuid;

use super::{
    StoreConnection,
    agents::{RowLock, lock_leased_partition},
    cluster::lock_cluster,
    topics::assign_new_folder,
};
use crate::{
    Lease, NewSegment, SegmentIntent,
    keys::segment_key,
    rows::to_signed,
    segment_plan::{
        AbandonedSegmentRow, DeletedRangeRow, DeletedRanges, IntentPlan, SegmentIntentRow, check_segment,
        is_stored, plan_intent, plan_log_start, plan_reassigned_key, sum_deleted_ranges,
    },
    transaction::TransactionResult,
};

/// Deletes the ranges of a partition up to an offset.
pub(super) const DELETE_RANGES: &str = "
    DELETE FROM ranges WHERE partition_id = $1 AND end_offset <= $2
    RETURNING end_offset, incarnation, sequence, length";

/// Locks objects in order, so that concurrent rolls that share objects do not deadlock.
pub(super) const LOCK_OBJECTS: &str = "
    SELECT w.sequence FROM UNNEST($1::bigint[], $2::bigint[]) AS u (incarnation, sequence)
    JOIN wal_objects w ON w.incarnation = u.incarnation AND w.sequence = u.sequence
    ORDER BY w.incarnation, w.sequence FOR NO KEY UPDATE OF w";

/// Decrements the range counts of objects; those that reach zero become garbage.
pub(super) const RELEASE_OBJECTS: &str = "
    UPDATE wal_objects w
    SET live_ranges = w.live_ranges - u.count,
        unreferenced_at = CASE WHEN w.live_ranges = u.count THEN clock_timestamp() END
    FROM UNNEST($1::bigint[], $2::bigint[], $3::integer[]) AS u (incarnation, sequence, count)
    WHERE w.incarnation = u.incarnation AND w.sequence = u.sequence";

pub(super) async fn begin_segment(
    conn: &mut StoreConnection,
    lease: Lease,
    base_offset: i64,
) -> TransactionResult<SegmentIntent> {
    let row = lock_leased_partition(conn, lease, RowLock::Exclusive).await?;
    let left = find_intent(conn, lease, base_offset).await?;
    let IntentPlan { intent, abandoned } = plan_intent(lease, &row, base_offset, left)?;
    record_abandoned(conn, row.topic_id, abandoned.as_slice()).await?;
    query(
        "INSERT INTO segment_intents (partition_id, base_offset, key, incarnation, topic_id) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (partition_id, base_offset) DO UPDATE SET incarnation = excluded.incarnation",
    )
    .bind(lease.partition.0)
    .bind(base_offset)
    .bind(&intent.key)
    .bind(lease.incarnation.0)
    .bind(row.topic_id)
    .execute(conn)
    .await?;
    Ok(intent)
}

async fn find_intent(
    conn: &mut StoreConnection,
    lease: Lease,
    base_offset: i64,
) -> TransactionResult<Option<SegmentIntentRow>> {
    let row = query_as(
        "SELECT base_offset, key, incarnation FROM segment_intents WHERE partition_id = $1 AND base_offset = $2",
    )
    .bind(lease.partition.0)
    .bind(base_offset)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Changes the key of an intent because an object that is not this segment has the key: uses the
/// topic's current folder if that gives another key, otherwise a new folder. The other object is
/// never deleted. Locks the cluster first, according to the lock order.
pub(super) async fn reassign_segment_key(
    conn: &mut StoreConnection,
    lease: Lease,
    base_offset: i64,
    taken: &str,
) -> TransactionResult<SegmentIntent> {
    lock_cluster(conn).await?;
    let row = lock_leased_partition(conn, lease, RowLock::Exclusive).await?;
    let found = find_intent(conn, lease, base_offset).await?;
    let key = match plan_reassigned_key(lease, &row, base_offset, found, taken)? {
        Some(key) => key,
        None => {
            let folder = assign_new_folder(conn, row.topic_id).await?;
            segment_key(&folder, row.partition, base_offset)
        }
    };
    for sql in [
        "DELETE FROM abandoned_segments WHERE key = $1",
        "DELETE FROM deletions WHERE key = $1",
    ] {
        query(sql).bind(taken).execute(&mut *conn).await?;
    }
    query("UPDATE segment_intents SET key = $3 WHERE partition_id = $1 AND base_offset = $2")
        .bind(lease.partition.0)
        .bind(base_offset)
        .bind(&key)
        .execute(conn)
        .await?;
    Ok(SegmentIntent {
        key,
        inherited: false,
    })
}

pub(super) async fn finish_segment(
    conn: &mut StoreConnection,
    lease: Lease,
    segment: &NewSegment,
) -> TransactionResult<()> {
    let row = lock_leased_partition(conn, lease, RowLock::Exclusive).await?;
    let stored =
        query_as("SELECT base_offset, key FROM segments WHERE partition_id = $1 AND end_offset = $2")
            .bind(lease.partition.0)
            .bind(segment.end_offset)
            .fetch_optional(&mut *conn)
            .await?;
    if is_stored(stored, segment) {
        // A repeated call: the segment is stored already.
        return Ok(());
    }
    check_segment(
        lease,
        &row,
        find_intent(conn, lease, segment.base_offset).await?,
        segment,
    )?;
    let freed = delete_ranges(conn, lease.partition.0, segment.end_offset).await?;
    freed.check_end(segment)?;
    let size_bytes = to_signed("the segment's size", segment.size_bytes)?;
    query(
        "WITH stored AS (
             INSERT INTO segments (partition_id, end_offset, base_offset, max_timestamp, size_bytes, key)
             VALUES ($1, $2, $3, $4, $5, $6)
         ), dropped AS (
             DELETE FROM segment_intents WHERE partition_id = $1 AND base_offset = $3
         )
         UPDATE partitions SET rolled = $2, size_bytes = size_bytes + $7 WHERE id = $1",
    )
    .bind(lease.partition.0)
    .bind(segment.end_offset)
    .bind(segment.base_offset)
    .bind(segment.max_timestamp)
    .bind(size_bytes)
    .bind(&segment.key)
    .bind(size_bytes - freed.bytes)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the ranges of a partition that end at or before `end_offset`, and releases their
/// objects.
async fn delete_ranges(
    conn: &mut StoreConnection,
    partition: i64,
    end_offset: i64,
) -> TransactionResult<DeletedRanges> {
    let ranges: Vec<DeletedRangeRow> = query_as(DELETE_RANGES)
        .bind(partition)
        .bind(end_offset)
        .fetch_all(&mut *conn)
        .await?;
    let freed = sum_deleted_ranges(&ranges);
    release_objects(conn, &freed).await?;
    Ok(freed)
}

/// Releases the objects of deleted ranges.
pub(super) async fn release_objects(
    conn: &mut StoreConnection,
    freed: &DeletedRanges,
) -> TransactionResult<()> {
    if freed.objects.is_empty() {
        return Ok(());
    }
    let incarnations: Vec<i64> = freed.objects.iter().map(|object| object.0).collect();
    let sequences: Vec<i64> = freed.objects.iter().map(|object| object.1).collect();
    let counts: Vec<i32> = freed.objects.iter().map(|object| object.2).collect();
    query(LOCK_OBJECTS)
        .bind(&incarnations)
        .bind(&sequences)
        .execute(&mut *conn)
        .await?;
    query(RELEASE_OBJECTS)
        .bind(&incarnations)
        .bind(&sequences)
        .bind(counts)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn advance_log_start(
    conn: &mut StoreConnection,
    lease: Lease,
    log_start: i64,
) -> TransactionResult<i64> {
    let row = lock_leased_partition(conn, lease, RowLock::Exclusive).await?;
    let Some(log_start) = plan_log_start(row.bounds, log_start) else {
        return Ok(row.bounds.log_start);
    };
    let partition = lease.partition.0;
    let segments: Vec<(String, i64)> = query_as(
        "DELETE FROM segments WHERE partition_id = $1 AND end_offset <= $2 RETURNING key, size_bytes",
    )
    .bind(partition)
    .bind(log_start)
    .fetch_all(&mut *conn)
    .await?;
    let (keys, sizes): (Vec<String>, Vec<i64>) = segments.into_iter().unzip();
    queue_deletions(conn, row.topic_id, &keys).await?;
    let freed = delete_ranges(conn, partition, log_start).await?;
    let rolled = freed.rolled_after(row.bounds.rolled);
    drop_stale_intents(conn, lease, row.topic_id, rolled).await?;
    let removed = freed.bytes + sizes.iter().sum::<i64>();
    query("UPDATE partitions SET log_start = $2, rolled = $3, size_bytes = size_bytes - $4 WHERE id = $1")
        .bind(partition)
        .bind(log_start)
        .bind(rolled)
        .bind(removed)
        .execute(conn)
        .await?;
    Ok(log_start)
}

/// Drops the intents that can no longer be finished because the log start has passed them. Their
/// objects may exist or still arrive.
async fn drop_stale_intents(
    conn: &mut StoreConnection,
    lease: Lease,
    topic_id: Uuid,
    rolled: i64,
) -> TransactionResult<()> {
    let stale: Vec<AbandonedSegmentRow> = query_as(
        "DELETE FROM segment_intents WHERE partition_id = $1 AND base_offset < $2
         RETURNING partition_id, base_offset, key, incarnation",
    )
    .bind(lease.partition.0)
    .bind(rolled)
    .fetch_all(&mut *conn)
    .await?;
    abandon_intents(conn, topic_id, &stale).await
}

/// Queues the objects of dropped intents for deletion, and records the writers whose uploads may
/// still arrive.
pub(super) async fn abandon_intents(
    conn: &mut StoreConnection,
    topic_id: Uuid,
    dropped: &[AbandonedSegmentRow],
) -> TransactionResult<()> {
    let keys: Vec<String> = dropped.iter().map(|intent| intent.key.clone()).collect();
    queue_deletions(conn, topic_id, &keys).await?;
    record_abandoned(conn, topic_id, dropped).await
}

/// Records segments whose upload may still arrive although their intent was dropped or taken over.
async fn record_abandoned(
    conn: &mut StoreConnection,
    topic_id: Uuid,
    segments: &[AbandonedSegmentRow],
) -> TransactionResult<()> {
    if segments.is_empty() {
        return Ok(());
    }
    let partitions: Vec<i64> = segments.iter().map(|segment| segment.partition_id).collect();
    let offsets: Vec<i64> = segments.iter().map(|segment| segment.base_offset).collect();
    let keys: Vec<&str> = segments.iter().map(|segment| segment.key.as_str()).collect();
    let incarnations: Vec<i64> = segments.iter().map(|segment| segment.incarnation).collect();
    query(
        "INSERT INTO abandoned_segments (partition_id, base_offset, key, incarnation, topic_id)
         SELECT u.partition_id, u.base_offset, u.key, u.incarnation, $5
         FROM UNNEST($1::bigint[], $2::bigint[], $3::text[], $4::bigint[])
              AS u (partition_id, base_offset, key, incarnation)
         ON CONFLICT (incarnation, key) DO UPDATE SET queued_at = NULL",
    )
    .bind(partitions)
    .bind(offsets)
    .bind(keys)
    .bind(incarnations)
    .bind(topic_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Queues segments of a topic for deletion.
pub(super) async fn queue_deletions(
    conn: &mut StoreConnection,
    topic_id: Uuid,
    keys: &[String],
) -> TransactionResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    query(
        "INSERT INTO deletions (key, topic_id, queued_at) SELECT u.key, $2, clock_timestamp() FROM UNNEST($1::text[]) AS u (key)
         ON CONFLICT (key) DO NOTHING",
    )
    .bind(keys)
    .bind(topic_id)
    .execute(conn)
    .await?;
    Ok(())
}
