//! Topics and their partitions. Every change holds the lock of the cluster's row.

use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{
    StoreConnection,
    cluster::{increment_version, lock_cluster},
};
use crate::{
    Error, NewTopic, TopicChange, TopicEntry,
    keys::topic_folder,
    leases::assign_holders,
    rows::{
        TopicPartitionRow, TopicRow, assemble_topics, config_json, initial_partition_count,
        plan_topic_change, to_unsigned, topic_to_delete,
    },
    transaction::TransactionResult,
};

/// Returns every topic that is not deleted, by name.
pub(super) async fn read_topics(conn: &mut StoreConnection) -> TransactionResult<Vec<TopicEntry>> {
    let topics: Vec<TopicRow> = query_as(
        "SELECT topic_id, name, folder, internal, config::text, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
         FROM topics WHERE deleted_at IS NULL ORDER BY name COLLATE \"C\"",
    )
    .fetch_all(&mut *conn)
    .await?;
    let partitions: Vec<TopicPartitionRow> = query_as(
        "SELECT p.topic_id, p.id, a.incarnation, p.epoch
         FROM partitions p LEFT JOIN agents a ON a.incarnation = p.holder AND a.sealed_at IS NULL
         WHERE NOT p.deleted ORDER BY p.topic_id, p.partition",
    )
    .fetch_all(conn)
    .await?;
    Ok(assemble_topics(topics, partitions))
}

async fn read_topic(conn: &mut StoreConnection, topic_id: Uuid) -> TransactionResult<TopicEntry> {
    let topic: TopicRow = query_as(
        "SELECT topic_id, name, folder, internal, config::text, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
         FROM topics WHERE topic_id = $1",
    )
    .bind(topic_id)
    .fetch_one(&mut *conn)
    .await?;
    let partitions: Vec<TopicPartitionRow> = query_as(
        "SELECT p.topic_id, p.id, a.incarnation, p.epoch
         FROM partitions p LEFT JOIN agents a ON a.incarnation = p.holder AND a.sealed_at IS NULL
         WHERE p.topic_id = $1 ORDER BY p.partition",
    )
    .bind(topic_id)
    .fetch_all(conn)
    .await?;
    let mut topics = assemble_topics(vec![topic], partitions);
    Ok(topics.remove(0))
}

/// Adds `count` partitions after the `present` ones, distributed over the live agents.
async fn add_partitions(
    conn: &mut StoreConnection,
    topic_id: Uuid,
    present: usize,
    count: usize,
) -> TransactionResult<()> {
    let loads: Vec<(i64, i64)> = query_as(
        "SELECT a.incarnation, count(p.id)
         FROM agents a LEFT JOIN partitions p ON p.holder = a.incarnation AND NOT p.deleted
         WHERE a.sealed_at IS NULL AND NOT a.draining AND a.lease_expires_at >= now() GROUP BY a.incarnation",
    )
    .fetch_all(&mut *conn)
    .await?;
    query(
        "INSERT INTO partitions (topic_id, partition, holder, epoch)
         SELECT $1, $2::integer + u.n::integer - 1, u.holder, CASE WHEN u.holder IS NULL THEN 0 ELSE 1 END
         FROM UNNEST($3::bigint[]) WITH ORDINALITY AS u (holder, n) ORDER BY u.n",
    )
    .bind(topic_id)
    .bind(i32::try_from(present).unwrap_or(i32::MAX))
    .bind(assign_holders(count, loads))
    .execute(conn)
    .await?;
    Ok(())
}

/// Allocates the folder for another use of a name; no folder is returned twice.
async fn allocate_folder(conn: &mut StoreConnection, name: &str) -> TransactionResult<String> {
    let uses: i64 = query_scalar(
        "INSERT INTO topic_names (name, uses) VALUES ($1, 1)
         ON CONFLICT (name) DO UPDATE SET uses = topic_names.uses + 1 RETURNING uses",
    )
    .bind(name)
    .fetch_one(conn)
    .await?;
    Ok(topic_folder(name, to_unsigned("the uses of a name", uses)?))
}

/// Gives a topic a folder that no key uses, for its future segments. Existing segments and intents
/// keep their keys. The caller holds the lock of [`lock_cluster`].
///
/// # Errors
///
/// [`Error::UnknownTopic`] if its row does not exist.
pub(super) async fn assign_new_folder(
    conn: &mut StoreConnection,
    topic_id: Uuid,
) -> TransactionResult<String> {
    let name: Option<String> = query_scalar("SELECT name FROM topics WHERE topic_id = $1")
        .bind(topic_id)
        .fetch_optional(&mut *conn)
        .await?;
    let name = name.ok_or_else(|| Error::UnknownTopic(topic_id.to_string()))?;
    let folder = allocate_folder(conn, &name).await?;
    query("UPDATE topics SET folder = $2 WHERE topic_id = $1")
        .bind(topic_id)
        .bind(&folder)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await?;
    Ok(folder)
}

pub(super) async fn create_topic(
    conn: &mut StoreConnection,
    new: &NewTopic,
) -> TransactionResult<TopicEntry> {
    let count = initial_partition_count(new.partitions)?;
    lock_cluster(conn).await?;
    let taken: Option<i32> = query_scalar("SELECT 1 FROM topics WHERE name = $1 AND deleted_at IS NULL")
        .bind(&new.name)
        .fetch_optional(&mut *conn)
        .await?;
    if taken.is_some() {
        return Err(Error::TopicAlreadyExists(new.name.clone()).into());
    }
    let folder = allocate_folder(conn, &new.name).await?;
    let topic_id: Uuid = query_scalar(
        "INSERT INTO topics (name, folder, config) VALUES ($1, $2, $3::jsonb) RETURNING topic_id",
    )
    .bind(&new.name)
    .bind(folder)
    .bind(config_json(&new.config)?)
    .fetch_one(&mut *conn)
    .await?;
    add_partitions(conn, topic_id, 0, count).await?;
    increment_version(conn).await?;
    read_topic(conn, topic_id).await
}

pub(super) async fn alter_topic(
    conn: &mut StoreConnection,
    name: &str,
    change: &TopicChange,
) -> TransactionResult<TopicEntry> {
    lock_cluster(conn).await?;
    let found: Option<(Uuid, String, i64)> = query_as(
        "SELECT topic_id, config::text, (SELECT count(*) FROM partitions p WHERE p.topic_id = t.topic_id)
         FROM topics t WHERE name = $1 AND deleted_at IS NULL AND NOT internal",
    )
    .bind(name)
    .fetch_optional(&mut *conn)
    .await?;
    let (topic_id, config, present) = found.ok_or_else(|| Error::UnknownTopic(name.to_owned()))?;
    let plan = plan_topic_change(&config, present, change)?;
    if plan.added > 0 {
        add_partitions(conn, topic_id, plan.present, plan.added).await?;
    }
    query("UPDATE topics SET config = $2::jsonb WHERE topic_id = $1")
        .bind(topic_id)
        .bind(plan.config)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await?;
    read_topic(conn, topic_id).await
}

pub(super) async fn delete_topic(conn: &mut StoreConnection, name: &str) -> TransactionResult<()> {
    lock_cluster(conn).await?;
    let found = query_as(
        "SELECT topic_id, deleted_at IS NOT NULL FROM topics WHERE name = $1 AND NOT internal
         ORDER BY deleted_at DESC NULLS FIRST LIMIT 1",
    )
    .bind(name)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(topic_id) = topic_to_delete(name, found)? else {
        return Ok(());
    };
    query("UPDATE topics SET deleted_at = clock_timestamp() WHERE topic_id = $1")
        .bind(topic_id)
        .execute(&mut *conn)
        .await?;
    // In the common lock order, so that commits and deletions do not deadlock.
    query("SELECT id FROM partitions WHERE topic_id = $1 ORDER BY id FOR NO KEY UPDATE")
        .bind(topic_id)
        .execute(&mut *conn)
        .await?;
    query("UPDATE partitions SET deleted = true, holder = NULL WHERE topic_id = $1")
        .bind(topic_id)
        .execute(&mut *conn)
        .await?;
    increment_version(conn).await?;
    Ok(())
}
