//! Users, access control lists and quotas.
//!
//! Every change holds the lock of the cluster's row, so changes come one by one and a plan is made
//! from rows that cannot change before it is written.

mod read;
mod write;

use std::collections::BTreeMap;

use self::write::write_delta;
use super::{StoreConnection, cluster::lock_cluster, migrate::schema_version};
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

pub(super) async fn has_security_tables(conn: &mut StoreConnection) -> TransactionResult<bool> {
    Ok(schema_version(conn).await? >= SECURITY_TABLES_VERSION)
}

/// Returns the version of the security snapshot; 0 on a schema without it.
pub(super) async fn security_version(conn: &mut StoreConnection) -> TransactionResult<i64> {
    if !has_security_tables(&mut *conn).await? {
        return Ok(0);
    }
    read::security_version(conn).await
}

/// Reads the security snapshot; the transaction must see one database snapshot.
pub(super) async fn load_security(conn: &mut StoreConnection) -> TransactionResult<SecuritySnapshot> {
    if !has_security_tables(&mut *conn).await? {
        return Ok(SecuritySnapshot::default());
    }
    let version = read::security_version(&mut *conn).await?;
    Ok(read::rows_in_force(conn).await?.into_snapshot(version))
}

/// Refuses a schema without the tables.
async fn check_tables(conn: &mut StoreConnection) -> TransactionResult<()> {
    Ok(check_security_tables(schema_version(conn).await?)?)
}

/// Refuses a schema without the tables, and takes the lock of every change.
async fn begin_change(conn: &mut StoreConnection) -> TransactionResult<()> {
    check_tables(conn).await?;
    lock_cluster(conn).await
}

/// Returns the secret of the agents, and makes it if there is none.
pub(super) async fn agent_secret(conn: &mut StoreConnection) -> TransactionResult<AgentSecret> {
    check_tables(conn).await?;
    if let Some(secret) = read::agent_secret(&mut *conn).await? {
        return Ok(rows::agent_secret(&secret)?);
    }
    lock_cluster(&mut *conn).await?;
    Ok(rows::agent_secret(&write::make_agent_secret(conn).await?)?)
}

pub(super) async fn alter_scram_credentials(
    conn: &mut StoreConnection,
    alteration: &ScramAlteration,
) -> TransactionResult<BTreeMap<String, ScramAlterationOutcome>> {
    check_scram_alteration(alteration)?;
    begin_change(conn).await?;
    let stored = read::users_named(conn, &alteration.user_names()).await?;
    let (outcomes, delta) = plan_scram_alteration(alteration, &stored);
    write_delta(conn, &delta).await?;
    Ok(outcomes)
}

pub(super) async fn create_acls(conn: &mut StoreConnection, rows: &[AclRow]) -> TransactionResult<Vec<bool>> {
    check_acls(rows)?;
    begin_change(conn).await?;
    let stored = read::copies_of_acls(conn, rows).await?;
    let (created, delta) = plan_acl_creation(rows, &stored);
    write_delta(conn, &delta).await?;
    Ok(created)
}

pub(super) async fn delete_acls(conn: &mut StoreConnection, rows: &[AclRow]) -> TransactionResult<Vec<bool>> {
    check_acls(rows)?;
    begin_change(conn).await?;
    let stored = read::copies_of_acls(conn, rows).await?;
    let (existed, delta) = plan_acl_deletion(rows, stored);
    write_delta(conn, &delta).await?;
    Ok(existed)
}

pub(super) async fn alter_client_quotas(
    conn: &mut StoreConnection,
    alteration: &QuotaAlteration,
) -> TransactionResult<()> {
    check_quota_alteration(alteration)?;
    begin_change(conn).await?;
    let stored = read::quotas_named(conn, &alteration.ids()).await?;
    write_delta(conn, &plan_quota_alteration(alteration, &stored)?).await
}

pub(super) async fn apply_user(
    conn: &mut StoreConnection,
    owner: &str,
    user: &UserRows,
    unowned: UnownedRows,
) -> TransactionResult<bool> {
    check_owner(owner)?;
    check_user(user)?;
    begin_change(conn).await?;
    let stored = read::rows_of_user(conn, owner, user).await?;
    let delta = plan_user(owner, user, unowned, &stored)?;
    write_delta(conn, &delta).await?;
    Ok(!delta.is_empty())
}

pub(super) async fn delete_user(conn: &mut StoreConnection, owner: &str) -> TransactionResult<bool> {
    check_owner(owner)?;
    begin_change(conn).await?;
    let delta = plan_user_deletion(read::rows_of_owner(conn, owner).await?);
    write_delta(conn, &delta).await?;
    Ok(!delta.is_empty())
}

/// The transaction must see one database snapshot.
pub(super) async fn find_owned_user(
    conn: &mut StoreConnection,
    owner: &str,
) -> TransactionResult<Option<UserRows>> {
    check_tables(conn).await?;
    let mut users = read::rows_of_owner(conn, owner).await?.into_users();
    Ok(users.remove(owner))
}

/// The transaction must see one database snapshot.
pub(super) async fn list_owned_users(
    conn: &mut StoreConnection,
    prefix: &str,
) -> TransactionResult<BTreeMap<String, UserRows>> {
    check_tables(conn).await?;
    Ok(read::rows_of_owners(conn, prefix).await?.into_users())
}
