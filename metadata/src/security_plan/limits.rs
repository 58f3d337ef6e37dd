//! The bounds of users, access control lists and quotas, and of their texts. They keep a snapshot
//! small enough for the memory of every agent, and every key small enough for an index.

use streamhouse_core::security::QuotaName;

use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, Error, QuotaAlteration, Result, ScramAlteration,
    ScramCredentialRow, UserRows,
};

/// The maximum number of rows that one call changes.
pub const MAX_SECURITY_CHANGES: usize = 10_000;
/// The maximum number of credentials, and of users with an owner.
pub const MAX_SCRAM_CREDENTIALS: usize = 10_000;
/// The maximum number of entries in access control lists.
pub const MAX_ACLS: usize = 100_000;
/// The maximum number of quotas.
pub const MAX_CLIENT_QUOTAS: usize = 10_000;
/// The maximum length of the name of a user, a resource, a client or a host, in bytes.
pub const MAX_SECURITY_NAME_BYTES: usize = 255;
/// The maximum length of a principal in bytes: its type, a colon and a name.
pub const MAX_SECURITY_PRINCIPAL_BYTES: usize = MAX_SECURITY_NAME_BYTES + 16;
/// The maximum length of the salt of a credential, in bytes.
pub const MAX_SCRAM_SALT_BYTES: usize = 255;

/// The maximum length of an owner: a namespace and a name of Kubernetes, and what kind they are of.
const MAX_OWNER_BYTES: usize = 512;
/// The maximum length of a word of Kafka, such as `TOPIC` or `producer_byte_rate`.
const MAX_WORD_BYTES: usize = 64;
/// The lengths of the keys of SCRAM-SHA-256 and SCRAM-SHA-512.
const KEY_BYTES: [usize; 2] = [32, 64];

fn invalid(message: String) -> Error {
    Error::InvalidSecurityChange(message)
}

/// Refuses a call that changes too many rows.
pub(crate) fn check_change_count(rows: usize) -> Result<()> {
    if rows > MAX_SECURITY_CHANGES {
        return Err(invalid(format!(
            "{rows} rows of users, ACLs or quotas are too many for one change: change at most {MAX_SECURITY_CHANGES} at a time"
        )));
    }
    Ok(())
}

/// Refuses a table that has become too large.
pub(crate) fn check_row_count(table: SecurityTable, rows: i64) -> Result<()> {
    let (what, limit) = match table {
        SecurityTable::UserOwners => ("users", MAX_SCRAM_CREDENTIALS),
        SecurityTable::ScramCredentials => ("SCRAM credentials", MAX_SCRAM_CREDENTIALS),
        SecurityTable::Acls => ("ACLs", MAX_ACLS),
        SecurityTable::ClientQuotas => ("client quotas", MAX_CLIENT_QUOTAS),
    };
    if usize::try_from(rows).unwrap_or_default() > limit {
        return Err(Error::SecurityLimit(format!(
            "there would be {rows} {what}, but at most {limit} are possible: delete some first"
        )));
    }
    Ok(())
}

/// The tables whose number of rows is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecurityTable {
    UserOwners,
    ScramCredentials,
    Acls,
    ClientQuotas,
}

/// Checks the length of a text; `least` is 0 or 1.
fn check_text(what: &str, text: &str, least: usize, most: usize) -> Result<()> {
    if !(least..=most).contains(&text.len()) {
        return Err(invalid(format!(
            "{what} has {} bytes, but {least} to {most} are possible",
            text.len()
        )));
    }
    // PostgreSQL does not store it.
    if text.contains('\0') {
        return Err(invalid(format!("{what} contains a zero byte")));
    }
    Ok(())
}

pub(crate) fn check_owner(owner: &str) -> Result<()> {
    check_text("the owner of a user", owner, 1, MAX_OWNER_BYTES)
}

fn check_user_name(name: &str) -> Result<()> {
    check_text("the name of a user", name, 1, MAX_SECURITY_NAME_BYTES)
}

fn check_mechanism(mechanism: &str) -> Result<()> {
    check_text("the mechanism of a credential", mechanism, 1, MAX_WORD_BYTES)
}

/// Names the lengths only: the message may be logged.
fn check_credential(row: &ScramCredentialRow) -> Result<()> {
    check_user_name(&row.user_name)?;
    check_mechanism(&row.mechanism)?;
    let user = &row.user_name;
    if !(1..=MAX_SCRAM_SALT_BYTES).contains(&row.salt.len()) {
        return Err(invalid(format!(
            "the salt of user {user:?} must have 1 to {MAX_SCRAM_SALT_BYTES} bytes"
        )));
    }
    if row.iterations < 1 {
        return Err(invalid(format!(
            "the number of iterations of user {user:?} must be positive"
        )));
    }
    if [&row.stored_key, &row.server_key]
        .iter()
        .any(|key| !KEY_BYTES.contains(&key.len()))
    {
        return Err(invalid(format!(
            "the keys of user {user:?} must have 32 or 64 bytes"
        )));
    }
    Ok(())
}

pub(crate) fn check_scram_alteration(alteration: &ScramAlteration) -> Result<()> {
    check_change_count(alteration.upserts.len() + alteration.deletions.len())?;
    for id in &alteration.deletions {
        check_user_name(&id.user_name)?;
        check_mechanism(&id.mechanism)?;
    }
    alteration.upserts.iter().try_for_each(check_credential)
}

pub(crate) fn check_acls(rows: &[AclRow]) -> Result<()> {
    check_change_count(rows.len())?;
    for row in rows {
        check_text(
            "the principal of an ACL",
            &row.principal,
            1,
            MAX_SECURITY_PRINCIPAL_BYTES,
        )?;
        for (what, name) in [
            ("the resource of an ACL", &row.resource_name),
            ("the host of an ACL", &row.host),
        ] {
            check_text(what, name, 1, MAX_SECURITY_NAME_BYTES)?;
        }
        for (what, word) in [
            ("the resource type of an ACL", &row.resource_type),
            ("the pattern type of an ACL", &row.pattern_type),
            ("the operation of an ACL", &row.operation),
            ("the permission of an ACL", &row.permission),
        ] {
            check_text(what, word, 1, MAX_WORD_BYTES)?;
        }
    }
    Ok(())
}

fn check_quota_id(id: &ClientQuotaId) -> Result<()> {
    let parts = [&id.user_name, &id.client_id, &id.ip];
    if parts.iter().all(|part| part.is_none()) {
        return Err(invalid(
            "a quota needs a user, a client id or an address".to_owned(),
        ));
    }
    for part in parts {
        if let Some(QuotaName::Named(name)) = part {
            check_text("the entity of a quota", name, 0, MAX_SECURITY_NAME_BYTES)?;
        }
    }
    check_text("the key of a quota", &id.key, 1, MAX_WORD_BYTES)
}

fn check_quota(row: &ClientQuotaRow) -> Result<()> {
    check_quota_id(&row.id)?;
    if !row.value.is_finite() {
        return Err(invalid(format!("the quota {} must be a number", row.id.key)));
    }
    Ok(())
}

pub(crate) fn check_quota_alteration(alteration: &QuotaAlteration) -> Result<()> {
    check_change_count(alteration.upserts.len() + alteration.removals.len())?;
    alteration.removals.iter().try_for_each(check_quota_id)?;
    alteration.upserts.iter().try_for_each(check_quota)
}

pub(crate) fn check_user(user: &UserRows) -> Result<()> {
    check_user_name(&user.user_name)?;
    check_change_count(user.credentials.len() + user.acls.len() + user.quotas.len())?;
    if let Some(other) = user
        .credentials
        .iter()
        .find(|row| row.user_name != user.user_name)
    {
        return Err(invalid(format!(
            "a credential of user {:?} cannot belong to user {:?}",
            other.user_name, user.user_name
        )));
    }
    user.credentials.iter().try_for_each(check_credential)?;
    check_acls(&user.acls)?;
    user.quotas.iter().try_for_each(check_quota)
}
