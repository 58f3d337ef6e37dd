//! Consumer groups and their offsets. Writes lock the slot's row FOR SHARE: the lease stays in
//! force, and groups of one slot do not wait for each other.

use std::collections::{BTreeMap, HashSet};

use sqlx::{query, query_as, query_scalar};

use super::{
    StoreConnection,
    agents::{RowLock, lock_leased_partition},
};
use crate::{
    CommittedOffset, Error, GroupLag, GroupQuery, GroupWrite, Lease, OffsetCommit, OffsetCommitOutcome,
    OffsetDeletion, OffsetToCommit, PersistedGroup,
    rows::{
        CommittedOffsetRow, GroupColumns, check_commit_generation, check_put_generation, check_slot,
        group_lag, offset_outcome, persisted_group, row_limit,
    },
    transaction::TransactionResult,
};

/// Writes offsets, except those of partitions that do not exist.
pub(super) const WRITE_OFFSETS: &str = "
    INSERT INTO consumer_offsets (group_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
    SELECT $1, p.id, u.committed_offset, u.leader_epoch, u.metadata, clock_timestamp()
    FROM UNNEST($2::bigint[], $3::bigint[], $4::integer[], $5::text[])
         AS u (id, committed_offset, leader_epoch, metadata)
    JOIN partitions p ON p.id = u.id AND NOT p.deleted
    ON CONFLICT (group_id, partition_id) DO UPDATE SET committed_offset = excluded.committed_offset,
        leader_epoch = excluded.leader_epoch, metadata = excluded.metadata, committed_at = excluded.committed_at
    RETURNING partition_id";

/// Selects the committed offsets of a group.
pub(super) const FETCH_OFFSETS: &str = "
    SELECT t.name, p.partition, p.id, o.committed_offset, o.leader_epoch, o.metadata,
           (extract(epoch FROM o.committed_at) * 1000)::bigint AS committed_at
    FROM consumer_offsets o
    JOIN partitions p ON p.id = o.partition_id AND NOT p.deleted
    JOIN topics t ON t.topic_id = p.topic_id
    WHERE o.group_id = $1 ORDER BY t.name COLLATE \"C\", p.partition";

/// Selects the groups of a coordinator slot.
pub(super) const GROUPS_OF_SLOT: &str = "
    SELECT group_id, slot, generation, state FROM consumer_groups WHERE slot = $1 ORDER BY group_id COLLATE \"C\"";

pub(super) async fn groups(
    conn: &mut StoreConnection,
    which: &GroupQuery,
) -> TransactionResult<Vec<PersistedGroup>> {
    let rows: Vec<GroupColumns> = match which {
        GroupQuery::Slot(slot) => query_as(GROUPS_OF_SLOT).bind(slot).fetch_all(conn).await?,
        GroupQuery::All => query_as(
            "SELECT group_id, slot, generation, state FROM consumer_groups ORDER BY group_id COLLATE \"C\"",
        )
        .fetch_all(conn)
        .await?,
        GroupQuery::Id(group_id) => {
            query_as("SELECT group_id, slot, generation, state FROM consumer_groups WHERE group_id = $1")
                .bind(group_id)
                .fetch_all(conn)
                .await?
        }
    };
    Ok(rows.into_iter().map(persisted_group).collect())
}

/// Locks the row of a group and returns its generation.
async fn lock_generation(conn: &mut StoreConnection, group_id: &str) -> TransactionResult<Option<i32>> {
    let stored = query_scalar("SELECT generation FROM consumer_groups WHERE group_id = $1 FOR NO KEY UPDATE")
        .bind(group_id)
        .fetch_optional(conn)
        .await?;
    Ok(stored)
}

pub(super) async fn put_group(
    conn: &mut StoreConnection,
    lease: Lease,
    group: &GroupWrite,
) -> TransactionResult<()> {
    check_slot(
        lease,
        &lock_leased_partition(conn, lease, RowLock::Shared).await?,
        group.slot,
    )?;
    let stored = lock_generation(conn, &group.group_id).await?;
    check_put_generation(group.generation, stored)?;
    let Some(state) = &group.state else {
        query("DELETE FROM consumer_offsets WHERE group_id = $1")
            .bind(&group.group_id)
            .execute(&mut *conn)
            .await?;
        query("DELETE FROM consumer_groups WHERE group_id = $1")
            .bind(&group.group_id)
            .execute(conn)
            .await?;
        return Ok(());
    };
    let written = query(
        "INSERT INTO consumer_groups (group_id, slot, generation, state, updated_at, idle_since)
         VALUES ($1, $2, $3, $4, clock_timestamp(), CASE WHEN NOT $5 THEN clock_timestamp() END)
         ON CONFLICT (group_id) DO UPDATE SET slot = excluded.slot, generation = excluded.generation,
             state = excluded.state, updated_at = excluded.updated_at, idle_since = excluded.idle_since
         WHERE consumer_groups.generation <= excluded.generation",
    )
    .bind(&group.group_id)
    .bind(group.slot)
    .bind(group.generation)
    .bind(state)
    .bind(group.has_members)
    .execute(&mut *conn)
    .await?;
    if written.rows_affected() == 0 {
        // A concurrent call inserted the group's first row, in a later generation.
        let stored = lock_generation(conn, &group.group_id)
            .await?
            .unwrap_or(group.generation);
        return Err(Error::IllegalGeneration {
            given: group.generation,
            stored,
        }
        .into());
    }
    Ok(())
}

pub(super) async fn commit_offsets(
    conn: &mut StoreConnection,
    lease: Lease,
    commit: &OffsetCommit,
) -> TransactionResult<Vec<OffsetCommitOutcome>> {
    check_slot(
        lease,
        &lock_leased_partition(conn, lease, RowLock::Shared).await?,
        commit.slot,
    )?;
    let mut stored = lock_generation(conn, &commit.group_id).await?;
    if stored.is_none() && commit.generation.is_none() {
        let generation: i32 = query_scalar(
            "INSERT INTO consumer_groups (group_id, slot, generation, state, idle_since)
             VALUES ($1, $2, 0, '', clock_timestamp())
             ON CONFLICT (group_id) DO UPDATE SET slot = consumer_groups.slot RETURNING generation",
        )
        .bind(&commit.group_id)
        .bind(commit.slot)
        .fetch_one(&mut *conn)
        .await?;
        stored = Some(generation);
    }
    check_commit_generation(commit.generation, stored)?;
    let written = write_offsets(conn, commit).await?;
    let outcomes = commit.offsets.iter();
    let outcomes = outcomes.map(|offset| offset_outcome(written.contains(&offset.partition.0)));
    Ok(outcomes.collect())
}

/// Writes the offsets and returns the partitions that exist. Of several offsets for one partition
/// the last one wins.
async fn write_offsets(conn: &mut StoreConnection, commit: &OffsetCommit) -> TransactionResult<HashSet<i64>> {
    let last: BTreeMap<i64, &OffsetToCommit> = commit
        .offsets
        .iter()
        .map(|offset| (offset.partition.0, offset))
        .collect();
    let written: Vec<i64> = query_scalar(WRITE_OFFSETS)
        .bind(&commit.group_id)
        .bind(last.keys().copied().collect::<Vec<_>>())
        .bind(last.values().map(|offset| offset.offset).collect::<Vec<_>>())
        .bind(
            last.values()
                .map(|offset| offset.leader_epoch)
                .collect::<Vec<_>>(),
        )
        .bind(
            last.values()
                .map(|offset| offset.metadata.as_str())
                .collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?;
    Ok(written.into_iter().collect())
}

pub(super) async fn delete_offsets(
    conn: &mut StoreConnection,
    lease: Lease,
    deletion: &OffsetDeletion,
) -> TransactionResult<()> {
    check_slot(
        lease,
        &lock_leased_partition(conn, lease, RowLock::Shared).await?,
        deletion.slot,
    )?;
    let partitions: Vec<i64> = deletion.partitions.iter().map(|uid| uid.0).collect();
    query("DELETE FROM consumer_offsets WHERE group_id = $1 AND partition_id = ANY($2)")
        .bind(&deletion.group_id)
        .bind(partitions)
        .execute(conn)
        .await?;
    Ok(())
}

pub(super) async fn group_lags(
    conn: &mut StoreConnection,
    slots: &[i32],
    limit: usize,
) -> TransactionResult<Vec<GroupLag>> {
    let rows: Vec<(String, String, i64, i64)> = query_as(
        "SELECT g.group_id, t.name, sum(o.committed_offset)::bigint,
                sum(greatest(p.high_watermark - greatest(o.committed_offset, p.log_start), 0))::bigint AS lag
         FROM consumer_groups g
         JOIN consumer_offsets o ON o.group_id = g.group_id
         JOIN partitions p ON p.id = o.partition_id AND NOT p.deleted
         JOIN topics t ON t.topic_id = p.topic_id
         WHERE g.slot = ANY($1)
         GROUP BY g.group_id, t.name
         ORDER BY lag DESC, g.group_id COLLATE \"C\", t.name COLLATE \"C\" LIMIT $2",
    )
    .bind(slots)
    .bind(row_limit(limit))
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(group_lag).collect())
}

pub(super) async fn fetch_offsets(
    conn: &mut StoreConnection,
    group_id: &str,
) -> TransactionResult<Vec<CommittedOffset>> {
    let rows: Vec<CommittedOffsetRow> = query_as(FETCH_OFFSETS).bind(group_id).fetch_all(conn).await?;
    Ok(rows.into_iter().map(CommittedOffset::from).collect())
}
