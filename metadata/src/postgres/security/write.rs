//! Writes a plan. The caller holds the lock of the cluster's row.

use sqlx::{query, query_scalar};

use super::{super::StoreConnection, read::quota_id_columns};
use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, ScramCredentialId, ScramCredentialRow,
    rows::OwnedRow,
    security_plan::{SecurityDelta, SecurityTable, check_row_count},
    transaction::TransactionResult,
};

/// Makes the secret of the agents unless there is one, and returns it. The database makes it, whose
/// log would have a parameter: two random UUIDs have 244 random bits.
pub(super) async fn make_agent_secret(conn: &mut StoreConnection) -> TransactionResult<Vec<u8>> {
    let secret = query_scalar(
        "UPDATE cluster SET agent_secret = coalesce(
             agent_secret,
             decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
         )
         RETURNING agent_secret",
    )
    .fetch_one(conn)
    .await?;
    Ok(secret)
}

/// Writes a plan, checks the number of rows, and raises the versions if the snapshot changes.
pub(super) async fn write_delta(conn: &mut StoreConnection, delta: &SecurityDelta) -> TransactionResult<()> {
    if !delta.released_users.is_empty() {
        query("DELETE FROM user_owners WHERE user_name = ANY($1)")
            .bind(&delta.released_users)
            .execute(&mut *conn)
            .await?;
    }
    if let Some(claim) = &delta.claimed_user {
        query("INSERT INTO user_owners (user_name, owner) VALUES ($1, $2)")
            .bind(&claim.row)
            .bind(&claim.owner)
            .execute(&mut *conn)
            .await?;
    }
    delete_credentials(conn, &delta.deleted_credentials).await?;
    store_credentials(conn, &delta.stored_credentials).await?;
    delete_acls(conn, &delta.deleted_acls).await?;
    store_acls(conn, &delta.stored_acls).await?;
    delete_quotas(conn, &delta.deleted_quotas).await?;
    store_quotas(conn, &delta.stored_quotas).await?;
    for table in delta.growing_tables() {
        let sql = match table {
            SecurityTable::UserOwners => "SELECT count(*) FROM user_owners",
            SecurityTable::ScramCredentials => "SELECT count(*) FROM scram_credentials",
            SecurityTable::Acls => "SELECT count(*) FROM acls",
            SecurityTable::ClientQuotas => "SELECT count(*) FROM client_quotas",
        };
        check_row_count(table, query_scalar(sql).fetch_one(&mut *conn).await?)?;
    }
    if delta.changes_snapshot() {
        query("UPDATE cluster SET version = version + 1, security_version = security_version + 1")
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Returns one field of each row, for an array.
fn column<T, F: Clone>(rows: &[OwnedRow<T>], field: impl Fn(&T) -> &F) -> Vec<F> {
    rows.iter().map(|owned| field(&owned.row).clone()).collect()
}

fn owner_column<T>(rows: &[OwnedRow<T>]) -> Vec<String> {
    rows.iter().map(|owned| owned.owner.clone()).collect()
}

async fn delete_credentials(conn: &mut StoreConnection, ids: &[ScramCredentialId]) -> TransactionResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    query(
        "DELETE FROM scram_credentials c USING UNNEST($1::text[], $2::text[]) AS u (user_name, mechanism)
         WHERE c.user_name = u.user_name AND c.mechanism = u.mechanism",
    )
    .bind(ids.iter().map(|id| id.user_name.clone()).collect::<Vec<_>>())
    .bind(ids.iter().map(|id| id.mechanism.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn store_credentials(
    conn: &mut StoreConnection,
    rows: &[OwnedRow<ScramCredentialRow>],
) -> TransactionResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    query(
        "INSERT INTO scram_credentials (user_name, mechanism, salt, iterations, stored_key, server_key, owner)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::bytea[], $4::integer[], $5::bytea[], $6::bytea[], $7::text[])
         ON CONFLICT (user_name, mechanism) DO UPDATE
         SET salt = excluded.salt, iterations = excluded.iterations, stored_key = excluded.stored_key,
             server_key = excluded.server_key, owner = excluded.owner",
    )
    .bind(column(rows, |row| &row.user_name))
    .bind(column(rows, |row| &row.mechanism))
    .bind(column(rows, |row| &row.salt))
    .bind(column(rows, |row| &row.iterations))
    .bind(column(rows, |row| &row.stored_key))
    .bind(column(rows, |row| &row.server_key))
    .bind(owner_column(rows))
    .execute(conn)
    .await?;
    Ok(())
}

/// Binds the columns of entries of access control lists.
macro_rules! bind_acls {
    ($sql:expr, $rows:expr) => {
        query($sql)
            .bind(column($rows, |row: &AclRow| &row.principal))
            .bind(column($rows, |row: &AclRow| &row.resource_type))
            .bind(column($rows, |row: &AclRow| &row.resource_name))
            .bind(column($rows, |row: &AclRow| &row.pattern_type))
            .bind(column($rows, |row: &AclRow| &row.host))
            .bind(column($rows, |row: &AclRow| &row.operation))
            .bind(column($rows, |row: &AclRow| &row.permission))
            .bind(owner_column($rows))
    };
}

async fn delete_acls(conn: &mut StoreConnection, rows: &[OwnedRow<AclRow>]) -> TransactionResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = "
        DELETE FROM acls
        WHERE (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner) IN (
            SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                 $8::text[]))";
    bind_acls!(sql, rows).execute(conn).await?;
    Ok(())
}

async fn store_acls(conn: &mut StoreConnection, rows: &[OwnedRow<AclRow>]) -> TransactionResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = "
        INSERT INTO acls (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner)
        SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                             $8::text[])";
    bind_acls!(sql, rows).execute(conn).await?;
    Ok(())
}

async fn delete_quotas(conn: &mut StoreConnection, ids: &[ClientQuotaId]) -> TransactionResult<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let [user_names, client_ids, ips, keys] = quota_id_columns(ids.iter());
    query(
        "DELETE FROM client_quotas
         WHERE (user_name, client_id, ip, key) IN (
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]))",
    )
    .bind(user_names)
    .bind(client_ids)
    .bind(ips)
    .bind(keys)
    .execute(conn)
    .await?;
    Ok(())
}

async fn store_quotas(
    conn: &mut StoreConnection,
    rows: &[OwnedRow<ClientQuotaRow>],
) -> TransactionResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let [user_names, client_ids, ips, keys] = quota_id_columns(rows.iter().map(|owned| &owned.row.id));
    query(
        "INSERT INTO client_quotas (user_name, client_id, ip, key, value, owner)
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::double precision[], $6::text[])
         ON CONFLICT (user_name, client_id, ip, key) DO UPDATE SET value = excluded.value, owner = excluded.owner",
    )
    .bind(user_names)
    .bind(client_ids)
    .bind(ips)
    .bind(keys)
    .bind(column(rows, |row| &row.value))
    .bind(owner_column(rows))
    .execute(conn)
    .await?;
    Ok(())
}
