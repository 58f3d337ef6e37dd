//! Tests of the plans. The scenarios of `conformance/users.rs` are the tests of the rules; here are
//! the properties of every plan, whatever is stored and wanted. `tests/security_model.rs` compares
//! the stores with [`SecurityTablesModel`].

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use streamhouse_core::security::QuotaName;

use super::*;
use crate::{UnownedRows, UserRows};

const OWNERS: [&str; 3] = [BY_HAND, "k8s:a/x", "k8s:b/y"];
const USERS: [&str; 2] = ["alice", "bob"];
const MECHANISMS: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];

fn credential(user: usize, mechanism: usize, byte: u8) -> ScramCredentialRow {
    ScramCredentialRow {
        user_name: USERS[user].to_owned(),
        mechanism: MECHANISMS[mechanism].to_owned(),
        salt: vec![byte],
        iterations: 4096,
        stored_key: vec![byte; 32],
        server_key: vec![byte; 32],
    }
}

fn acl(name: u8) -> AclRow {
    let text = |word: &str| word.to_owned();
    AclRow {
        principal: text("User:alice"),
        resource_type: text("TOPIC"),
        resource_name: format!("topic-{name}"),
        pattern_type: text("LITERAL"),
        host: text("*"),
        operation: text("READ"),
        permission: text("ALLOW"),
    }
}

fn quota(user: usize, value: u8) -> ClientQuotaRow {
    ClientQuotaRow {
        id: ClientQuotaId {
            user_name: Some(QuotaName::Named(USERS[user].to_owned())),
            client_id: None,
            ip: None,
            key: "request_percentage".to_owned(),
        },
        value: f64::from(value),
    }
}

/// The tables as a store has them after it wrote plans.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SecurityTablesModel {
    user_owners: BTreeMap<String, String>,
    credentials: BTreeMap<ScramCredentialId, OwnedRow<ScramCredentialRow>>,
    acls: BTreeSet<OwnedRow<AclRow>>,
    quotas: BTreeMap<ClientQuotaId, OwnedRow<ClientQuotaRow>>,
}

impl SecurityTablesModel {
    /// Writes a plan as a store does. A row that is deleted must exist, and one that is stored must
    /// differ from what is there.
    pub(crate) fn write(&mut self, delta: &SecurityDelta) {
        for name in &delta.released_users {
            assert!(self.user_owners.remove(name).is_some());
        }
        if let Some(claim) = &delta.claimed_user {
            let before = self.user_owners.insert(claim.row.clone(), claim.owner.clone());
            assert_eq!(before, None);
        }
        for id in &delta.deleted_credentials {
            assert!(self.credentials.remove(id).is_some());
        }
        for owned in &delta.stored_credentials {
            let before = self.credentials.insert(owned.row.id(), owned.clone());
            assert_ne!(before.as_ref(), Some(owned));
        }
        for owned in &delta.deleted_acls {
            assert!(self.acls.remove(owned));
        }
        for owned in &delta.stored_acls {
            assert!(self.acls.insert(owned.clone()));
        }
        for id in &delta.deleted_quotas {
            assert!(self.quotas.remove(id).is_some());
        }
        for owned in &delta.stored_quotas {
            let before = self.quotas.insert(owned.row.id.clone(), owned.clone());
            assert_ne!(before.as_ref(), Some(owned));
        }
        self.check();
    }

    /// Checks what always holds: the credentials of a user have the user's owner, and an owner of
    /// anything has a user, and only one.
    fn check(&self) {
        for owned in self.credentials.values() {
            let owner = self.user_owners.get(&owned.row.user_name);
            assert_eq!(owner.map_or(BY_HAND, String::as_str), owned.owner);
        }
        let owners: BTreeSet<&String> = self.user_owners.values().collect();
        assert_eq!(owners.len(), self.user_owners.len());
        let acl_owners = self.acls.iter().map(|owned| &owned.owner);
        let mut others = acl_owners.chain(self.quotas.values().map(|owned| &owned.owner));
        assert!(others.all(|owner| owner == BY_HAND || owners.contains(owner)));
    }

    pub(crate) fn stored(&self) -> StoredSecurity {
        StoredSecurity {
            user_owners: self.user_owners.clone(),
            credentials: self.credentials.values().cloned().collect(),
            acls: self.acls.iter().cloned().collect(),
            quotas: self.quotas.values().cloned().collect(),
        }
    }

    fn users_named(&self, names: &[String]) -> StoredSecurity {
        let mut stored = self.stored();
        stored.user_owners.retain(|name, _| names.contains(name));
        stored
            .credentials
            .retain(|owned| names.contains(&owned.row.user_name));
        stored
    }

    fn rows_of_owner(&self, owner: &str) -> StoredSecurity {
        let mut stored = self.stored();
        stored.user_owners.retain(|_, other| other == owner);
        stored.credentials.retain(|owned| owned.owner == owner);
        stored.acls.retain(|owned| owned.owner == owner);
        stored.quotas.retain(|owned| owned.owner == owner);
        stored
    }

    fn rows_of_user(&self, owner: &str, user: &UserRows) -> StoredSecurity {
        let of_user = self.users_named(std::slice::from_ref(&user.user_name));
        let named = user
            .quotas
            .iter()
            .filter_map(|quota| self.quotas.get(&quota.id).cloned());
        self.rows_of_owner(owner)
            .with_rows_of_others(owner, of_user, named.collect())
    }

    fn copies_of_acls(&self, rows: &[AclRow]) -> Vec<OwnedRow<AclRow>> {
        let copies = self.acls.iter().filter(|owned| rows.contains(&owned.row));
        copies.cloned().collect()
    }

    fn quotas_named(&self, ids: &[ClientQuotaId]) -> Vec<OwnedRow<ClientQuotaRow>> {
        let named = self.quotas.iter().filter(|(id, _)| ids.contains(id));
        named.map(|(_, owned)| owned.clone()).collect()
    }
}

/// A call that changes something.
#[derive(Debug, Clone)]
pub(crate) enum SecurityChange {
    Scram(ScramAlteration),
    CreateAcls(Vec<AclRow>),
    DeleteAcls(Vec<AclRow>),
    Quotas(QuotaAlteration),
    Apply {
        owner: &'static str,
        user: UserRows,
        unowned: UnownedRows,
    },
    Delete(&'static str),
}

fn credentials() -> impl Strategy<Value = Vec<ScramCredentialRow>> {
    prop::collection::vec(
        (0..2_usize, 0..2_usize, 0..2_u8)
            .prop_map(|(user, mechanism, byte)| credential(user, mechanism, byte)),
        0..3,
    )
}

fn acls() -> impl Strategy<Value = Vec<AclRow>> {
    prop::collection::vec((0..3_u8).prop_map(acl), 0..4)
}

fn quotas() -> impl Strategy<Value = Vec<ClientQuotaRow>> {
    prop::collection::vec(
        (0..2_usize, 0..2_u8).prop_map(|(user, value)| quota(user, value)),
        0..2,
    )
}

fn applied_user() -> impl Strategy<Value = UserRows> {
    (0..2_usize, credentials(), acls(), quotas()).prop_map(|(user, mut credentials, acls, quotas)| {
        let user_name = USERS[user].to_owned();
        for row in &mut credentials {
            row.user_name.clone_from(&user_name);
        }
        UserRows {
            user_name,
            credentials,
            acls,
            quotas,
        }
    })
}

pub(crate) fn change() -> impl Strategy<Value = SecurityChange> {
    let unowned = prop_oneof![Just(UnownedRows::Adopt), Just(UnownedRows::Refuse)];
    prop_oneof![
        3 => (credentials(), credentials()).prop_map(|(upserts, deletions)| SecurityChange::Scram(ScramAlteration {
            upserts,
            deletions: deletions.iter().map(ScramCredentialRow::id).collect(),
        })),
        2 => acls().prop_map(SecurityChange::CreateAcls),
        1 => acls().prop_map(SecurityChange::DeleteAcls),
        2 => (quotas(), quotas()).prop_map(|(upserts, removals)| SecurityChange::Quotas(QuotaAlteration {
            upserts,
            removals: removals.into_iter().map(|row| row.id).collect(),
        })),
        5 => (1..3_usize, applied_user(), unowned)
            .prop_map(|(owner, user, unowned)| SecurityChange::Apply { owner: OWNERS[owner], user, unowned }),
        1 => (1..3_usize).prop_map(|owner| SecurityChange::Delete(OWNERS[owner])),
    ]
}

/// Returns the answer to a change, as text, and its plan.
pub(crate) fn plan(tables: &SecurityTablesModel, change: &SecurityChange) -> Result<(String, SecurityDelta)> {
    let (answer, delta) = match change {
        SecurityChange::Scram(alteration) => {
            let stored = tables.users_named(&alteration.user_names());
            let (outcomes, delta) = plan_scram_alteration(alteration, &stored);
            (format!("{outcomes:?}"), delta)
        }
        SecurityChange::CreateAcls(rows) => {
            let (created, delta) = plan_acl_creation(rows, &tables.copies_of_acls(rows));
            (format!("{created:?}"), delta)
        }
        SecurityChange::DeleteAcls(rows) => {
            let (existed, delta) = plan_acl_deletion(rows, tables.copies_of_acls(rows));
            (format!("{existed:?}"), delta)
        }
        SecurityChange::Quotas(alteration) => {
            let stored = tables.quotas_named(&alteration.ids());
            ("()".to_owned(), plan_quota_alteration(alteration, &stored)?)
        }
        SecurityChange::Apply { owner, user, unowned } => {
            let delta = plan_user(owner, user, *unowned, &tables.rows_of_user(owner, user))?;
            (format!("{:?}", !delta.is_empty()), delta)
        }
        SecurityChange::Delete(owner) => {
            let delta = plan_user_deletion(tables.rows_of_owner(owner));
            (format!("{:?}", !delta.is_empty()), delta)
        }
    };
    Ok((answer, delta))
}

/// Checks what the callers of a change rely on.
fn check_effect(before: &SecurityTablesModel, after: &SecurityTablesModel, change: &SecurityChange) {
    match change {
        SecurityChange::Apply { owner, user, .. } => {
            let mut expected = user.clone();
            expected.credentials.sort();
            expected.acls.sort();
            expected.acls.dedup();
            let users = after.stored().into_users();
            assert_eq!(users.get(*owner), Some(&expected));
            for other in OWNERS
                .iter()
                .filter(|other| *other != owner && **other != BY_HAND)
            {
                assert_eq!(after.rows_of_owner(other), before.rows_of_owner(other));
            }
        }
        SecurityChange::Delete(owner) => {
            assert_eq!(after.rows_of_owner(owner), StoredSecurity::default());
            for other in OWNERS.iter().filter(|other| *other != owner) {
                assert_eq!(after.rows_of_owner(other), before.rows_of_owner(other));
            }
        }
        SecurityChange::DeleteAcls(rows) => assert_eq!(after.copies_of_acls(rows), []),
        SecurityChange::CreateAcls(rows) => {
            let seen = after.stored().into_snapshot(0).acls;
            assert!(rows.iter().all(|row| seen.contains(row)));
        }
        SecurityChange::Quotas(_) | SecurityChange::Scram(_) => assert_eq!(after.acls, before.acls),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_has_the_difference_and_keeps_the_tables_consistent(
        changes in prop::collection::vec(change(), 1..25),
    ) {
        let mut tables = SecurityTablesModel::default();
        for change in &changes {
            let before = tables.clone();
            let Ok((_, delta)) = plan(&tables, change) else { continue };
            tables.write(&delta);
            check_effect(&before, &tables, change);
            prop_assert_eq!(delta.is_empty(), before == tables);
            let in_force = |tables: &SecurityTablesModel| tables.stored().into_snapshot(0);
            prop_assert!(delta.changes_snapshot() || in_force(&before) == in_force(&tables));
            // Repeated, it changes nothing. (A deletion of credentials is refused.)
            if let Ok((_, again)) = plan(&tables, change) && !matches!(change, SecurityChange::Scram(_)) {
                prop_assert!(again.is_empty(), "{:?}", again);
            }
        }
    }
}

#[test]
fn only_tables_that_grow_are_counted() {
    assert_eq!(SecurityDelta::default().growing_tables(), []);
    let delta = SecurityDelta {
        deleted_acls: vec![OwnedRow::new(BY_HAND, acl(0))],
        stored_quotas: vec![OwnedRow::new(BY_HAND, quota(0, 1))],
        ..SecurityDelta::default()
    };
    assert_eq!(delta.growing_tables(), [SecurityTable::ClientQuotas]);
    check_row_count(SecurityTable::Acls, 100_000).unwrap();
    let refused = check_row_count(SecurityTable::Acls, 100_001).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there would be 100001 ACLs, but at most 100000 are possible: delete some first"
    );
    assert!(matches!(refused, Error::SecurityLimit(_)));
}
