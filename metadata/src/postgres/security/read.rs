//! The rows that a change concerns, and those in force.

use sqlx::{query_as, query_scalar};

use super::super::StoreConnection;
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

pub(super) async fn security_version(conn: &mut StoreConnection) -> TransactionResult<i64> {
    let version = query_scalar("SELECT security_version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(version)
}

pub(super) async fn agent_secret(conn: &mut StoreConnection) -> TransactionResult<Option<Vec<u8>>> {
    let secret = query_scalar("SELECT agent_secret FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(secret)
}

/// Returns every credential, entry and quota, without owners of users. An entry that several owners
/// have is read once.
pub(super) async fn rows_in_force(conn: &mut StoreConnection) -> TransactionResult<StoredSecurity> {
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
    conn: &mut StoreConnection,
    names: &[String],
) -> TransactionResult<StoredSecurity> {
    let user_owners = query_as("SELECT user_name, owner FROM user_owners WHERE user_name = ANY($1)")
        .bind(names)
        .fetch_all(&mut *conn)
        .await?;
    let credentials = query_as(credentials_sql!("WHERE user_name = ANY($1)"))
        .bind(names)
        .fetch_all(conn)
        .await?;
    let columns = SecurityColumns {
        user_owners,
        credentials,
        ..SecurityColumns::default()
    };
    Ok(StoredSecurity::from_columns(columns)?)
}

/// Returns every owner's copies of entries of access control lists.
pub(super) async fn copies_of_acls(
    conn: &mut StoreConnection,
    rows: &[AclRow],
) -> TransactionResult<Vec<OwnedRow<AclRow>>> {
    let column = |field: fn(&AclRow) -> &String| rows.iter().map(field).cloned().collect::<Vec<_>>();
    let found = query_as(acls_sql!(
        "WHERE (principal, resource_type, resource_name, pattern_type, host, operation, permission) IN (
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]))"
    ))
    .bind(column(|row| &row.principal))
    .bind(column(|row| &row.resource_type))
    .bind(column(|row| &row.resource_name))
    .bind(column(|row| &row.pattern_type))
    .bind(column(|row| &row.host))
    .bind(column(|row| &row.operation))
    .bind(column(|row| &row.permission))
    .fetch_all(conn)
    .await?;
    Ok(acl_rows(found))
}

/// Returns the quotas with these ids.
pub(super) async fn quotas_named(
    conn: &mut StoreConnection,
    ids: &[ClientQuotaId],
) -> TransactionResult<Vec<OwnedRow<ClientQuotaRow>>> {
    let [user_names, client_ids, ips, keys] = quota_id_columns(ids.iter());
    let found = query_as(quotas_sql!(
        "WHERE (user_name, client_id, ip, key) IN (
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]))"
    ))
    .bind(user_names)
    .bind(client_ids)
    .bind(ips)
    .bind(keys)
    .fetch_all(conn)
    .await?;
    Ok(quota_rows(found)?)
}

/// Returns the columns of quotas by which they are found.
pub(super) fn quota_id_columns<'a>(ids: impl Iterator<Item = &'a ClientQuotaId>) -> [Vec<String>; 4] {
    let mut columns: [Vec<String>; 4] = Default::default();
    for id in ids {
        let parts = [&id.user_name, &id.client_id, &id.ip].map(|part| entity_name_text(part.as_ref()));
        let texts = parts.into_iter().chain([id.key.clone()]);
        for (column, text) in columns.iter_mut().zip(texts) {
            column.push(text);
        }
    }
    columns
}

/// Returns the rows of an owner.
pub(super) async fn rows_of_owner(
    conn: &mut StoreConnection,
    owner: &str,
) -> TransactionResult<StoredSecurity> {
    Ok(select_owners!(conn, "owner = $1", owner)?)
}

/// Returns the rows of an owner, and those of others that stand in the way of `user`.
pub(super) async fn rows_of_user(
    conn: &mut StoreConnection,
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
    conn: &mut StoreConnection,
    prefix: &str,
) -> TransactionResult<StoredSecurity> {
    Ok(select_owners!(conn, "starts_with(owner, $1)", prefix)?)
}
