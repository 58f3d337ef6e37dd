//! The commit of a WAL object: reads the rows, plans the commit with [`plan_commit`], and writes
//! the result.

use std::collections::HashMap;

use sqlx::{SqliteConnection, query, query_as};

use super::current_time_ms;
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

pub(super) async fn commit_object(
    conn: &mut SqliteConnection,
    commit: &ObjectCommit,
) -> TransactionResult<CommitOutcome> {
    let sequence = to_signed("the sequence", commit.sequence)?;
    let earlier = query_as(
        "SELECT a.sealed_at IS NOT NULL, a.forgotten_sequence, w.outcome
         FROM agents a LEFT JOIN wal_objects w ON w.incarnation = a.incarnation AND w.sequence = ?2
         WHERE a.incarnation = ?1",
    )
    .bind(commit.incarnation.0)
    .bind(sequence)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(outcome) = find_outcome(commit, sequence, earlier)? {
        return Ok(outcome);
    }
    let rows = read_partitions(conn, commit).await?;
    let mut producers = read_producers(conn, commit).await?;
    if lacks_producers(commit, &producers) {
        let now_ms = current_time_ms(conn).await?;
        add_forgotten_producers(commit, &mut producers, now_ms);
    }
    let plan = plan_commit(commit, rows, producers);
    write_commit(conn, commit, sequence, &plan).await?;
    Ok(plan.outcome())
}

async fn read_partitions(
    conn: &mut SqliteConnection,
    commit: &ObjectCommit,
) -> TransactionResult<HashMap<PartitionUid, PartitionRow>> {
    let mut rows = HashMap::with_capacity(commit.partitions.len());
    for part in &commit.partitions {
        let row = query_as(
            "SELECT holder, epoch, log_start, high_watermark, deleted FROM partitions WHERE id = ?1",
        )
        .bind(part.partition.0)
        .fetch_optional(&mut *conn)
        .await?;
        rows.extend(row.map(|row| (part.partition, row)));
    }
    Ok(rows)
}

async fn read_producers(
    conn: &mut SqliteConnection,
    commit: &ObjectCommit,
) -> TransactionResult<ProducerStates> {
    let mut producers = ProducerStates::new();
    for (partition, id) in producer_keys(commit) {
        let row: Option<(i16, Vec<u8>)> = query_as(
            "SELECT epoch, batches FROM producer_state WHERE partition_id = ?1 AND producer_id = ?2",
        )
        .bind(partition.0)
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?;
        if let Some((epoch, batches)) = row {
            let state = ProducerState::from_stored(partition, id, epoch, &batches);
            producers.insert((partition, id), state);
        }
    }
    Ok(producers)
}

async fn write_commit(
    conn: &mut SqliteConnection,
    commit: &ObjectCommit,
    sequence: i64,
    plan: &CommitPlan,
) -> TransactionResult<()> {
    let now = current_time_ms(conn).await?;
    for range in &plan.ranges {
        query(
            "INSERT INTO ranges (partition_id, end_offset, base_offset, incarnation, sequence, position, length, epoch,
                                 max_timestamp, stored_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )
        .bind(range.partition.0)
        .bind(range.end_offset)
        .bind(range.base_offset)
        .bind(commit.incarnation.0)
        .bind(sequence)
        .bind(range.position)
        .bind(range.length)
        .bind(range.epoch)
        .bind(range.max_timestamp)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    for advance in &plan.high_watermarks {
        query("UPDATE partitions SET high_watermark = ?2, size_bytes = size_bytes + ?3 WHERE id = ?1")
            .bind(advance.partition.0)
            .bind(advance.high_watermark)
            .bind(advance.added_bytes)
            .execute(&mut *conn)
            .await?;
    }
    for (partition, id, state) in &plan.producers {
        query(
            "INSERT INTO producer_state (partition_id, producer_id, epoch, batches, last_used)
             VALUES (?1, ?2, ?3, ?4, ?5 - ?5 % 60000)
             ON CONFLICT (partition_id, producer_id)
             DO UPDATE SET epoch = excluded.epoch, batches = excluded.batches, last_used = excluded.last_used",
        )
        .bind(partition.0)
        .bind(*id)
        .bind(state.epoch)
        .bind(state.encode())
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    let live_ranges = i64::try_from(plan.ranges.len()).unwrap_or(i64::MAX);
    query(
        "INSERT INTO wal_objects (incarnation, sequence, size_bytes, live_ranges, outcome, committed_at, unreferenced_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, iif(?4 = 0, ?6, NULL))",
    )
    .bind(commit.incarnation.0)
    .bind(sequence)
    .bind(to_signed("the object's size", commit.size_bytes)?)
    .bind(live_ranges)
    .bind(encode_outcome(&plan.outcome())?)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}
