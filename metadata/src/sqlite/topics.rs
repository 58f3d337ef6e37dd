//! Topics and their partitions.

use sqlx::{SqliteConnection, query, query_as, query_scalar};
use uuid::Uuid;

use super::{agents::bump, now};
use crate::{
    Error, Incarnation, NewTopic, TopicChange, TopicRecord,
    failure::Outcome,
    keys::topic_folder,
    leases::spread,
    rows::{
        added_partitions, assemble, changed_config, config_json, new_partitions, parse_config,
        partition_record, readable_config, unsigned,
    },
};

type TopicColumns = (Uuid, String, String, bool, String, i64);

fn record((topic_id, name, folder, internal, config, created_at_ms): TopicColumns) -> Outcome<TopicRecord> {
    Ok(TopicRecord {
        topic_id,
        folder,
        internal,
        config: readable_config(&name, &config),
        name,
        created_at_ms,
        partitions: Vec::new(),
    })
}

/// Returns every topic that is not deleted, by name.
pub(super) async fn all(conn: &mut SqliteConnection) -> Outcome<Vec<TopicRecord>> {
    let topics: Vec<TopicColumns> = query_as(
        "SELECT topic_id, name, folder, internal, config, created_at FROM topics WHERE deleted_at IS NULL ORDER BY name",
    )
    .fetch_all(&mut *conn)
    .await?;
    let topics = topics.into_iter().map(record).collect::<Outcome<Vec<_>>>()?;
    let partitions: Vec<(Uuid, i64, Option<i64>, i32)> = query_as(
        "SELECT p.topic_id, p.id, a.incarnation, p.epoch
         FROM partitions p LEFT JOIN agents a ON a.incarnation = p.holder AND a.sealed_at IS NULL
         WHERE NOT p.deleted ORDER BY p.topic_id, p.partition",
    )
    .fetch_all(conn)
    .await?;
    let partitions = partitions
        .into_iter()
        .map(|(topic, uid, holder, epoch)| (topic, partition_record(uid, holder, epoch)));
    Ok(assemble(topics, partitions.collect()))
}

async fn one(conn: &mut SqliteConnection, topic_id: Uuid) -> Outcome<TopicRecord> {
    let topic: TopicColumns = query_as(
        "SELECT topic_id, name, folder, internal, config, created_at FROM topics WHERE topic_id = ?1",
    )
    .bind(topic_id)
    .fetch_one(&mut *conn)
    .await?;
    let partitions: Vec<(i64, Option<i64>, i32)> = query_as(
        "SELECT p.id, a.incarnation, p.epoch
         FROM partitions p LEFT JOIN agents a ON a.incarnation = p.holder AND a.sealed_at IS NULL
         WHERE p.topic_id = ?1 ORDER BY p.partition",
    )
    .bind(topic_id)
    .fetch_all(conn)
    .await?;
    let partitions = partitions
        .into_iter()
        .map(|(uid, holder, epoch)| partition_record(uid, holder, epoch))
        .collect();
    Ok(TopicRecord {
        partitions,
        ..record(topic)?
    })
}

/// Adds `count` partitions after the `present` ones, distributed over the live agents.
async fn add_partitions(
    conn: &mut SqliteConnection,
    topic_id: Uuid,
    present: usize,
    count: usize,
) -> Outcome<()> {
    let now = now(conn).await?;
    let loads: Vec<(i64, i64)> = query_as(
        "SELECT a.incarnation, count(p.id)
         FROM agents a LEFT JOIN partitions p ON p.holder = a.incarnation AND NOT p.deleted
         WHERE a.sealed_at IS NULL AND NOT a.draining AND a.lease_expires_at >= ?1 GROUP BY a.incarnation",
    )
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let loads = loads
        .into_iter()
        .map(|(agent, load)| (Incarnation(agent), load))
        .collect();
    for (n, holder) in spread(count, loads)
        .into_iter()
        .chain(std::iter::repeat(None))
        .take(count)
        .enumerate()
    {
        query("INSERT INTO partitions (topic_id, partition, holder, epoch) VALUES (?1, ?2, ?3, ?4)")
            .bind(topic_id)
            .bind(i64::try_from(present + n).unwrap_or(i64::MAX))
            .bind(holder.map(|holder| holder.0))
            .bind(i32::from(holder.is_some()))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Allocates the folder for another use of a name; no folder is returned twice.
async fn next_folder(conn: &mut SqliteConnection, name: &str) -> Outcome<String> {
    let uses: i64 = query_scalar(
        "INSERT INTO topic_names (name, uses) VALUES (?1, 1)
         ON CONFLICT (name) DO UPDATE SET uses = topic_names.uses + 1 RETURNING uses",
    )
    .bind(name)
    .fetch_one(conn)
    .await?;
    Ok(topic_folder(name, unsigned("the uses of a name", uses)?))
}

/// Gives a topic a folder that no key uses, for its future segments. Existing segments and intents
/// keep their keys.
///
/// # Errors
///
/// [`Error::UnknownTopic`] if its row does not exist.
pub(super) async fn fresh_folder(conn: &mut SqliteConnection, topic_id: Uuid) -> Outcome<String> {
    let name: Option<String> = query_scalar("SELECT name FROM topics WHERE topic_id = ?1")
        .bind(topic_id)
        .fetch_optional(&mut *conn)
        .await?;
    let name = name.ok_or_else(|| Error::UnknownTopic(topic_id.to_string()))?;
    let folder = next_folder(conn, &name).await?;
    query("UPDATE topics SET folder = ?2 WHERE topic_id = ?1")
        .bind(topic_id)
        .bind(&folder)
        .execute(&mut *conn)
        .await?;
    bump(conn).await?;
    Ok(folder)
}

pub(super) async fn create(conn: &mut SqliteConnection, new: &NewTopic) -> Outcome<TopicRecord> {
    let count = new_partitions(new.partitions)?;
    let taken: Option<i32> = query_scalar("SELECT 1 FROM topics WHERE name = ?1 AND deleted_at IS NULL")
        .bind(&new.name)
        .fetch_optional(&mut *conn)
        .await?;
    if taken.is_some() {
        return Err(Error::TopicAlreadyExists(new.name.clone()).into());
    }
    let folder = next_folder(conn, &new.name).await?;
    let random: Vec<u8> = query_scalar("SELECT randomblob(16)")
        .fetch_one(&mut *conn)
        .await?;
    let random = random
        .try_into()
        .map_err(|_| Error::Inconsistent("randomblob(16) gave another size".to_owned()))?;
    let topic_id = uuid::Builder::from_random_bytes(random).into_uuid();
    let now = now(conn).await?;
    query("INSERT INTO topics (topic_id, name, folder, config, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(topic_id)
        .bind(&new.name)
        .bind(folder)
        .bind(config_json(&new.config)?)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    add_partitions(conn, topic_id, 0, count).await?;
    bump(conn).await?;
    one(conn, topic_id).await
}

/// Returns the id and the settings of a topic that exists and is not internal.
async fn find(conn: &mut SqliteConnection, name: &str) -> Outcome<(Uuid, String)> {
    let found: Option<(Uuid, String)> = query_as(
        "SELECT topic_id, config FROM topics WHERE name = ?1 AND deleted_at IS NULL AND NOT internal",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    Ok(found.ok_or_else(|| Error::UnknownTopic(name.to_owned()))?)
}

pub(super) async fn alter(
    conn: &mut SqliteConnection,
    name: &str,
    change: &TopicChange,
) -> Outcome<TopicRecord> {
    let (topic_id, config) = find(conn, name).await?;
    let present: i64 = query_scalar("SELECT count(*) FROM partitions WHERE topic_id = ?1")
        .bind(topic_id)
        .fetch_one(&mut *conn)
        .await?;
    let present = usize::try_from(present).unwrap_or_default();
    let added = added_partitions(present, change)?;
    if added > 0 {
        add_partitions(conn, topic_id, present, added).await?;
    }
    query("UPDATE topics SET config = ?2 WHERE topic_id = ?1")
        .bind(topic_id)
        .bind(config_json(&changed_config(parse_config(&config)?, change))?)
        .execute(&mut *conn)
        .await?;
    bump(conn).await?;
    one(conn, topic_id).await
}

pub(super) async fn delete(conn: &mut SqliteConnection, name: &str) -> Outcome<()> {
    let found: Option<(Uuid, bool)> = query_as(
        "SELECT topic_id, deleted_at IS NOT NULL FROM topics WHERE name = ?1 AND NOT internal
         ORDER BY deleted_at DESC NULLS FIRST LIMIT 1",
    )
    .bind(name)
    .fetch_optional(&mut *conn)
    .await?;
    let (topic_id, deleted) = found.ok_or_else(|| Error::UnknownTopic(name.to_owned()))?;
    if deleted {
        // A repeated call: the deletion is in progress.
        return Ok(());
    }
    let now = now(conn).await?;
    query("UPDATE topics SET deleted_at = ?2 WHERE topic_id = ?1")
        .bind(topic_id)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    query("UPDATE partitions SET deleted = 1, holder = NULL WHERE topic_id = ?1")
        .bind(topic_id)
        .execute(&mut *conn)
        .await?;
    bump(conn).await
}
