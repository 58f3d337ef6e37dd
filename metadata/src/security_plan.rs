//! Decides what a change of users, access control lists and quotas writes. Pure: both stores read
//! the rows that the change concerns, ask for the plan, and write it.
//!
//! A plan has only rows that differ from the stored ones. An empty plan changes no version, so that
//! a resource that is applied again and again makes no agent load anything.

mod limits;
#[cfg(test)]
pub(crate) mod tests;
mod user;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use self::limits::{
    MAX_ACLS, MAX_CLIENT_QUOTAS, MAX_SCRAM_CREDENTIALS, MAX_SCRAM_SALT_BYTES, MAX_SECURITY_CHANGES,
    MAX_SECURITY_NAME_BYTES, MAX_SECURITY_PRINCIPAL_BYTES,
};
pub(crate) use self::limits::{
    SecurityTable, check_acls, check_owner, check_quota_alteration, check_row_count, check_scram_alteration,
    check_user,
};
pub(crate) use self::user::{plan_user, plan_user_deletion};
use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, Error, QuotaAlteration, Result, ScramAlteration,
    ScramAlterationOutcome, ScramCredentialId, ScramCredentialRow,
    rows::{OwnedRow, StoredSecurity},
};

/// The owner of rows that were made by hand.
const BY_HAND: &str = "";

/// The rows to write: first the deletions, then the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SecurityDelta {
    /// The users whose owner goes.
    pub(crate) released_users: Vec<String>,
    /// The user that gets an owner.
    pub(crate) claimed_user: Option<OwnedRow<String>>,
    pub(crate) deleted_credentials: Vec<ScramCredentialId>,
    pub(crate) stored_credentials: Vec<OwnedRow<ScramCredentialRow>>,
    pub(crate) deleted_acls: Vec<OwnedRow<AclRow>>,
    pub(crate) stored_acls: Vec<OwnedRow<AclRow>>,
    pub(crate) deleted_quotas: Vec<ClientQuotaId>,
    pub(crate) stored_quotas: Vec<OwnedRow<ClientQuotaRow>>,
}

impl SecurityDelta {
    /// Returns whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.released_users.is_empty() && self.claimed_user.is_none() && !self.changes_snapshot()
    }

    /// Returns whether a row of the snapshot is written, so that its version must rise. The owners
    /// of users are not part of it.
    pub(crate) fn changes_snapshot(&self) -> bool {
        !(self.deleted_credentials.is_empty()
            && self.stored_credentials.is_empty()
            && self.deleted_acls.is_empty()
            && self.stored_acls.is_empty()
            && self.deleted_quotas.is_empty()
            && self.stored_quotas.is_empty())
    }

    /// Returns the tables that may have grown.
    pub(crate) fn growing_tables(&self) -> Vec<SecurityTable> {
        let tables = [
            (SecurityTable::UserOwners, self.claimed_user.is_some()),
            (
                SecurityTable::ScramCredentials,
                !self.stored_credentials.is_empty(),
            ),
            (SecurityTable::Acls, !self.stored_acls.is_empty()),
            (SecurityTable::ClientQuotas, !self.stored_quotas.is_empty()),
        ];
        let growing = tables.into_iter().filter(|(_, grows)| *grows);
        growing.map(|(table, _)| table).collect()
    }
}

/// Plans a change of credentials. `stored` has the credentials and owners of its users.
///
/// A credential keeps its owner; a new one gets that of its user. So a change by hand is a drift of
/// the rows of the user's owner.
pub(crate) fn plan_scram_alteration(
    alteration: &ScramAlteration,
    stored: &StoredSecurity,
) -> (BTreeMap<String, ScramAlterationOutcome>, SecurityDelta) {
    let existing: HashMap<ScramCredentialId, &ScramCredentialRow> = stored
        .credentials
        .iter()
        .map(|owned| (owned.row.id(), &owned.row))
        .collect();
    let (mut named, mut outcomes) = (HashSet::new(), BTreeMap::new());
    let upserted = alteration.upserts.iter().map(ScramCredentialRow::id);
    for id in upserted.chain(alteration.deletions.iter().cloned()) {
        let outcome = outcomes
            .entry(id.user_name.clone())
            .or_insert(ScramAlterationOutcome::Altered);
        if !named.insert(id) {
            *outcome = ScramAlterationOutcome::Duplicate;
        }
    }
    for id in &alteration.deletions {
        if let Some(outcome @ ScramAlterationOutcome::Altered) = outcomes.get_mut(&id.user_name)
            && !existing.contains_key(id)
        {
            *outcome = ScramAlterationOutcome::UnknownCredential;
        }
    }
    let is_altered = |user_name: &str| outcomes.get(user_name) == Some(&ScramAlterationOutcome::Altered);
    let changed = alteration
        .upserts
        .iter()
        .filter(|row| is_altered(&row.user_name) && existing.get(&row.id()) != Some(row));
    let owner = |user_name: &str| stored.user_owners.get(user_name).map_or(BY_HAND, String::as_str);
    let deleted = alteration.deletions.iter().filter(|id| is_altered(&id.user_name));
    let delta = SecurityDelta {
        stored_credentials: changed
            .map(|row| OwnedRow::new(owner(&row.user_name), row.clone()))
            .collect(),
        deleted_credentials: deleted.cloned().collect(),
        ..SecurityDelta::default()
    };
    (outcomes, delta)
}

/// Plans the creation of entries of access control lists by hand, and returns which are new.
/// `stored` has every owner's copies of them.
pub(crate) fn plan_acl_creation(rows: &[AclRow], stored: &[OwnedRow<AclRow>]) -> (Vec<bool>, SecurityDelta) {
    let by_hand = stored.iter().filter(|owned| owned.owner == BY_HAND);
    let mut known: HashSet<&AclRow> = by_hand.map(|owned| &owned.row).collect();
    let new: Vec<bool> = rows.iter().map(|row| known.insert(row)).collect();
    let created = rows.iter().zip(&new).filter(|(_, new)| **new);
    let delta = SecurityDelta {
        stored_acls: created
            .map(|(row, _)| OwnedRow::new(BY_HAND, row.clone()))
            .collect(),
        ..SecurityDelta::default()
    };
    (new, delta)
}

/// Plans the deletion of entries of access control lists, and returns which exist. `stored` has
/// every owner's copies of them; all are deleted, so that the entry is not in force afterwards.
pub(crate) fn plan_acl_deletion(
    rows: &[AclRow],
    stored: Vec<OwnedRow<AclRow>>,
) -> (Vec<bool>, SecurityDelta) {
    let known: HashSet<&AclRow> = stored.iter().map(|owned| &owned.row).collect();
    let existed = rows.iter().map(|row| known.contains(row)).collect();
    let delta = SecurityDelta {
        deleted_acls: stored,
        ..SecurityDelta::default()
    };
    (existed, delta)
}

/// Plans a change of quotas. `stored` has those that it names. A quota keeps its owner.
///
/// # Errors
///
/// [`Error::InvalidSecurityChange`] if a quota is named twice.
pub(crate) fn plan_quota_alteration(
    alteration: &QuotaAlteration,
    stored: &[OwnedRow<ClientQuotaRow>],
) -> Result<SecurityDelta> {
    let existing: HashMap<&ClientQuotaId, &OwnedRow<ClientQuotaRow>> =
        stored.iter().map(|owned| (&owned.row.id, owned)).collect();
    let mut named = HashSet::new();
    let upserted = alteration.upserts.iter().map(|row| &row.id);
    for id in upserted.chain(&alteration.removals) {
        if !named.insert(id) {
            let message = format!("the quota {} is named twice for one entity", id.key);
            return Err(Error::InvalidSecurityChange(message));
        }
    }
    let changed = alteration.upserts.iter().filter_map(|row| {
        let found = existing.get(&row.id);
        let owner = found.map_or(BY_HAND, |owned| owned.owner.as_str());
        let is_same = found.is_some_and(|owned| owned.row == *row);
        (!is_same).then(|| OwnedRow::new(owner, row.clone()))
    });
    let removed = alteration.removals.iter().filter(|id| existing.contains_key(id));
    Ok(SecurityDelta {
        stored_quotas: changed.collect(),
        deleted_quotas: removed.cloned().collect(),
        ..SecurityDelta::default()
    })
}
