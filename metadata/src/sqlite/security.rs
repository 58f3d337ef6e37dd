//! Users, access control lists and quotas.
//!
//! The one writer makes changes come one by one, so a plan is made from rows that cannot change
//! before it is written.

mod read;
mod write;

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use self::write::write_delta;
use super::migrate::schema_version;
use crate::{
    AclRow, AgentSecret, QuotaAlteration, ScramAlteration, ScramAlterationOutcome, SecuritySnapshot,
    UnownedRows, UserRows, rows,
    schema::{SECURITY_TABLES_VERSION, check_security_tables},
    security_plan::{
        check_acls, check_owner, check_quota_alteration, check_scram_alteration, check_user,
        plan_acl_creation, plan_acl_deletion, plan_quota_alteration, plan_scram_alteration, plan_user,
        plan_user_deletion,
    },
    transaction::TransactionResult,
};

pub(super) async fn has_security_tables(conn: &mut SqliteConnection) -> TransactionResult<bool> {
    Ok(schema_version(conn).await? >= SECURITY_TABLES_VERSION)
}

/// Returns the version of the security snapshot; 0 on a schema without it.
pub(super) async fn security_version(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    if !has_security_tables(&mut *conn).await? {
        return Ok(0);
    }
    read::security_version(conn).await
}

pub(super) async fn load_security(conn: &mut SqliteConnection) -> TransactionResult<SecuritySnapshot> {
    if !has_security_tables(&mut *conn).await? {
        return Ok(SecuritySnapshot::default());
    }
    let version = read::security_version(&mut *conn).await?;
    Ok(read::rows_in_force(conn).await?.into_snapshot(version))
}

/// Refuses a schema without the tables.
async fn check_tables(conn: &mut SqliteConnection) -> TransactionResult<()> {
    Ok(check_security_tables(schema_version(conn).await?)?)
}

/// Returns the secret of the agents, and makes it if there is none.
pub(super) async fn agent_secret(conn: &mut SqliteConnection) -> TransactionResult<AgentSecret> {
    check_tables(&mut *conn).await?;
    if let Some(secret) = read::agent_secret(&mut *conn).await? {
        return Ok(rows::agent_secret(&secret)?);
    }
    Ok(rows::agent_secret(&write::make_agent_secret(conn).await?)?)
}

pub(super) async fn alter_scram_credentials(
    conn: &mut SqliteConnection,
    alteration: &ScramAlteration,
) -> TransactionResult<BTreeMap<String, ScramAlterationOutcome>> {
    check_scram_alteration(alteration)?;
    check_tables(conn).await?;
    let stored = read::users_named(conn, &alteration.user_names()).await?;
    let (outcomes, delta) = plan_scram_alteration(alteration, &stored);
    write_delta(conn, &delta).await?;
    Ok(outcomes)
}

pub(super) async fn create_acls(
    conn: &mut SqliteConnection,
    rows: &[AclRow],
) -> TransactionResult<Vec<bool>> {
    check_acls(rows)?;
    check_tables(conn).await?;
    let stored = read::copies_of_acls(conn, rows).await?;
    let (created, delta) = plan_acl_creation(rows, &stored);
    write_delta(conn, &delta).await?;
    Ok(created)
}

pub(super) async fn delete_acls(
    conn: &mut SqliteConnection,
    rows: &[AclRow],
) -> TransactionResult<Vec<bool>> {
    check_acls(rows)?;
    check_tables(conn).await?;
    let stored = read::copies_of_acls(conn, rows).await?;
    let (existed, delta) = plan_acl_deletion(rows, stored);
    write_delta(conn, &delta).await?;
    Ok(existed)
}

pub(super) async fn alter_client_quotas(
    conn: &mut SqliteConnection,
    alteration: &QuotaAlteration,
) -> TransactionResult<()> {
    check_quota_alteration(alteration)?;
    check_tables(conn).await?;
    let stored = read::quotas_named(conn, &alteration.ids()).await?;
    write_delta(conn, &plan_quota_alteration(alteration, &stored)?).await
}

pub(super) async fn apply_user(
    conn: &mut SqliteConnection,
    owner: &str,
    user: &UserRows,
    unowned: UnownedRows,
) -> TransactionResult<bool> {
    check_owner(owner)?;
    check_user(user)?;
    check_tables(conn).await?;
    let stored = read::rows_of_user(conn, owner, user).await?;
    let delta = plan_user(owner, user, unowned, &stored)?;
    write_delta(conn, &delta).await?;
    Ok(!delta.is_empty())
}

pub(super) async fn delete_user(conn: &mut SqliteConnection, owner: &str) -> TransactionResult<bool> {
    check_owner(owner)?;
    check_tables(conn).await?;
    let delta = plan_user_deletion(read::rows_of_owner(conn, owner).await?);
    write_delta(conn, &delta).await?;
    Ok(!delta.is_empty())
}

pub(super) async fn find_owned_user(
    conn: &mut SqliteConnection,
    owner: &str,
) -> TransactionResult<Option<UserRows>> {
    check_tables(&mut *conn).await?;
    let mut users = read::rows_of_owner(conn, owner).await?.into_users();
    Ok(users.remove(owner))
}

pub(super) async fn list_owned_users(
    conn: &mut SqliteConnection,
    prefix: &str,
) -> TransactionResult<BTreeMap<String, UserRows>> {
    check_tables(&mut *conn).await?;
    Ok(read::rows_of_owners(conn, prefix).await?.into_users())
}
