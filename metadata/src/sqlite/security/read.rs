//! The rows that a change concerns, and those in force.

use std::collections::BTreeSet;

use sqlx::{SqliteConnection, query_as, query_scalar};

use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, UserRows,
    rows::{OwnedRow, SecurityColumns, StoredSecurity, acl_rows, entity_name_text, quota_rows},
    transaction::TransactionResult,
};

/// Selects credentials.
macro_rules! credentials_sql {
    ($($condition:literal),*) => {
        concat!(
            "SELECT owner, user_name, mechanism, salt, iterations, stored_key, server_key
             FROM scram_credentials ",
            $($condition),*
        )
    };
}

/// Selects entries of access control lists.
macro_rules! acls_sql {
    ($($condition:literal),*) => {
        concat!(
            "SELECT owner, principal, resource_type, resource_name, pattern_type, host, operation, permission
             FROM acls ",
            $($condition),*
        )
    };
}

/// Selects quotas.
macro_rules! quotas_sql {
    ($($condition:literal),*) => {
        concat!(
            "SELECT owner, user_name, client_id, ip, key, value FROM client_quotas ",
            $($condition),*
        )
    };
}

/// Reads the rows of the owners that meet a condition on a value. The indexes of owners have the
/// condition that there is one.
macro_rules! select_owners {
    ($conn:expr, $condition:literal, $value:expr) => {{
        let columns = SecurityColumns {
            user_owners: query_as(concat!(
                "SELECT user_name, owner FROM user_owners WHERE ",
                $condition
            ))
            .bind($value)
            .fetch_all(&mut *$conn)
            .await?,
            credentials: query_as(credentials_sql!("WHERE owner <> '' AND ", $condition))
                .bind($value)
                .fetch_all(&mut *$conn)
                .await?,
            acls: query_as(acls_sql!("WHERE owner <> '' AND ", $condition))
                .bind($value)
                .fetch_all(&mut *$conn)
                .await?,
            quotas: query_as(quotas_sql!("WHERE owner <> '' AND ", $condition))
                .bind($value)
                .fetch_all(&mut *$conn)
                .await?,
        };
        StoredSecurity::from_columns(columns)
    }};
}

pub(super) async fn security_version(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    let version = query_scalar("SELECT security_version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(version)
}

pub(super) async fn agent_secret(conn: &mut SqliteConnection) -> TransactionResult<Option<Vec<u8>>> {
    let secret = query_scalar("SELECT agent_secret FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(secret)
}

/// Returns every credential, entry and quota, without owners of users. An entry that several owners
/// have is read once.
pub(super) async fn rows_in_force(conn: &mut SqliteConnection) -> TransactionResult<StoredSecurity> {
    let entries = "
        SELECT DISTINCT '', principal, resource_type, resource_name, pattern_type, host, operation, permission
        FROM acls";
    let columns = SecurityColumns {
        user_owners: Vec::new(),
        credentials: query_as(credentials_sql!()).fetch_all(&mut *conn).await?,
        acls: query_as(entries).fetch_all(&mut *conn).await?,
        quotas: query_as(quotas_sql!()).fetch_all(conn).await?,
    };
    Ok(StoredSecurity::from_columns(columns)?)
}

/// Returns the credentials and owners of users.
pub(super) async fn users_named(
    conn: &mut SqliteConnection,
    names: &[String],
) -> TransactionResult<StoredSecurity> {
    let mut columns = SecurityColumns::default();
    for name in names {
        let owner = query_as("SELECT user_name, owner FROM user_owners WHERE user_name = ?1")
            .bind(name)
            .fetch_optional(&mut *conn)
            .await?;
        columns.user_owners.extend(owner);
        let credentials = query_as(credentials_sql!("WHERE user_name = ?1"))
            .bind(name)
            .fetch_all(&mut *conn)
            .await?;
        columns.credentials.extend(credentials);
    }
    Ok(StoredSecurity::from_columns(columns)?)
}

/// Returns every owner's copies of entries of access control lists.
pub(super) async fn copies_of_acls(
    conn: &mut SqliteConnection,
    rows: &[AclRow],
) -> TransactionResult<Vec<OwnedRow<AclRow>>> {
    let mut copies = Vec::new();
    for row in BTreeSet::from_iter(rows) {
        let found = query_as(acls_sql!(
            "WHERE principal = ?1 AND resource_type = ?2 AND resource_name = ?3 AND pattern_type = ?4 AND host = ?5
               AND operation = ?6 AND permission = ?7"
        ))
        .bind(&row.principal)
        .bind(&row.resource_type)
        .bind(&row.resource_name)
        .bind(&row.pattern_type)
        .bind(&row.host)
        .bind(&row.operation)
        .bind(&row.permission)
        .fetch_all(&mut *conn)
        .await?;
        copies.extend(acl_rows(found));
    }
    Ok(copies)
}

/// Returns the quotas with these ids, each once.
pub(super) async fn quotas_named(
    conn: &mut SqliteConnection,
    ids: &[ClientQuotaId],
) -> TransactionResult<Vec<OwnedRow<ClientQuotaRow>>> {
    let mut found = Vec::new();
    for id in BTreeSet::from_iter(ids) {
        let row = query_as(quotas_sql!(
            "WHERE user_name = ?1 AND client_id = ?2 AND ip = ?3 AND key = ?4"
        ))
        .bind(entity_name_text(id.user_name.as_ref()))
        .bind(entity_name_text(id.client_id.as_ref()))
        .bind(entity_name_text(id.ip.as_ref()))
        .bind(&id.key)
        .fetch_optional(&mut *conn)
        .await?;
        found.extend(row);
    }
    Ok(quota_rows(found)?)
}

/// Returns the rows of an owner.
pub(super) async fn rows_of_owner(
    conn: &mut SqliteConnection,
    owner: &str,
) -> TransactionResult<StoredSecurity> {
    Ok(select_owners!(conn, "owner = ?1", owner)?)
}

/// Returns the rows of an owner, and those of others that stand in the way of `user`.
pub(super) async fn rows_of_user(
    conn: &mut SqliteConnection,
    owner: &str,
    user: &UserRows,
) -> TransactionResult<StoredSecurity> {
    let stored = rows_of_owner(conn, owner).await?;
    let of_user = users_named(conn, std::slice::from_ref(&user.user_name)).await?;
    let ids: Vec<ClientQuotaId> = user.quotas.iter().map(|quota| quota.id.clone()).collect();
    let named = quotas_named(conn, &ids).await?;
    Ok(stored.with_rows_of_others(owner, of_user, named))
}

/// Returns the rows of every owner whose name begins with `prefix`.
pub(super) async fn rows_of_owners(
    conn: &mut SqliteConnection,
    prefix: &str,
) -> TransactionResult<StoredSecurity> {
    Ok(select_owners!(conn, "substr(owner, 1, length(?1)) = ?1", prefix)?)
}
