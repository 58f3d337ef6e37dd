//! The owners of topic names, and the overview of topics and owners, for the operator.

use sqlx::{SqliteConnection, query, query_as};

use super::current_time_ms;
use crate::{
    TopicOwner, TopicsOverview,
    rows::{OverviewRow, build_overview, topic_owner},
    transaction::TransactionResult,
};

pub(super) async fn claim(
    conn: &mut SqliteConnection,
    name: &str,
    new: &TopicOwner,
) -> TransactionResult<TopicOwner> {
    let now = current_time_ms(conn).await?;
    query(
        "INSERT INTO topic_owners (name, uid, namespace, resource, claimed_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(name)
    .bind(&new.uid)
    .bind(&new.namespace)
    .bind(&new.resource)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    let found = query_as("SELECT uid, namespace, resource FROM topic_owners WHERE name = ?1")
        .bind(name)
        .fetch_one(conn)
        .await?;
    Ok(topic_owner(found))
}

pub(super) async fn release(conn: &mut SqliteConnection, name: &str, uid: &str) -> TransactionResult<bool> {
    let deleted = query("DELETE FROM topic_owners WHERE name = ?1 AND uid = ?2")
        .bind(name)
        .bind(uid)
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

pub(super) async fn topics_overview(conn: &mut SqliteConnection) -> TransactionResult<TopicsOverview> {
    let rows: Vec<OverviewRow> = query_as(
        "SELECT coalesce(t.name, o.name) AS name, t.topic_id, t.config,
                coalesce(p.partitions, 0) AS partitions, coalesce(p.high_watermark, 0) AS high_watermark,
                coalesce(p.log_start, 0) AS log_start, coalesce(p.size_bytes, 0) AS size_bytes,
                o.uid, o.namespace, o.resource
         FROM (SELECT topic_id, name, config FROM topics WHERE NOT internal AND deleted_at IS NULL) t
         LEFT JOIN (SELECT topic_id, count(*) AS partitions, sum(high_watermark) AS high_watermark,
                           sum(log_start) AS log_start, sum(size_bytes) AS size_bytes
                    FROM partitions WHERE NOT deleted GROUP BY topic_id) p ON p.topic_id = t.topic_id
         FULL JOIN topic_owners o ON o.name = t.name",
    )
    .fetch_all(conn)
    .await?;
    Ok(build_overview(rows)?)
}
