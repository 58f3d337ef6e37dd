//! Reads of the log: bounds, and the location of the records from an offset or a time on.

use sqlx::{SqliteConnection, query_as, query_scalar};

use super::current_time_ms;
use crate::{
    ActiveProducer, Error, LogBounds, LogPosition, LogView, PartitionUid,
    producers::{self, ActiveProducerRow},
    rows::{BoundsRow, MAX_SPANS, SpanRow, row_limit},
    transaction::TransactionResult,
};

pub(super) async fn allocate_producer_id(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    let number =
        query_scalar("UPDATE cluster SET last_producer_id = last_producer_id + 1 RETURNING last_producer_id")
            .fetch_one(&mut *conn)
            .await?;
    Ok(producers::new_producer_id(number, current_time_ms(conn).await?))
}

async fn read_bounds(conn: &mut SqliteConnection, uid: PartitionUid) -> TransactionResult<Option<LogBounds>> {
    let row: Option<BoundsRow> = query_as(
        "SELECT log_start, rolled, high_watermark, size_bytes FROM partitions WHERE id = ?1 AND NOT deleted",
    )
    .bind(uid.0)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(LogBounds::from))
}

pub(super) async fn active_producers(
    conn: &mut SqliteConnection,
    uid: PartitionUid,
    limit: usize,
) -> TransactionResult<Vec<ActiveProducer>> {
    let rows: Vec<ActiveProducerRow> = query_as(
        "SELECT s.producer_id, s.epoch, s.batches, s.last_used AS last_used_ms
         FROM producer_state s JOIN partitions p ON p.id = s.partition_id AND NOT p.deleted
         WHERE s.partition_id = ?1 ORDER BY s.producer_id DESC LIMIT ?2",
    )
    .bind(uid.0)
    .bind(row_limit(limit))
    .fetch_all(conn)
    .await?;
    Ok(producers::active_producers(uid, rows))
}

pub(super) async fn bounds(
    conn: &mut SqliteConnection,
    partitions: &[PartitionUid],
) -> TransactionResult<Vec<(PartitionUid, LogBounds)>> {
    let mut found = Vec::with_capacity(partitions.len());
    for &uid in partitions {
        if let Some(bounds) = read_bounds(conn, uid).await? {
            found.push((uid, bounds));
        }
    }
    Ok(found)
}

/// Returns the base offset of the first span that reaches a timestamp.
async fn offset_for_timestamp(
    conn: &mut SqliteConnection,
    uid: PartitionUid,
    bounds: LogBounds,
    timestamp: i64,
) -> TransactionResult<i64> {
    let segment: Option<i64> = query_scalar(
        "SELECT base_offset FROM segments WHERE partition_id = ?1 AND end_offset > ?2 AND max_timestamp >= ?3
         ORDER BY end_offset LIMIT 1",
    )
    .bind(uid.0)
    .bind(bounds.log_start)
    .bind(timestamp)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(offset) = segment {
        return Ok(offset);
    }
    let range: Option<i64> = query_scalar(
        "SELECT base_offset FROM ranges WHERE partition_id = ?1 AND end_offset > ?2 AND max_timestamp >= ?3
         ORDER BY end_offset LIMIT 1",
    )
    .bind(uid.0)
    .bind(bounds.log_start)
    .bind(timestamp)
    .fetch_optional(conn)
    .await?;
    Ok(range.unwrap_or(bounds.high_watermark))
}

/// Returns the base offset of the first span with the greatest timestamp, of those that end after
/// `after`.
async fn offset_of_greatest_timestamp(
    conn: &mut SqliteConnection,
    uid: PartitionUid,
    bounds: LogBounds,
    after: i64,
) -> TransactionResult<i64> {
    let offset: Option<i64> = query_scalar(
        "SELECT base_offset FROM (
             SELECT base_offset, end_offset, max_timestamp FROM segments WHERE partition_id = ?1 AND end_offset > ?2
             UNION ALL
             SELECT base_offset, end_offset, max_timestamp FROM ranges WHERE partition_id = ?1 AND end_offset > ?2)
         ORDER BY max_timestamp DESC, end_offset LIMIT 1",
    )
    .bind(uid.0)
    .bind(bounds.log_start.max(after))
    .fetch_optional(conn)
    .await?;
    Ok(offset.unwrap_or(bounds.high_watermark))
}

pub(super) async fn read_log(
    conn: &mut SqliteConnection,
    uid: PartitionUid,
    from: LogPosition,
    limit: usize,
) -> TransactionResult<LogView> {
    let bounds = read_bounds(conn, uid)
        .await?
        .ok_or(Error::UnknownPartition(uid))?;
    let from = match from {
        LogPosition::Offset(offset) => offset,
        LogPosition::Timestamp(timestamp) => offset_for_timestamp(conn, uid, bounds, timestamp).await?,
        LogPosition::GreatestTimestamp(after) => {
            offset_of_greatest_timestamp(conn, uid, bounds, after).await?
        }
    };
    let from = from.max(bounds.log_start);
    let limit = limit.min(MAX_SPANS);
    let mut rows: Vec<SpanRow> = query_as(
        "SELECT base_offset, end_offset, max_timestamp, created_at AS stored_at_ms, 0 AS epoch, key,
                0 AS incarnation, 0 AS sequence, 0 AS start, size_bytes AS size
         FROM segments WHERE partition_id = ?1 AND end_offset > ?2 ORDER BY end_offset LIMIT ?3",
    )
    .bind(uid.0)
    .bind(from)
    .bind(row_limit(limit))
    .fetch_all(&mut *conn)
    .await?;
    let ranges: Vec<SpanRow> = query_as(
        "SELECT base_offset, end_offset, max_timestamp, stored_at AS stored_at_ms, epoch, NULL AS key,
                incarnation, sequence, position AS start, length AS size
         FROM ranges WHERE partition_id = ?1 AND end_offset > ?2 ORDER BY end_offset LIMIT ?3",
    )
    .bind(uid.0)
    .bind(from)
    .bind(row_limit(limit - rows.len()))
    .fetch_all(&mut *conn)
    .await?;
    rows.extend(ranges);
    let mut spans = Vec::with_capacity(rows.len());
    for row in rows {
        spans.extend(row.into_span()?);
    }
    Ok(LogView {
        bounds,
        spans,
        now_ms: current_time_ms(conn).await?,
    })
}
