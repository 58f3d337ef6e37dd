//! The commit of a WAL object: the hottest transaction. It takes four statements whatever the
//! number of partitions: the agent's row, the partitions' rows, the producer states, and one that
//! writes everything. With a producer that is new to its partition, it takes one more.

use std::collections::HashMap;

use sqlx::{query, query_as, query_scalar};

use super::StoreConnection;
use crate::{
    CommitOutcome, ObjectCommit, PartitionUid,
    commit_outcome::{encode_outcome, find_outcome},
    commit_plan::{
        CommitPlan, PartitionRow, ProducerStates, add_forgotten_producers, lacks_producers, plan_commit,
        producer_keys,
    },
    producers::ProducerState,
    rows::to_signed,
    transaction::TransactionResult,
};

/// Locks the agent's row against a seal, and selects the outcome of an earlier commit of the
/// object.
pub(super) const LOCK_AGENT: &str = "
    SELECT a.sealed_at IS NOT NULL, a.forgotten_sequence,
           (SELECT w.outcome FROM wal_objects w WHERE w.incarnation = $1 AND w.sequence = $2)
    FROM agents a WHERE a.incarnation = $1 FOR KEY SHARE OF a";

/// Locks the partitions' rows in order.
pub(super) const LOCK_PARTITIONS: &str = "
    SELECT id, holder, epoch, log_start, high_watermark, deleted FROM partitions
    WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Selects the states of (partition, producer) pairs.
pub(super) const READ_PRODUCERS: &str = "
    SELECT s.partition_id, s.producer_id, s.epoch, s.batches
    FROM UNNEST($1::bigint[], $2::bigint[]) AS u (partition_id, producer_id)
    JOIN producer_state s ON s.partition_id = u.partition_id AND s.producer_id = u.producer_id";

/// Selects the time, by which the age of a producer is told that a partition does not know.
const NOW_MS: &str = "SELECT (extract(epoch FROM now()) * 1000)::bigint";

/// Writes everything that a commit changes. Of two concurrent commits of one object, the second
/// violates the key of `wal_objects`; its retry finds the outcome of the first.
pub(super) const WRITE_COMMIT: &str = "
    WITH new_ranges AS (
        INSERT INTO ranges (partition_id, end_offset, base_offset, incarnation, sequence, position, length, epoch,
                            max_timestamp)
        SELECT u.partition_id, u.end_offset, u.base_offset, $1, $2, u.start, u.length, u.epoch, u.max_timestamp
        FROM UNNEST($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::integer[], $9::bigint[])
             AS u (partition_id, end_offset, base_offset, start, length, epoch, max_timestamp)
    ), advanced AS (
        UPDATE partitions p SET high_watermark = u.high_watermark, size_bytes = p.size_bytes + u.added
        FROM UNNEST($10::bigint[], $11::bigint[], $12::bigint[]) AS u (id, high_watermark, added) WHERE p.id = u.id
    ), remembered AS (
        INSERT INTO producer_state (partition_id, producer_id, epoch, batches, last_used)
        SELECT u.partition_id, u.producer_id, u.epoch, u.batches, date_trunc('minute', now())
        FROM UNNEST($13::bigint[], $14::bigint[], $15::smallint[], $16::bytea[])
             AS u (partition_id, producer_id, epoch, batches)
        ON CONFLICT (partition_id, producer_id)
        DO UPDATE SET epoch = excluded.epoch, batches = excluded.batches, last_used = excluded.last_used
    )
    INSERT INTO wal_objects (incarnation, sequence, size_bytes, live_ranges, outcome, unreferenced_at)
    VALUES ($1, $2, $17, $18, $19, CASE WHEN $18 = 0 THEN clock_timestamp() END)";

pub(super) async fn commit_object(
    conn: &mut StoreConnection,
    commit: &ObjectCommit,
) -> TransactionResult<CommitOutcome> {
    let sequence = to_signed("the sequence", commit.sequence)?;
    let earlier = query_as(LOCK_AGENT)
        .bind(commit.incarnation.0)
        .bind(sequence)
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(outcome) = find_outcome(commit, sequence, earlier)? {
        return Ok(outcome);
    }
    let rows = lock_partitions(conn, commit).await?;
    let mut producers = read_producers(conn, commit).await?;
    if lacks_producers(commit, &producers) {
        let now_ms = query_scalar(NOW_MS).fetch_one(&mut *conn).await?;
        add_forgotten_producers(commit, &mut producers, now_ms);
    }
    let plan = plan_commit(commit, rows, producers);
    write_commit(conn, commit, sequence, &plan).await?;
    Ok(plan.outcome())
}

#[derive(sqlx::FromRow)]
struct LockedPartitionRow {
    id: i64,
    #[sqlx(flatten)]
    partition: PartitionRow,
}

async fn lock_partitions(
    conn: &mut StoreConnection,
    commit: &ObjectCommit,
) -> TransactionResult<HashMap<PartitionUid, PartitionRow>> {
    let uids: Vec<i64> = commit.partitions.iter().map(|part| part.partition.0).collect();
    let rows: Vec<LockedPartitionRow> = query_as(LOCK_PARTITIONS).bind(uids).fetch_all(conn).await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| (PartitionUid(row.id), row.partition)).collect())
}

async fn read_producers(
    conn: &mut StoreConnection,
    commit: &ObjectCommit,
) -> TransactionResult<ProducerStates> {
    let pairs = producer_keys(commit);
    if pairs.is_empty() {
        return Ok(ProducerStates::new());
    }
    let (partitions, ids): (Vec<i64>, Vec<i64>) =
        pairs.into_iter().map(|(partition, id)| (partition.0, id)).unzip();
    let rows: Vec<(i64, i64, i16, Vec<u8>)> = query_as(READ_PRODUCERS)
        .bind(partitions)
        .bind(ids)
        .fetch_all(conn)
        .await?;
    let mut producers = ProducerStates::with_capacity(rows.len());
    for (partition, id, epoch, batches) in rows {
        let partition = PartitionUid(partition);
        let state = ProducerState::from_stored(partition, id, epoch, &batches);
        producers.insert((partition, id), state);
    }
    Ok(producers)
}

async fn write_commit(
    conn: &mut StoreConnection,
    commit: &ObjectCommit,
    sequence: i64,
    plan: &CommitPlan,
) -> TransactionResult<()> {
    let ranges = &plan.ranges;
    let advances = &plan.high_watermarks;
    let producers = &plan.producers;
    query(WRITE_COMMIT)
        .bind(commit.incarnation.0)
        .bind(sequence)
        .bind(column(ranges, |range| range.partition.0))
        .bind(column(ranges, |range| range.end_offset))
        .bind(column(ranges, |range| range.base_offset))
        .bind(column(ranges, |range| range.position))
        .bind(column(ranges, |range| range.length))
        .bind(column(ranges, |range| range.epoch))
        .bind(column(ranges, |range| range.max_timestamp))
        .bind(column(advances, |advance| advance.partition.0))
        .bind(column(advances, |advance| advance.high_watermark))
        .bind(column(advances, |advance| advance.added_bytes))
        .bind(column(producers, |(partition, _, _)| partition.0))
        .bind(column(producers, |(_, id, _)| *id))
        .bind(column(producers, |(_, _, state)| state.epoch))
        .bind(column(producers, |(_, _, state)| state.encode()))
        .bind(to_signed("the object's size", commit.size_bytes)?)
        .bind(i32::try_from(ranges.len()).unwrap_or(i32::MAX))
        .bind(encode_outcome(&plan.outcome())?)
        .execute(conn)
        .await?;
    Ok(())
}

/// Collects one column of the rows into the array that a statement takes.
fn column<R, V>(rows: &[R], value: impl Fn(&R) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}
