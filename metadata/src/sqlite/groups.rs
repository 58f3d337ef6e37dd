//! Consumer groups and their offsets.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::{agents::read_leased_partition, current_time_ms};
use crate::{
    CommittedOffset, GroupLag, GroupQuery, GroupWrite, Lease, OffsetCommit, OffsetCommitOutcome,
    OffsetDeletion, PersistedGroup,
    rows::{
        CommittedOffsetRow, GroupColumns, check_commit_generation, check_put_generation, check_slot,
        group_lag, offset_outcome, persisted_group, row_limit,
    },
    transaction::TransactionResult,
};

pub(super) async fn groups(
    conn: &mut SqliteConnection,
    which: &GroupQuery,
) -> TransactionResult<Vec<PersistedGroup>> {
    let rows: Vec<GroupColumns> = match which {
        GroupQuery::Slot(slot) => query_as(
            "SELECT group_id, slot, generation, state FROM consumer_groups WHERE slot = ?1 ORDER BY group_id",
        )
        .bind(slot)
        .fetch_all(conn)
        .await?,
        GroupQuery::All => {
            query_as("SELECT group_id, slot, generation, state FROM consumer_groups ORDER BY group_id")
                .fetch_all(conn)
                .await?
        }
        GroupQuery::Id(group_id) => {
            query_as("SELECT group_id, slot, generation, state FROM consumer_groups WHERE group_id = ?1")
                .bind(group_id)
                .fetch_all(conn)
                .await?
        }
    };
    Ok(rows.into_iter().map(persisted_group).collect())
}

async fn stored_generation(conn: &mut SqliteConnection, group_id: &str) -> TransactionResult<Option<i32>> {
    let stored = query_scalar("SELECT generation FROM consumer_groups WHERE group_id = ?1")
        .bind(group_id)
        .fetch_optional(conn)
        .await?;
    Ok(stored)
}

pub(super) async fn put_group(
    conn: &mut SqliteConnection,
    lease: Lease,
    group: &GroupWrite,
) -> TransactionResult<()> {
    check_slot(lease, &read_leased_partition(conn, lease).await?, group.slot)?;
    let stored = stored_generation(conn, &group.group_id).await?;
    check_put_generation(group.generation, stored)?;
    let Some(state) = &group.state else {
        query("DELETE FROM consumer_offsets WHERE group_id = ?1")
            .bind(&group.group_id)
            .execute(&mut *conn)
            .await?;
        query("DELETE FROM consumer_groups WHERE group_id = ?1")
            .bind(&group.group_id)
            .execute(&mut *conn)
            .await?;
        return Ok(());
    };
    let now = current_time_ms(conn).await?;
    query(
        "INSERT INTO consumer_groups (group_id, slot, generation, state, updated_at, idle_since)
         VALUES (?1, ?2, ?3, ?4, ?5, iif(?6, NULL, ?5))
         ON CONFLICT (group_id) DO UPDATE SET slot = excluded.slot, generation = excluded.generation,
             state = excluded.state, updated_at = excluded.updated_at, idle_since = excluded.idle_since",
    )
    .bind(&group.group_id)
    .bind(group.slot)
    .bind(group.generation)
    .bind(state)
    .bind(now)
    .bind(group.has_members)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn commit_offsets(
    conn: &mut SqliteConnection,
    lease: Lease,
    commit: &OffsetCommit,
) -> TransactionResult<Vec<OffsetCommitOutcome>> {
    check_slot(lease, &read_leased_partition(conn, lease).await?, commit.slot)?;
    let now = current_time_ms(conn).await?;
    let stored = stored_generation(conn, &commit.group_id).await?;
    check_commit_generation(commit.generation, stored)?;
    if stored.is_none() {
        query(
            "INSERT INTO consumer_groups (group_id, slot, generation, state, updated_at, idle_since)
             VALUES (?1, ?2, 0, x'', ?3, ?3)",
        )
        .bind(&commit.group_id)
        .bind(commit.slot)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    let mut outcomes = Vec::with_capacity(commit.offsets.len());
    for offset in &commit.offsets {
        let written = query(
            "INSERT INTO consumer_offsets (group_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
             SELECT ?1, id, ?3, ?4, ?5, ?6 FROM partitions WHERE id = ?2 AND NOT deleted
             ON CONFLICT (group_id, partition_id) DO UPDATE SET committed_offset = excluded.committed_offset,
                 leader_epoch = excluded.leader_epoch, metadata = excluded.metadata, committed_at = excluded.committed_at",
        )
        .bind(&commit.group_id)
        .bind(offset.partition.0)
        .bind(offset.offset)
        .bind(offset.leader_epoch)
        .bind(&offset.metadata)
        .bind(now)
        .execute(&mut *conn)
        .await?;
        outcomes.push(offset_outcome(written.rows_affected() > 0));
    }
    Ok(outcomes)
}

pub(super) async fn delete_offsets(
    conn: &mut SqliteConnection,
    lease: Lease,
    deletion: &OffsetDeletion,
) -> TransactionResult<()> {
    check_slot(lease, &read_leased_partition(conn, lease).await?, deletion.slot)?;
    for partition in &deletion.partitions {
        query("DELETE FROM consumer_offsets WHERE group_id = ?1 AND partition_id = ?2")
            .bind(&deletion.group_id)
            .bind(partition.0)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

pub(super) async fn group_lags(
    conn: &mut SqliteConnection,
    slots: &[i32],
    limit: usize,
) -> TransactionResult<Vec<GroupLag>> {
    let slots: Vec<String> = slots.iter().map(i32::to_string).collect();
    let rows: Vec<(String, String, i64, i64)> = query_as(
        "SELECT g.group_id, t.name, sum(o.committed_offset),
                sum(max(p.high_watermark - max(o.committed_offset, p.log_start), 0)) AS lag
         FROM consumer_groups g
         JOIN consumer_offsets o ON o.group_id = g.group_id
         JOIN partitions p ON p.id = o.partition_id AND NOT p.deleted
         JOIN topics t ON t.topic_id = p.topic_id
         WHERE g.slot IN (SELECT value FROM json_each(?1))
         GROUP BY g.group_id, t.name ORDER BY lag DESC, g.group_id, t.name LIMIT ?2",
    )
    .bind(format!("[{}]", slots.join(",")))
    .bind(row_limit(limit))
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(group_lag).collect())
}

pub(super) async fn fetch_offsets(
    conn: &mut SqliteConnection,
    group_id: &str,
) -> TransactionResult<Vec<CommittedOffset>> {
    let rows: Vec<CommittedOffsetRow> = query_as(
        "SELECT t.name, p.partition, p.id, o.committed_offset, o.leader_epoch, o.metadata, o.committed_at
         FROM consumer_offsets o
         JOIN partitions p ON p.id = o.partition_id AND NOT p.deleted
         JOIN topics t ON t.topic_id = p.topic_id
         WHERE o.group_id = ?1 ORDER BY t.name, p.partition",
    )
    .bind(group_id)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(CommittedOffset::from).collect())
}
