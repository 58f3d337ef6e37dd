//! Writes a plan.

use sqlx::{SqliteConnection, query, query_scalar};

use super::super::current_time_ms;
use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, ScramCredentialId, ScramCredentialRow,
    rows::{OwnedRow, entity_name_text},
    security_plan::{SecurityDelta, SecurityTable, check_row_count},
    transaction::TransactionResult,
};

/// Makes the secret of the agents unless there is one, and returns it.
pub(super) async fn make_agent_secret(conn: &mut SqliteConnection) -> TransactionResult<Vec<u8>> {
    let secret = query_scalar(
        "UPDATE cluster SET agent_secret = coalesce(agent_secret, randomblob(32)) RETURNING agent_secret",
    )
    .fetch_one(conn)
    .await?;
    Ok(secret)
}

/// Writes a plan, checks the number of rows, and raises the versions if the snapshot changes.
pub(super) async fn write_delta(conn: &mut SqliteConnection, delta: &SecurityDelta) -> TransactionResult<()> {
    write_owners(conn, delta).await?;
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

async fn write_owners(conn: &mut SqliteConnection, delta: &SecurityDelta) -> TransactionResult<()> {
    for user_name in &delta.released_users {
        query("DELETE FROM user_owners WHERE user_name = ?1")
            .bind(user_name)
            .execute(&mut *conn)
            .await?;
    }
    if let Some(claim) = &delta.claimed_user {
        let now = current_time_ms(conn).await?;
        query("INSERT INTO user_owners (user_name, owner, claimed_at) VALUES (?1, ?2, ?3)")
            .bind(&claim.row)
            .bind(&claim.owner)
            .bind(now)
            .execute(conn)
            .await?;
    }
    Ok(())
}

async fn delete_credentials(conn: &mut SqliteConnection, ids: &[ScramCredentialId]) -> TransactionResult<()> {
    for id in ids {
        query("DELETE FROM scram_credentials WHERE user_name = ?1 AND mechanism = ?2")
            .bind(&id.user_name)
            .bind(&id.mechanism)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn store_credentials(
    conn: &mut SqliteConnection,
    rows: &[OwnedRow<ScramCredentialRow>],
) -> TransactionResult<()> {
    for OwnedRow { owner, row } in rows {
        query(
            "INSERT INTO scram_credentials (user_name, mechanism, salt, iterations, stored_key, server_key, owner)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (user_name, mechanism) DO UPDATE
             SET salt = excluded.salt, iterations = excluded.iterations, stored_key = excluded.stored_key,
                 server_key = excluded.server_key, owner = excluded.owner",
        )
        .bind(&row.user_name)
        .bind(&row.mechanism)
        .bind(&row.salt)
        .bind(row.iterations)
        .bind(&row.stored_key)
        .bind(&row.server_key)
        .bind(owner)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Binds the columns of an entry of an access control list.
macro_rules! bind_acl {
    ($sql:expr, $owner:expr, $row:expr) => {
        query($sql)
            .bind(&$row.principal)
            .bind(&$row.resource_type)
            .bind(&$row.resource_name)
            .bind(&$row.pattern_type)
            .bind(&$row.host)
            .bind(&$row.operation)
            .bind(&$row.permission)
            .bind($owner)
    };
}

async fn delete_acls(conn: &mut SqliteConnection, rows: &[OwnedRow<AclRow>]) -> TransactionResult<()> {
    let sql = "
        DELETE FROM acls
        WHERE principal = ?1 AND resource_type = ?2 AND resource_name = ?3 AND pattern_type = ?4 AND host = ?5
          AND operation = ?6 AND permission = ?7 AND owner = ?8";
    for OwnedRow { owner, row } in rows {
        bind_acl!(sql, owner, row).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn store_acls(conn: &mut SqliteConnection, rows: &[OwnedRow<AclRow>]) -> TransactionResult<()> {
    let sql = "
        INSERT INTO acls (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    for OwnedRow { owner, row } in rows {
        bind_acl!(sql, owner, row).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn delete_quotas(conn: &mut SqliteConnection, ids: &[ClientQuotaId]) -> TransactionResult<()> {
    for id in ids {
        query("DELETE FROM client_quotas WHERE user_name = ?1 AND client_id = ?2 AND ip = ?3 AND key = ?4")
            .bind(entity_name_text(id.user_name.as_ref()))
            .bind(entity_name_text(id.client_id.as_ref()))
            .bind(entity_name_text(id.ip.as_ref()))
            .bind(&id.key)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn store_quotas(
    conn: &mut SqliteConnection,
    rows: &[OwnedRow<ClientQuotaRow>],
) -> TransactionResult<()> {
    for OwnedRow { owner, row } in rows {
        query(
            "INSERT INTO client_quotas (user_name, client_id, ip, key, value, owner) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (user_name, client_id, ip, key) DO UPDATE SET value = excluded.value, owner = excluded.owner",
        )
        .bind(entity_name_text(row.id.user_name.as_ref()))
        .bind(entity_name_text(row.id.client_id.as_ref()))
        .bind(entity_name_text(row.id.ip.as_ref()))
        .bind(&row.id.key)
        .bind(row.value)
        .bind(owner)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
