//! The rows that a change concerns, and those in force.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{SqliteConnection, query_as, query_scalar};

use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, ScramCredentialRow, UserRows,
    rows::{
        AclColumns, CredentialColumns, OwnedRow, QuotaColumns, StoredSecurity, acl, client_quota,
        entity_name_text, scram_credential,
    },
    transaction::TransactionResult,
};

/// Selects credentials.
macro_rules! credentials_sql {
    ($condition:literal) => {
        concat!(
            "SELECT owner, user_name, mechanism, salt, iterations, stored_key, server_key
             FROM scram_credentials ",
            $condition
        )
    };
}

/// Selects entries of access control lists.
macro_rules! acls_sql {
    ($condition:literal) => {
        concat!(
            "SELECT owner, principal, resource_type, resource_name, pattern_type, host, operation, permission
             FROM acls ",
            $condition
        )
    };
}

/// Selects quotas.
macro_rules! quotas_sql {
    ($condition:literal) => {
        concat!(
            "SELECT owner, user_name, client_id, ip, key, value FROM client_quotas ",
            $condition
        )
    };
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

fn credentials(rows: Vec<CredentialColumns>) -> Vec<OwnedRow<ScramCredentialRow>> {
    rows.into_iter().map(scram_credential).collect()
}

fn acls(rows: Vec<AclColumns>) -> Vec<OwnedRow<AclRow>> {
    rows.into_iter().map(acl).collect()
}

fn quotas(rows: Vec<QuotaColumns>) -> TransactionResult<Vec<OwnedRow<ClientQuotaRow>>> {
    let quotas: crate::Result<_> = rows.into_iter().map(client_quota).collect();
    Ok(quotas?)
}

/// Returns every credential, entry and quota, without owners of users. An entry that several owners
/// have is read once.
pub(super) async fn rows_in_force(conn: &mut SqliteConnection) -> TransactionResult<StoredSecurity> {
    let entries = "
        SELECT DISTINCT '', principal, resource_type, resource_name, pattern_type, host, operation, permission
        FROM acls";
    Ok(StoredSecurity {
        user_owners: BTreeMap::new(),
        credentials: credentials(query_as(credentials_sql!("")).fetch_all(&mut *conn).await?),
        acls: acls(query_as(entries).fetch_all(&mut *conn).await?),
        quotas: quotas(query_as(quotas_sql!("")).fetch_all(conn).await?)?,
    })
}

/// Returns the credentials and owners of users.
pub(super) async fn users_named(
    conn: &mut SqliteConnection,
    names: &[String],
) -> TransactionResult<StoredSecurity> {
    let mut stored = StoredSecurity::default();
    for name in names {
        let owner: Option<String> = query_scalar("SELECT owner FROM user_owners WHERE user_name = ?1")
            .bind(name)
            .fetch_optional(&mut *conn)
            .await?;
        stored
            .user_owners
            .extend(owner.map(|owner| (name.clone(), owner)));
        let rows = query_as(credentials_sql!("WHERE user_name = ?1"))
            .bind(name)
            .fetch_all(&mut *conn)
            .await?;
        stored.credentials.extend(credentials(rows));
    }
    Ok(stored)
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
        copies.extend(acls(found));
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
    quotas(found)
}

/// Returns the rows of an owner.
pub(super) async fn rows_of_owner(
    conn: &mut SqliteConnection,
    owner: &str,
) -> TransactionResult<StoredSecurity> {
    let owners: Vec<(String, String)> = query_as("SELECT user_name, owner FROM user_owners WHERE owner = ?1")
        .bind(owner)
        .fetch_all(&mut *conn)
        .await?;
    // The second condition is that of the indexes.
    let credential_rows = query_as(credentials_sql!("WHERE owner = ?1 AND owner <> ''"))
        .bind(owner)
        .fetch_all(&mut *conn)
        .await?;
    let acl_rows = query_as(acls_sql!("WHERE owner = ?1 AND owner <> ''"))
        .bind(owner)
        .fetch_all(&mut *conn)
        .await?;
    let quota_rows = query_as(quotas_sql!("WHERE owner = ?1 AND owner <> ''"))
        .bind(owner)
        .fetch_all(conn)
        .await?;
    Ok(StoredSecurity {
        user_owners: owners.into_iter().collect(),
        credentials: credentials(credential_rows),
        acls: acls(acl_rows),
        quotas: quotas(quota_rows)?,
    })
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
    let owners: Vec<(String, String)> =
        query_as("SELECT user_name, owner FROM user_owners WHERE substr(owner, 1, length(?1)) = ?1")
            .bind(prefix)
            .fetch_all(&mut *conn)
            .await?;
    let credential_rows = query_as(credentials_sql!(
        "WHERE owner <> '' AND substr(owner, 1, length(?1)) = ?1"
    ))
    .bind(prefix)
    .fetch_all(&mut *conn)
    .await?;
    let acl_rows = query_as(acls_sql!(
        "WHERE owner <> '' AND substr(owner, 1, length(?1)) = ?1"
    ))
    .bind(prefix)
    .fetch_all(&mut *conn)
    .await?;
    let quota_rows = query_as(quotas_sql!(
        "WHERE owner <> '' AND substr(owner, 1, length(?1)) = ?1"
    ))
    .bind(prefix)
    .fetch_all(conn)
    .await?;
    Ok(StoredSecurity {
        user_owners: owners.into_iter().collect(),
        credentials: credentials(credential_rows),
        acls: acls(acl_rows),
        quotas: quotas(quota_rows)?,
    })
}
