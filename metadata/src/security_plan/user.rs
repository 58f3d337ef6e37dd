//! Decides what the rows of one owner become.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{BY_HAND, SecurityDelta};
use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, Error, Result, ScramCredentialId, ScramCredentialRow, UnownedRows,
    UserRows,
    rows::{OwnedRow, StoredSecurity},
};

/// Plans that `owner` has exactly the rows of `user`.
///
/// `stored` has the owner of the user, the user of the owner, the credentials of both, the entries
/// and quotas of the owner, and the quotas that `user` names.
///
/// # Errors
///
/// [`Error::OwnerConflict`] if the user, or a quota, belongs to another owner, or was made by hand
/// and may not be adopted. [`Error::InvalidSecurityChange`] if a row is named twice.
pub(crate) fn plan_user(
    owner: &str,
    user: &UserRows,
    unowned: UnownedRows,
    stored: &StoredSecurity,
) -> Result<SecurityDelta> {
    let user_owner = stored.user_owners.get(&user.user_name);
    let of_user = stored
        .credentials
        .iter()
        .filter(|owned| owned.row.user_name == user.user_name);
    for other in user_owner.into_iter().chain(of_user.map(|owned| &owned.owner)) {
        check_ownership(owner, other, unowned, || format!("user {:?}", user.user_name))?;
    }
    let mut delta = SecurityDelta {
        released_users: stored
            .user_owners
            .iter()
            .filter(|(name, other)| *other == owner && **name != user.user_name)
            .map(|(name, _)| name.clone())
            .collect(),
        claimed_user: user_owner
            .is_none()
            .then(|| OwnedRow::new(owner, user.user_name.clone())),
        ..SecurityDelta::default()
    };
    plan_user_credentials(owner, user, stored, &mut delta)?;
    plan_user_acls(owner, user, stored, &mut delta);
    plan_user_quotas(owner, user, unowned, stored, &mut delta)?;
    Ok(delta)
}

fn check_ownership(
    owner: &str,
    found: &str,
    unowned: UnownedRows,
    what: impl FnOnce() -> String,
) -> Result<()> {
    let may_write = found == owner || (found == BY_HAND && unowned == UnownedRows::Adopt);
    if may_write {
        return Ok(());
    }
    Err(Error::OwnerConflict {
        what: what(),
        owner: found.to_owned(),
    })
}

fn plan_user_credentials(
    owner: &str,
    user: &UserRows,
    stored: &StoredSecurity,
    delta: &mut SecurityDelta,
) -> Result<()> {
    let existing: HashMap<ScramCredentialId, &OwnedRow<ScramCredentialRow>> = stored
        .credentials
        .iter()
        .map(|owned| (owned.row.id(), owned))
        .collect();
    let mut wanted = HashSet::new();
    for row in &user.credentials {
        let id = row.id();
        let row = OwnedRow::new(owner, row.clone());
        if existing.get(&id) != Some(&&row) {
            delta.stored_credentials.push(row);
        }
        if !wanted.insert(id) {
            return Err(Error::InvalidSecurityChange(format!(
                "a credential of user {:?} is named twice",
                user.user_name
            )));
        }
    }
    let gone = existing.into_keys().filter(|id| !wanted.contains(id));
    delta.deleted_credentials = gone.collect::<BTreeSet<_>>().into_iter().collect();
    Ok(())
}

fn plan_user_acls(owner: &str, user: &UserRows, stored: &StoredSecurity, delta: &mut SecurityDelta) {
    let wanted: BTreeSet<&AclRow> = user.acls.iter().collect();
    let existing: HashSet<&AclRow> = stored.acls.iter().map(|owned| &owned.row).collect();
    let new = wanted.iter().filter(|row| !existing.contains(*row));
    delta.stored_acls = new.map(|row| OwnedRow::new(owner, AclRow::clone(row))).collect();
    let gone = stored.acls.iter().filter(|owned| !wanted.contains(&owned.row));
    delta.deleted_acls = gone.cloned().collect();
}

fn plan_user_quotas(
    owner: &str,
    user: &UserRows,
    unowned: UnownedRows,
    stored: &StoredSecurity,
    delta: &mut SecurityDelta,
) -> Result<()> {
    let existing: HashMap<&ClientQuotaId, &OwnedRow<ClientQuotaRow>> =
        stored.quotas.iter().map(|owned| (&owned.row.id, owned)).collect();
    let mut wanted = HashSet::new();
    for row in &user.quotas {
        if !wanted.insert(&row.id) {
            let message = format!("the quota {} is named twice for one entity", row.id.key);
            return Err(Error::InvalidSecurityChange(message));
        }
        let found = existing.get(&row.id);
        if let Some(found) = found {
            check_ownership(owner, &found.owner, unowned, || {
                format!("the quota {} of user {:?}", row.id.key, user.user_name)
            })?;
        }
        let row = OwnedRow::new(owner, row.clone());
        if found != Some(&&row) {
            delta.stored_quotas.push(row);
        }
    }
    let gone = stored
        .quotas
        .iter()
        .filter(|owned| owned.owner == owner && !wanted.contains(&owned.row.id));
    delta.deleted_quotas = gone.map(|owned| owned.row.id.clone()).collect();
    Ok(())
}

/// Plans that an owner goes with everything that it has; `stored` has its rows.
pub(crate) fn plan_user_deletion(stored: StoredSecurity) -> SecurityDelta {
    SecurityDelta {
        released_users: stored.user_owners.into_keys().collect(),
        deleted_credentials: stored.credentials.iter().map(|owned| owned.row.id()).collect(),
        deleted_acls: stored.acls,
        deleted_quotas: stored.quotas.into_iter().map(|owned| owned.row.id).collect(),
        ..SecurityDelta::default()
    }
}
