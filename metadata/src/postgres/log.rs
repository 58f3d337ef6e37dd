//! Reads of the log: bounds, and the location of the records from an offset or a time on. Each is
//! one statement, so that bounds and spans are consistent; an offset is located by an index range
//! scan.

use sqlx::query_as;

use super::StoreConnection;
use crate::{
    ActiveProducer, Error, LogBounds, LogPosition, LogView, PartitionUid,
    producers::{self, ActiveProducerRow},
    rows::{BoundsRow, MAX_SPANS, SpanRow, row_limit},
    transaction::TransactionResult,
};

/// Builds the statement that reads from the offset that the expression `$from` returns.
macro_rules! read_sql {
    ($from:literal) => {
        concat!(
            "SELECT p.log_start, p.rolled, p.high_watermark, p.size_bytes,
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
                    s.base_offset, s.end_offset, s.max_timestamp,
                    (extract(epoch FROM s.stored_at) * 1000)::bigint AS stored_at_ms,
                    s.epoch, s.key, s.incarnation, s.sequence, s.start, s.size
             FROM partitions p
             CROSS JOIN LATERAL (SELECT ",
            $from,
            " AS first OFFSET 0) f -- OFFSET 0: computed once
             LEFT JOIN LATERAL (
                 (SELECT base_offset, end_offset, max_timestamp, created_at AS stored_at, 0 AS epoch, key,
                         0::bigint AS incarnation, 0::bigint AS sequence, 0::bigint AS start, size_bytes AS size
                  FROM segments WHERE partition_id = p.id AND end_offset > f.first ORDER BY end_offset LIMIT $3)
                 UNION ALL
                 (SELECT base_offset, end_offset, max_timestamp, stored_at, epoch, NULL, incarnation, sequence, position, length
                  FROM ranges WHERE partition_id = p.id AND end_offset > f.first ORDER BY end_offset LIMIT $3)
                 ORDER BY end_offset LIMIT $3
             ) s ON true
             WHERE p.id = $1 AND NOT p.deleted ORDER BY s.end_offset"
        )
    };
}

/// Reads from an offset on.
pub(super) const READ_OFFSET: &str = read_sql!("greatest(p.log_start, $2::bigint)");

/// Reads from the first span that reaches a time. `end_offset - 1` lies in that span, so the index
/// alone is sufficient.
pub(super) const READ_TIMESTAMP: &str = read_sql!(
    "greatest(p.log_start, coalesce(
        (SELECT end_offset - 1 FROM segments WHERE partition_id = p.id AND end_offset > p.log_start
         AND max_timestamp >= $2::bigint ORDER BY end_offset LIMIT 1),
        (SELECT end_offset - 1 FROM ranges WHERE partition_id = p.id AND end_offset > p.log_start
         AND max_timestamp >= $2::bigint ORDER BY end_offset LIMIT 1),
        p.high_watermark))"
);

/// Reads from the first span with the greatest timestamp, of those that end after an offset.
pub(super) const READ_GREATEST_TIMESTAMP: &str = read_sql!(
    "greatest(p.log_start, coalesce(
        (SELECT end_offset - 1 FROM (
             (SELECT end_offset, max_timestamp FROM segments
              WHERE partition_id = p.id AND end_offset > greatest(p.log_start, $2::bigint)
              ORDER BY max_timestamp DESC, end_offset LIMIT 1)
             UNION ALL
             (SELECT end_offset, max_timestamp FROM ranges
              WHERE partition_id = p.id AND end_offset > greatest(p.log_start, $2::bigint)
              ORDER BY max_timestamp DESC, end_offset LIMIT 1)) g
         ORDER BY max_timestamp DESC, end_offset LIMIT 1),
        p.high_watermark))"
);

/// Selects the producers of a partition that exists.
pub(super) const ACTIVE_PRODUCERS: &str = "
    SELECT s.producer_id, s.epoch, s.batches, (extract(epoch FROM s.last_used) * 1000)::bigint AS last_used_ms
    FROM producer_state s JOIN partitions p ON p.id = s.partition_id AND NOT p.deleted
    WHERE s.partition_id = $1 ORDER BY s.producer_id DESC LIMIT $2";

/// Selects the bounds of partitions in the order of the request.
pub(super) const BOUNDS: &str = "
    SELECT p.id, p.log_start, p.rolled, p.high_watermark, p.size_bytes
    FROM UNNEST($1::bigint[]) WITH ORDINALITY AS u (id, n) JOIN partitions p ON p.id = u.id AND NOT p.deleted
    ORDER BY u.n";

pub(super) async fn allocate_producer_id(conn: &mut StoreConnection) -> TransactionResult<i64> {
    let (number, now_ms) =
        query_as("SELECT nextval('producer_ids'), (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(conn)
            .await?;
    Ok(producers::new_producer_id(number, now_ms))
}

pub(super) async fn active_producers(
    conn: &mut StoreConnection,
    uid: PartitionUid,
    limit: usize,
) -> TransactionResult<Vec<ActiveProducer>> {
    let rows: Vec<ActiveProducerRow> = query_as(ACTIVE_PRODUCERS)
        .bind(uid.0)
        .bind(row_limit(limit))
        .fetch_all(conn)
        .await?;
    Ok(producers::active_producers(uid, rows))
}

pub(super) async fn bounds(
    conn: &mut StoreConnection,
    partitions: &[PartitionUid],
) -> TransactionResult<Vec<(PartitionUid, LogBounds)>> {
    let uids: Vec<i64> = partitions.iter().map(|uid| uid.0).collect();
    let rows: Vec<PartitionBoundsRow> = query_as(BOUNDS).bind(uids).fetch_all(conn).await?;
    let found = rows
        .into_iter()
        .map(|row| (PartitionUid(row.id), row.bounds.into()));
    Ok(found.collect())
}

#[derive(sqlx::FromRow)]
struct PartitionBoundsRow {
    id: i64,
    #[sqlx(flatten)]
    bounds: BoundsRow,
}

/// The bounds of the partition with one of its spans.
#[derive(sqlx::FromRow)]
struct BoundedSpanRow {
    #[sqlx(flatten)]
    bounds: BoundsRow,
    now_ms: i64,
    #[sqlx(flatten)]
    span: SpanRow,
}

pub(super) async fn read_log(
    conn: &mut StoreConnection,
    uid: PartitionUid,
    from: LogPosition,
    limit: usize,
) -> TransactionResult<LogView> {
    let (sql, from) = match from {
        LogPosition::Offset(offset) => (READ_OFFSET, offset),
        LogPosition::Timestamp(timestamp) => (READ_TIMESTAMP, timestamp),
        LogPosition::GreatestTimestamp(after) => (READ_GREATEST_TIMESTAMP, after),
    };
    let rows: Vec<BoundedSpanRow> = query_as(sql)
        .bind(uid.0)
        .bind(from)
        .bind(row_limit(limit.min(MAX_SPANS)))
        .fetch_all(conn)
        .await?;
    let first = rows.first().ok_or(Error::UnknownPartition(uid))?;
    let (bounds, now_ms) = (first.bounds.into(), first.now_ms);
    let mut spans = Vec::with_capacity(rows.len());
    for row in rows {
        spans.extend(row.span.into_span()?);
    }
    Ok(LogView {
        bounds,
        spans,
        now_ms,
    })
}
