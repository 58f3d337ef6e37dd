//! The owners of topic names, and the overview of topics and owners, for the operator.

use sqlx::{query, query_as};

use super::StoreConnection;
use crate::{
    TopicOwner, TopicsOverview,
    rows::{OverviewRow, build_overview, topic_owner},
    transaction::TransactionResult,
};

const OWNER: &str = "SELECT uid, namespace, resource FROM topic_owners WHERE name = $1";

/// Inserts the claim or locks that of a concurrent claimant, so that a row is always returned.
const CLAIM: &str = "
    INSERT INTO topic_owners AS o (name, uid, namespace, resource) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO UPDATE SET name = o.name
    RETURNING o.uid, o.namespace, o.resource";

/// Scans each table once, whatever the number of topics.
pub(super) const OVERVIEW: &str = "
    SELECT coalesce(t.name, o.name) AS name, t.topic_id, t.config,
           coalesce(p.partitions, 0) AS partitions, coalesce(p.high_watermark, 0) AS high_watermark,
           coalesce(p.log_start, 0) AS log_start, coalesce(p.size_bytes, 0) AS size_bytes,
           o.uid, o.namespace, o.resource
    FROM (SELECT topic_id, name, config::text AS config
          FROM topics WHERE NOT internal AND deleted_at IS NULL) t
    LEFT JOIN (SELECT topic_id, count(*)::integer AS partitions, sum(high_watermark)::bigint AS high_watermark,
                      sum(log_start)::bigint AS log_start, sum(size_bytes)::bigint AS size_bytes
               FROM partitions WHERE NOT deleted GROUP BY topic_id) p ON p.topic_id = t.topic_id
    FULL JOIN topic_owners o ON o.name = t.name";

/// Runs two independent statements: the first saves a write if the name is claimed already, which
/// is the usual case.
pub(super) async fn claim(
    conn: &mut StoreConnection,
    name: &str,
    new: &TopicOwner,
) -> TransactionResult<TopicOwner> {
    let found = query_as(OWNER).bind(name).fetch_optional(&mut *conn).await?;
    if let Some(found) = found {
        return Ok(topic_owner(found));
    }
    let claimed = query_as(CLAIM)
        .bind(name)
        .bind(&new.uid)
        .bind(&new.namespace)
        .bind(&new.resource)
        .fetch_one(conn)
        .await?;
    Ok(topic_owner(claimed))
}

pub(super) async fn release(conn: &mut StoreConnection, name: &str, uid: &str) -> TransactionResult<bool> {
    let deleted = query("DELETE FROM topic_owners WHERE name = $1 AND uid = $2")
        .bind(name)
        .bind(uid)
        .execute(conn)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

pub(super) async fn topics_overview(conn: &mut StoreConnection) -> TransactionResult<TopicsOverview> {
    let rows: Vec<OverviewRow> = query_as(OVERVIEW).fetch_all(conn).await?;
    Ok(build_overview(rows)?)
}
