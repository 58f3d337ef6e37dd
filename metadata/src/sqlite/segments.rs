//! Rolls WAL ranges into segments, and advances the log start.

use sqlx::{SqliteConnection, query, query_as};
use uuid::Uuid;

use super::{agents::read_leased_partition, current_time_ms, topics::assign_new_folder};
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

pub(super) async fn begin_segment(
    conn: &mut SqliteConnection,
    lease: Lease,
    base_offset: i64,
) -> TransactionResult<SegmentIntent> {
    let row = read_leased_partition(conn, lease).await?;
    let left = find_intent(conn, lease, base_offset).await?;
    let IntentPlan { intent, abandoned } = plan_intent(lease, &row, base_offset, left)?;
    record_abandoned(conn, row.topic_id, abandoned.as_slice()).await?;
    let now = current_time_ms(conn).await?;
    query(
        "INSERT INTO segment_intents (partition_id, base_offset, key, incarnation, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (partition_id, base_offset) DO UPDATE SET incarnation = excluded.incarnation",
    )
    .bind(lease.partition.0)
    .bind(base_offset)
    .bind(&intent.key)
    .bind(lease.incarnation.0)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(intent)
}

async fn find_intent(
    conn: &mut SqliteConnection,
    lease: Lease,
    base_offset: i64,
) -> TransactionResult<Option<SegmentIntentRow>> {
    let row = query_as(
        "SELECT base_offset, key, incarnation FROM segment_intents WHERE partition_id = ?1 AND base_offset = ?2",
    )
    .bind(lease.partition.0)
    .bind(base_offset)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Changes the key of an intent because an object that is not this segment has the key: uses the
/// topic's current folder if that gives another key, otherwise a new folder. The other object is
/// never deleted.
pub(super) async fn reassign_segment_key(
    conn: &mut SqliteConnection,
    lease: Lease,
    base_offset: i64,
    taken: &str,
) -> TransactionResult<SegmentIntent> {
    let row = read_leased_partition(conn, lease).await?;
    let found = find_intent(conn, lease, base_offset).await?;
    let key = match plan_reassigned_key(lease, &row, base_offset, found, taken)? {
        Some(key) => key,
        None => {
            let folder = assign_new_folder(conn, row.topic_id).await?;
            segment_key(&folder, row.partition, base_offset)
        }
    };
    for sql in [
        "DELETE FROM abandoned_segments WHERE key = ?1",
        "DELETE FROM deletions WHERE key = ?1",
    ] {
        query(sql).bind(taken).execute(&mut *conn).await?;
    }
    query("UPDATE segment_intents SET key = ?3 WHERE partition_id = ?1 AND base_offset = ?2")
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
    conn: &mut SqliteConnection,
    lease: Lease,
    segment: &NewSegment,
) -> TransactionResult<()> {
    let row = read_leased_partition(conn, lease).await?;
    let stored =
        query_as("SELECT base_offset, key FROM segments WHERE partition_id = ?1 AND end_offset = ?2")
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
    let now = current_time_ms(conn).await?;
    query(
        "INSERT INTO segments (partition_id, end_offset, base_offset, max_timestamp, size_bytes, key, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(lease.partition.0)
    .bind(segment.end_offset)
    .bind(segment.base_offset)
    .bind(segment.max_timestamp)
    .bind(size_bytes)
    .bind(&segment.key)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    query("UPDATE partitions SET rolled = ?2, size_bytes = size_bytes + ?3 WHERE id = ?1")
        .bind(lease.partition.0)
        .bind(segment.end_offset)
        .bind(size_bytes - freed.bytes)
        .execute(&mut *conn)
        .await?;
    query("DELETE FROM segment_intents WHERE partition_id = ?1 AND base_offset = ?2")
        .bind(lease.partition.0)
        .bind(segment.base_offset)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes the ranges of a partition that end at or before `end_offset`, and releases their
/// objects.
async fn delete_ranges(
    conn: &mut SqliteConnection,
    partition: i64,
    end_offset: i64,
) -> TransactionResult<DeletedRanges> {
    let ranges: Vec<DeletedRangeRow> = query_as(
        "DELETE FROM ranges WHERE partition_id = ?1 AND end_offset <= ?2
         RETURNING end_offset, incarnation, sequence, length",
    )
    .bind(partition)
    .bind(end_offset)
    .fetch_all(&mut *conn)
    .await?;
    let freed = sum_deleted_ranges(&ranges);
    release_objects(conn, &freed).await?;
    Ok(freed)
}

/// Decrements the range counts of objects; those that reach zero become garbage.
pub(super) async fn release_objects(
    conn: &mut SqliteConnection,
    freed: &DeletedRanges,
) -> TransactionResult<()> {
    let now = current_time_ms(conn).await?;
    for &(incarnation, sequence, count) in &freed.objects {
        query(
            "UPDATE wal_objects SET live_ranges = live_ranges - ?3,
                                    unreferenced_at = iif(live_ranges = ?3, ?4, unreferenced_at)
             WHERE incarnation = ?1 AND sequence = ?2",
        )
        .bind(incarnation)
        .bind(sequence)
        .bind(count)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

pub(super) async fn advance_log_start(
    conn: &mut SqliteConnection,
    lease: Lease,
    log_start: i64,
) -> TransactionResult<i64> {
    let row = read_leased_partition(conn, lease).await?;
    let Some(log_start) = plan_log_start(row.bounds, log_start) else {
        return Ok(row.bounds.log_start);
    };
    let partition = lease.partition.0;
    let segments: Vec<(String, i64)> = query_as(
        "DELETE FROM segments WHERE partition_id = ?1 AND end_offset <= ?2 RETURNING key, size_bytes",
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
    query("UPDATE partitions SET log_start = ?2, rolled = ?3, size_bytes = size_bytes - ?4 WHERE id = ?1")
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
    conn: &mut SqliteConnection,
    lease: Lease,
    topic_id: Uuid,
    rolled: i64,
) -> TransactionResult<()> {
    let stale: Vec<AbandonedSegmentRow> = query_as(
        "DELETE FROM segment_intents WHERE partition_id = ?1 AND base_offset < ?2
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
    conn: &mut SqliteConnection,
    topic_id: Uuid,
    dropped: &[AbandonedSegmentRow],
) -> TransactionResult<()> {
    let keys: Vec<String> = dropped.iter().map(|intent| intent.key.clone()).collect();
    queue_deletions(conn, topic_id, &keys).await?;
    record_abandoned(conn, topic_id, dropped).await
}

/// Records segments whose upload may still arrive although their intent was dropped or taken over.
async fn record_abandoned(
    conn: &mut SqliteConnection,
    topic_id: Uuid,
    segments: &[AbandonedSegmentRow],
) -> TransactionResult<()> {
    for segment in segments {
        query(
            "INSERT INTO abandoned_segments (partition_id, base_offset, key, incarnation, topic_id)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (incarnation, key) DO UPDATE SET queued_at = NULL",
        )
        .bind(segment.partition_id)
        .bind(segment.base_offset)
        .bind(&segment.key)
        .bind(segment.incarnation)
        .bind(topic_id)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Queues segments of a topic for deletion.
pub(super) async fn queue_deletions(
    conn: &mut SqliteConnection,
    topic_id: Uuid,
    keys: &[String],
) -> TransactionResult<()> {
    let now = current_time_ms(conn).await?;
    for key in keys {
        query("INSERT INTO deletions (key, topic_id, queued_at) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO NOTHING")
            .bind(key)
            .bind(topic_id)
            .bind(now)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
