//! Reads of the log: bounds, and the location of the records from an offset or a time on.

use sqlx::{SqliteConnection, query_as, query_scalar};

use super::current_time_ms;
use crate::{
    Error, Incarnation, LogBounds, LogPosition, LogSpan, LogView, PartitionUid, SpanLocation,
    rows::{MAX_SPANS, to_unsigned},
    transaction::TransactionResult,
};

pub(super) async fn allocate_producer_id(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    let id =
        query_scalar("UPDATE cluster SET last_producer_id = last_producer_id + 1 RETURNING last_producer_id")
            .fetch_one(conn)
            .await?;
    Ok(id)
}

async fn read_bounds(conn: &mut SqliteConnection, uid: PartitionUid) -> TransactionResult<Option<LogBounds>> {
    let row: Option<(i64, i64, i64, i64)> = query_as(
        "SELECT log_start, rolled, high_watermark, size_bytes FROM partitions WHERE id = ?1 AND NOT deleted",
    )
    .bind(uid.0)
    .fetch_optional(conn)
    .await?;
    Ok(
        row.map(|(log_start, rolled, high_watermark, size_bytes)| LogBounds {
            log_start,
            rolled,
            high_watermark,
            size_bytes,
        }),
    )
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

#[derive(sqlx::FromRow)]
struct RangeColumns {
    base_offset: i64,
    end_offset: i64,
    max_timestamp: i64,
    stored_at: i64,
    epoch: i32,
    incarnation: i64,
    sequence: i64,
    position: i64,
    length: i64,
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
    };
    let from = from.max(bounds.log_start);
    let limit = limit.min(MAX_SPANS);
    let segments: Vec<(i64, i64, i64, i64, String, i64)> = query_as(
        "SELECT base_offset, end_offset, max_timestamp, created_at, key, size_bytes FROM segments
         WHERE partition_id = ?1 AND end_offset > ?2 ORDER BY end_offset LIMIT ?3",
    )
    .bind(uid.0)
    .bind(from)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await?;
    let mut spans = Vec::with_capacity(segments.len());
    for (base_offset, end_offset, max_timestamp, stored_at_ms, key, size_bytes) in segments {
        let place = SpanLocation::Segment {
            key,
            size_bytes: to_unsigned("a segment's size", size_bytes)?,
        };
        spans.push(LogSpan {
            base_offset,
            end_offset,
            max_timestamp,
            stored_at_ms,
            epoch: 0,
            place,
        });
    }
    let ranges: Vec<RangeColumns> = query_as(
        "SELECT base_offset, end_offset, max_timestamp, stored_at, epoch, incarnation, sequence, position, length
         FROM ranges
         WHERE partition_id = ?1 AND end_offset > ?2 ORDER BY end_offset LIMIT ?3",
    )
    .bind(uid.0)
    .bind(from)
    .bind(i64::try_from(limit - spans.len()).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await?;
    for row in ranges {
        let place = SpanLocation::Wal {
            incarnation: Incarnation(row.incarnation),
            sequence: to_unsigned("a sequence", row.sequence)?,
            position: to_unsigned("a position", row.position)?,
            length: to_unsigned("a length", row.length)?,
        };
        spans.push(LogSpan {
            base_offset: row.base_offset,
            end_offset: row.end_offset,
            max_timestamp: row.max_timestamp,
            stored_at_ms: row.stored_at,
            epoch: row.epoch,
            place,
        });
    }
    Ok(LogView {
        bounds,
        spans,
        now_ms: current_time_ms(conn).await?,
    })
}
