//! Rows of `scram_credentials`, `acls`, `client_quotas` and `user_owners`.

use std::collections::BTreeMap;

use streamhouse_core::security::QuotaName;

use crate::{
    AclRow, AgentSecret, ClientQuotaId, ClientQuotaRow, Error, Result, ScramCredentialRow, SecuritySnapshot,
    UserRows,
};

/// A row with the resource that manages it; empty for a row that was made by hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnedRow<T> {
    pub(crate) owner: String,
    pub(crate) row: T,
}

impl<T> OwnedRow<T> {
    pub(crate) fn new(owner: &str, row: T) -> Self {
        Self {
            owner: owner.to_owned(),
            row,
        }
    }
}

/// Converts the secret of the agents.
pub(crate) fn agent_secret(stored: &[u8]) -> Result<AgentSecret> {
    let damaged = || Error::Inconsistent("the secret of the agents has another length".to_owned());
    AgentSecret::from_bytes(stored).ok_or_else(damaged)
}

/// The owner, user, mechanism, salt, iterations, stored key and server key of a credential.
pub(crate) type CredentialColumns = (String, String, String, Vec<u8>, i32, Vec<u8>, Vec<u8>);

/// Converts the columns of a credential.
fn scram_credential(columns: CredentialColumns) -> OwnedRow<ScramCredentialRow> {
    let (owner, user_name, mechanism, salt, iterations, stored_key, server_key) = columns;
    let row = ScramCredentialRow {
        user_name,
        mechanism,
        salt,
        iterations,
        stored_key,
        server_key,
    };
    OwnedRow { owner, row }
}

/// The owner of an entry of an access control list, and its fields in the order of [`AclRow`].
pub(crate) type AclColumns = (String, String, String, String, String, String, String, String);

/// Converts the columns of an entry of an access control list.
fn acl(columns: AclColumns) -> OwnedRow<AclRow> {
    let (owner, principal, resource_type, resource_name, pattern_type, host, operation, permission) = columns;
    let row = AclRow {
        principal,
        resource_type,
        resource_name,
        pattern_type,
        host,
        operation,
        permission,
    };
    OwnedRow { owner, row }
}

/// Converts the columns of entries of access control lists.
pub(crate) fn acl_rows(columns: Vec<AclColumns>) -> Vec<OwnedRow<AclRow>> {
    columns.into_iter().map(acl).collect()
}

/// The owner, user, client id, address, key and value of a quota.
pub(crate) type QuotaColumns = (String, String, String, String, String, f64);

/// Converts the columns of a quota.
fn client_quota(columns: QuotaColumns) -> Result<OwnedRow<ClientQuotaRow>> {
    let (owner, user_name, client_id, ip, key, value) = columns;
    let id = ClientQuotaId {
        user_name: parse_entity_name(&user_name)?,
        client_id: parse_entity_name(&client_id)?,
        ip: parse_entity_name(&ip)?,
        key,
    };
    Ok(OwnedRow {
        owner,
        row: ClientQuotaRow { id, value },
    })
}

/// Converts the columns of quotas.
pub(crate) fn quota_rows(columns: Vec<QuotaColumns>) -> Result<Vec<OwnedRow<ClientQuotaRow>>> {
    columns.into_iter().map(client_quota).collect()
}

/// Encodes a part of the entity of a quota, so that none, the default and a name differ.
pub(crate) fn entity_name_text(name: Option<&QuotaName>) -> String {
    match name {
        None => String::new(),
        Some(QuotaName::Default) => "*".to_owned(),
        Some(QuotaName::Named(name)) => format!("={name}"),
    }
}

/// The inverse of [`entity_name_text`].
fn parse_entity_name(text: &str) -> Result<Option<QuotaName>> {
    match (text, text.strip_prefix('=')) {
        ("", _) => Ok(None),
        ("*", _) => Ok(Some(QuotaName::Default)),
        (_, Some(name)) => Ok(Some(QuotaName::Named(name.to_owned()))),
        _ => Err(Error::Inconsistent(format!(
            "the entity {text:?} of a quota is not readable"
        ))),
    }
}

/// The columns of the rows of some owners, or of all.
#[derive(Default)]
pub(crate) struct SecurityColumns {
    /// The users and their owners.
    pub(crate) user_owners: Vec<(String, String)>,
    pub(crate) credentials: Vec<CredentialColumns>,
    pub(crate) acls: Vec<AclColumns>,
    pub(crate) quotas: Vec<QuotaColumns>,
}

/// The rows of some owners, or of all.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct StoredSecurity {
    /// The owners of users, by the name of the user.
    pub(crate) user_owners: BTreeMap<String, String>,
    pub(crate) credentials: Vec<OwnedRow<ScramCredentialRow>>,
    pub(crate) acls: Vec<OwnedRow<AclRow>>,
    pub(crate) quotas: Vec<OwnedRow<ClientQuotaRow>>,
}

impl StoredSecurity {
    /// Converts the columns of rows.
    pub(crate) fn from_columns(columns: SecurityColumns) -> Result<Self> {
        Ok(Self {
            user_owners: columns.user_owners.into_iter().collect(),
            credentials: columns.credentials.into_iter().map(scram_credential).collect(),
            acls: acl_rows(columns.acls),
            quotas: quota_rows(columns.quotas)?,
        })
    }

    /// Adds the rows of a user and quotas that `owner` does not have; it has the other ones.
    pub(crate) fn with_rows_of_others(
        mut self,
        owner: &str,
        of_user: Self,
        quotas: Vec<OwnedRow<ClientQuotaRow>>,
    ) -> Self {
        self.user_owners.extend(of_user.user_owners);
        let credentials = of_user.credentials.into_iter();
        self.credentials
            .extend(credentials.filter(|other| other.owner != owner));
        self.quotas
            .extend(quotas.into_iter().filter(|other| other.owner != owner));
        self
    }

    /// Returns what is in force, in order.
    pub(crate) fn into_snapshot(self, version: i64) -> SecuritySnapshot {
        let mut acls = sorted_rows(self.acls);
        acls.dedup();
        SecuritySnapshot {
            version,
            credentials: sorted_rows(self.credentials),
            acls,
            quotas: sorted_quotas(self.quotas.into_iter().map(|quota| quota.row).collect()),
        }
    }

    /// Returns the rows by owner, in order. Rows without an owner are left out.
    pub(crate) fn into_users(self) -> BTreeMap<String, UserRows> {
        let user = |(user_name, owner)| {
            let rows = UserRows {
                user_name,
                ..UserRows::default()
            };
            (owner, rows)
        };
        let mut users: BTreeMap<String, UserRows> = self.user_owners.into_iter().map(user).collect();
        for OwnedRow { owner, row } in self.credentials {
            users.entry(owner).and_modify(|user| user.credentials.push(row));
        }
        for OwnedRow { owner, row } in self.acls {
            users.entry(owner).and_modify(|user| user.acls.push(row));
        }
        for OwnedRow { owner, row } in self.quotas {
            users.entry(owner).and_modify(|user| user.quotas.push(row));
        }
        for user in users.values_mut() {
            user.credentials.sort_unstable();
            user.acls.sort_unstable();
            user.quotas = sorted_quotas(std::mem::take(&mut user.quotas));
        }
        users
    }
}

fn sorted_rows<T: Ord>(rows: Vec<OwnedRow<T>>) -> Vec<T> {
    let mut rows: Vec<T> = rows.into_iter().map(|owned| owned.row).collect();
    rows.sort_unstable();
    rows
}

fn sorted_quotas(mut rows: Vec<ClientQuotaRow>) -> Vec<ClientQuotaRow> {
    rows.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_and_a_missing_entity_differ_from_every_name() {
        let names = ["", "*", "=", "<default>", "alice"].map(|name| Some(QuotaName::Named(name.into())));
        let all = [None, Some(QuotaName::Default)].into_iter().chain(names);
        let texts: Vec<String> = all
            .map(|name| {
                let text = entity_name_text(name.as_ref());
                assert_eq!(parse_entity_name(&text).unwrap(), name);
                text
            })
            .collect();
        assert_eq!(texts, ["", "*", "=", "=*", "==", "=<default>", "=alice"]);
        assert!(matches!(parse_entity_name("alice"), Err(Error::Inconsistent(_))));
    }
}
