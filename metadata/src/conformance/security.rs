//! Credentials, access control lists and quotas: by hand, and as agents load them.

use std::collections::BTreeMap;

use streamhouse_core::security::QuotaName;

use super::{fixture::SharedStore, fixture::snapshot, races::run_concurrently};
use crate::{
    AclRow, ClientQuotaId, ClientQuotaRow, Error, MAX_SECURITY_CHANGES, QuotaAlteration, ScramAlteration,
    ScramAlterationOutcome, ScramCredentialId, ScramCredentialRow, SecuritySnapshot, UnownedRows, UserRows,
};

pub const SHA_256: &str = "SCRAM-SHA-256";
pub const SHA_512: &str = "SCRAM-SHA-512";

/// Returns a credential whose salt and keys are made of `byte`.
pub fn credential(user_name: &str, mechanism: &str, byte: u8) -> ScramCredentialRow {
    let length = if mechanism == SHA_256 { 32 } else { 64 };
    ScramCredentialRow {
        user_name: user_name.to_owned(),
        mechanism: mechanism.to_owned(),
        salt: vec![byte; 16],
        iterations: 4096,
        stored_key: vec![byte; length],
        server_key: vec![byte ^ 0xff; length],
    }
}

pub fn credential_id(user_name: &str, mechanism: &str) -> ScramCredentialId {
    credential(user_name, mechanism, 0).id()
}

/// Returns an entry that allows a user to read a topic.
pub fn acl(user_name: &str, topic: &str) -> AclRow {
    AclRow {
        principal: format!("User:{user_name}"),
        resource_type: "TOPIC".to_owned(),
        resource_name: topic.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: "READ".to_owned(),
        permission: "ALLOW".to_owned(),
    }
}

pub fn named(name: &str) -> Option<QuotaName> {
    Some(QuotaName::Named(name.to_owned()))
}

pub fn quota_id(user_name: Option<QuotaName>, client_id: Option<QuotaName>) -> ClientQuotaId {
    ClientQuotaId {
        user_name,
        client_id,
        ip: None,
        key: "producer_byte_rate".to_owned(),
    }
}

/// Returns a quota of a user.
pub fn quota(user_name: &str, value: f64) -> ClientQuotaRow {
    ClientQuotaRow {
        id: quota_id(named(user_name), None),
        value,
    }
}

pub async fn load(store: &SharedStore) -> SecuritySnapshot {
    store.load_security().await.unwrap()
}

/// Runs a change and returns its answer; `bumps` tells how far both versions must rise.
pub async fn with_versions<T>(store: &SharedStore, bumps: u8, change: impl Future<Output = T>) -> T {
    let before = snapshot(store).await;
    assert_eq!(load(store).await.version, before.security_version);
    let answer = change.await;
    let after = snapshot(store).await;
    assert_eq!(after.security_version, before.security_version + i64::from(bumps));
    assert_eq!(
        after.version,
        before.version + u64::from(bumps),
        "agents notice exactly the changes"
    );
    assert_eq!(load(store).await.version, after.security_version);
    answer
}

pub async fn put_credentials(store: &SharedStore, rows: &[ScramCredentialRow]) {
    let alteration = ScramAlteration {
        upserts: rows.to_vec(),
        deletions: Vec::new(),
    };
    store.alter_scram_credentials(&alteration).await.unwrap();
}

fn assert_invalid(result: crate::Result<impl std::fmt::Debug>) {
    match result {
        Err(error @ Error::InvalidSecurityChange(_)) => {
            assert!(!error.to_string().contains("161"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

pub async fn nobody_may_do_anything_at_first(store: &SharedStore) {
    assert_eq!(load(store).await, SecuritySnapshot::default());
    assert_eq!(snapshot(store).await.security_version, 0);
    assert_eq!(store.list_owned_users("").await.unwrap(), BTreeMap::new());
}

pub async fn credentials_are_stored_changed_and_deleted(store: &SharedStore) {
    let rows = [
        credential("alice", SHA_256, 1),
        credential("alice", SHA_512, 2),
        credential("bob", SHA_256, 3),
    ];
    let all = ScramAlteration {
        upserts: vec![rows[2].clone(), rows[1].clone(), rows[0].clone()],
        deletions: Vec::new(),
    };
    for bumps in [1, 0] {
        let outcomes = with_versions(store, bumps, store.alter_scram_credentials(&all)).await;
        let altered = |name: &str| (name.to_owned(), ScramAlterationOutcome::Altered);
        assert_eq!(outcomes.unwrap(), [altered("alice"), altered("bob")].into());
        assert_eq!(load(store).await.credentials, rows);
    }
    let changed = ScramCredentialRow {
        iterations: 8192,
        ..credential("alice", SHA_256, 9)
    };
    let change = ScramAlteration {
        upserts: vec![changed.clone(), rows[2].clone()],
        deletions: vec![rows[1].id()],
    };
    with_versions(store, 1, store.alter_scram_credentials(&change))
        .await
        .unwrap();
    assert_eq!(load(store).await.credentials, [changed, rows[2].clone()]);
}

pub async fn a_user_is_altered_as_a_whole_or_not_at_all(store: &SharedStore) {
    let (alice, bob) = (credential("alice", SHA_256, 1), credential("bob", SHA_256, 2));
    put_credentials(store, &[alice.clone(), bob.clone()]).await;
    let carol = credential("carol", SHA_512, 3);
    let change = ScramAlteration {
        upserts: vec![
            credential("alice", SHA_256, 7),
            credential("bob", SHA_512, 7),
            carol.clone(),
            credential("dave", SHA_256, 7),
            credential("dave", SHA_256, 8),
        ],
        deletions: vec![
            credential_id("alice", SHA_512),
            credential_id("bob", SHA_512),
            credential_id("nobody", SHA_256),
        ],
    };
    let outcomes = with_versions(store, 1, store.alter_scram_credentials(&change)).await;
    let expected = [
        ("alice", ScramAlterationOutcome::UnknownCredential),
        ("bob", ScramAlterationOutcome::Duplicate),
        ("carol", ScramAlterationOutcome::Altered),
        ("dave", ScramAlterationOutcome::Duplicate),
        ("nobody", ScramAlterationOutcome::UnknownCredential),
    ];
    assert_eq!(
        outcomes.unwrap(),
        expected.map(|(name, outcome)| (name.to_owned(), outcome)).into()
    );
    assert_eq!(load(store).await.credentials, [alice, bob, carol]);
    let unknown = ScramAlteration {
        upserts: Vec::new(),
        deletions: vec![credential_id("alice", SHA_512)],
    };
    with_versions(store, 0, store.alter_scram_credentials(&unknown))
        .await
        .unwrap();
}

pub async fn acls_are_created_once_and_deleted_exactly(store: &SharedStore) {
    let mut rows = vec![acl("alice", "orders"), acl("alice", "payments")];
    // Each field is part of what an entry is.
    type Field = fn(&mut AclRow) -> &mut String;
    let fields: [Field; 7] = [
        |row| &mut row.principal,
        |row| &mut row.resource_type,
        |row| &mut row.resource_name,
        |row| &mut row.pattern_type,
        |row| &mut row.host,
        |row| &mut row.operation,
        |row| &mut row.permission,
    ];
    for field in fields {
        let mut other = rows[0].clone();
        field(&mut other).push('X');
        rows.push(other);
    }
    let created = with_versions(store, 1, store.create_acls(&rows)).await.unwrap();
    assert_eq!(created, [true; 9]);
    let again = [rows[3].clone(), acl("bob", "orders"), acl("bob", "orders")];
    let created = with_versions(store, 1, store.create_acls(&again)).await.unwrap();
    assert_eq!(created, [false, true, false]);
    assert_eq!(
        with_versions(store, 0, store.create_acls(&rows)).await.unwrap(),
        [false; 9]
    );
    let mut sorted = [rows.clone(), vec![acl("bob", "orders")]].concat();
    sorted.sort();
    assert_eq!(load(store).await.acls, sorted);
    let gone = [
        rows[0].clone(),
        acl("carol", "orders"),
        rows[1].clone(),
        rows[0].clone(),
    ];
    let existed = with_versions(store, 1, store.delete_acls(&gone)).await.unwrap();
    assert_eq!(existed, [true, false, true, true]);
    let existed = with_versions(store, 0, store.delete_acls(&gone)).await.unwrap();
    assert_eq!(existed, [false; 4]);
    sorted.retain(|row| !gone.contains(row));
    assert_eq!(load(store).await.acls, sorted);
    assert_eq!(sorted.len(), 8);
    let none = with_versions(store, 0, store.create_acls(&[])).await.unwrap();
    assert_eq!(none, [false; 0]);
}

/// None, the default, an empty name, and names that look like either.
pub async fn quotas_tell_a_default_from_a_name_and_from_nothing(store: &SharedStore) {
    let parts = [
        None,
        Some(QuotaName::Default),
        named(""),
        named("*"),
        named("<default>"),
        named("="),
        named("alice"),
    ];
    let mut upserts = Vec::new();
    for user_name in &parts {
        for client_id in &parts {
            upserts.push(ClientQuotaRow {
                id: quota_id(user_name.clone(), client_id.clone()),
                value: 0.1 + f64::from(u32::try_from(upserts.len()).unwrap()),
            });
        }
    }
    upserts.remove(0);
    let ip = ClientQuotaId {
        ip: Some(QuotaName::Default),
        key: "connection_creation_rate".to_owned(),
        ..quota_id(None, None)
    };
    upserts.push(ClientQuotaRow {
        id: ip.clone(),
        value: f64::MAX,
    });
    let all = QuotaAlteration {
        upserts: upserts.clone(),
        removals: Vec::new(),
    };
    for bumps in [1, 0] {
        with_versions(store, bumps, store.alter_client_quotas(&all))
            .await
            .unwrap();
    }
    upserts.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(load(store).await.quotas, upserts);
    let change = QuotaAlteration {
        upserts: vec![quota("alice", 1e-300)],
        removals: vec![ip.clone(), quota_id(named("nobody"), None)],
    };
    with_versions(store, 1, store.alter_client_quotas(&change))
        .await
        .unwrap();
    upserts.retain(|row| row.id != ip);
    for row in &mut upserts {
        if row.id == quota_id(named("alice"), None) {
            row.value = 1e-300;
        }
    }
    assert_eq!(load(store).await.quotas, upserts);
    let absent = QuotaAlteration {
        upserts: Vec::new(),
        removals: vec![ip],
    };
    with_versions(store, 0, store.alter_client_quotas(&absent))
        .await
        .unwrap();
}

pub async fn malformed_rows_change_nothing(store: &SharedStore) {
    let right = credential("alice", SHA_256, 161);
    let wrong = |change: fn(&mut ScramCredentialRow)| {
        let mut row = right.clone();
        change(&mut row);
        row
    };
    for row in [
        wrong(|row| row.user_name.clear()),
        wrong(|row| row.user_name = "x".repeat(256)),
        wrong(|row| row.user_name.push('\0')),
        wrong(|row| row.mechanism.clear()),
        wrong(|row| row.salt.clear()),
        wrong(|row| row.iterations = 0),
        wrong(|row| row.stored_key.truncate(31)),
        wrong(|row| row.server_key.clear()),
    ] {
        let upserts = vec![right.clone(), row];
        let alteration = ScramAlteration {
            upserts,
            deletions: Vec::new(),
        };
        assert_invalid(store.alter_scram_credentials(&alteration).await);
    }
    let nameless = ScramAlteration {
        upserts: Vec::new(),
        deletions: vec![credential_id("", SHA_256)],
    };
    assert_invalid(store.alter_scram_credentials(&nameless).await);
    for row in [
        acl("alice", ""),
        acl("alice", &"x".repeat(256)),
        acl(&"x".repeat(300), "orders"),
        acl("alice", "or\0ders"),
        AclRow {
            operation: String::new(),
            ..acl("alice", "orders")
        },
    ] {
        let rows = [acl("alice", "orders"), row];
        assert_invalid(store.create_acls(&rows).await);
        assert_invalid(store.delete_acls(&rows).await);
    }
    let quotas = [
        quota("alice", f64::NAN),
        quota("alice", f64::INFINITY),
        quota(&"x".repeat(256), 1.0),
        ClientQuotaRow {
            id: quota_id(None, None),
            value: 1.0,
        },
    ];
    for row in quotas {
        let upserts = vec![quota("bob", 1.0), row];
        let alteration = QuotaAlteration {
            upserts,
            removals: Vec::new(),
        };
        assert_invalid(store.alter_client_quotas(&alteration).await);
    }
    let twice = QuotaAlteration {
        upserts: vec![quota("alice", 1.0)],
        removals: vec![quota_id(named("alice"), None)],
    };
    assert_invalid(store.alter_client_quotas(&twice).await);
    assert_eq!(load(store).await, SecuritySnapshot::default());
}

pub async fn the_longest_names_are_stored(store: &SharedStore) {
    // Incompressible, since long keys of an index are compressed.
    let name: String = (0_u32..85)
        .filter_map(|n| char::from_u32(0x800 + n * 97))
        .collect();
    assert_eq!(name.len(), 255);
    put_credentials(store, &[credential(&name, SHA_512, 1)]).await;
    let row = AclRow {
        host: name.clone(),
        ..acl(&name, &name)
    };
    store.create_acls(std::slice::from_ref(&row)).await.unwrap();
    let quota = ClientQuotaRow {
        id: ClientQuotaId {
            ip: named(&name),
            ..quota_id(named(&name), named(&name))
        },
        value: 1.0,
    };
    let alteration = QuotaAlteration {
        upserts: vec![quota.clone()],
        removals: Vec::new(),
    };
    store.alter_client_quotas(&alteration).await.unwrap();
    let seen = load(store).await;
    assert_eq!((seen.acls, seen.quotas), (vec![row], vec![quota]));
    assert_eq!(seen.credentials[0].user_name, name);
}

pub async fn one_call_changes_a_bounded_number_of_rows(store: &SharedStore) {
    let rows: Vec<AclRow> = (0..=MAX_SECURITY_CHANGES)
        .map(|n| acl(&format!("user-{n}"), "orders"))
        .collect();
    assert_invalid(store.create_acls(&rows).await);
    let most = &rows[1..];
    let created = with_versions(store, 1, store.create_acls(most)).await.unwrap();
    assert!(created.iter().all(|created| *created));
    assert_eq!(load(store).await.acls.len(), MAX_SECURITY_CHANGES);
    let deleted = with_versions(store, 1, store.delete_acls(most)).await.unwrap();
    assert!(deleted.iter().all(|deleted| *deleted));
    assert_eq!(load(store).await.acls, []);
}

pub async fn racing_changes_each_raise_the_version_once(store: &SharedStore) {
    const TASKS: usize = 6;
    const CHANGES: usize = 8;
    let before = snapshot(store).await;
    run_concurrently(TASKS, |n, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            for change in 0..CHANGES {
                let name = format!("user-{n}-{change}");
                match n % 3 {
                    0 => put_credentials(&store, &[credential(&name, SHA_256, 1)]).await,
                    1 => assert_eq!(store.create_acls(&[acl(&name, "orders")]).await.unwrap(), [true]),
                    _ => {
                        let alteration = QuotaAlteration {
                            upserts: vec![quota(&name, 1.0)],
                            removals: Vec::new(),
                        };
                        store.alter_client_quotas(&alteration).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    let (seen, after) = (load(store).await, snapshot(store).await);
    let each = TASKS * CHANGES / 3;
    assert_eq!(
        (seen.credentials.len(), seen.acls.len(), seen.quotas.len()),
        (each, each, each)
    );
    assert_eq!(
        seen.version,
        before.security_version + i64::try_from(TASKS * CHANGES).unwrap()
    );
    assert_eq!(after.security_version, seen.version);
    assert_eq!(after.version, before.version + (TASKS * CHANGES) as u64);
}

/// Of several that create or delete the same row, one does it.
pub async fn racing_changes_of_one_row_have_one_winner(store: &SharedStore) {
    let row = acl("alice", "orders");
    for round in 1..=4_i64 {
        for create in [true, false] {
            let changed = run_concurrently(4, |_, barrier| {
                let (store, rows) = (store.clone(), [row.clone()]);
                async move {
                    barrier.wait().await;
                    match create {
                        true => store.create_acls(&rows).await.unwrap()[0],
                        false => store.delete_acls(&rows).await.unwrap()[0],
                    }
                }
            })
            .await;
            assert_eq!(changed.iter().filter(|changed| **changed).count(), 1);
        }
        assert_eq!(load(store).await.version, 2 * round);
    }
}

/// Every change replaces all three tables' rows by those of one number: a reader never sees two.
pub async fn a_snapshot_is_of_one_moment(store: &SharedStore) {
    const CHANGES: u8 = 30;
    let rows = |n: u8| UserRows {
        user_name: "alice".to_owned(),
        credentials: vec![credential("alice", SHA_256, n), credential("alice", SHA_512, n)],
        acls: vec![acl("alice", &format!("a-{n}")), acl("alice", &format!("b-{n}"))],
        quotas: vec![quota("alice", f64::from(n))],
    };
    run_concurrently(4, |task, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            if task == 0 {
                for n in 1..=CHANGES {
                    let user = rows(n);
                    let applied = store.apply_user("test:alice", &user, UnownedRows::Refuse);
                    assert!(applied.await.unwrap());
                }
                return;
            }
            loop {
                let seen = load(&store).await;
                let n = u8::try_from(seen.version).unwrap();
                if n > 0 {
                    let expected = rows(n);
                    assert_eq!(seen.credentials, expected.credentials);
                    assert_eq!(seen.acls, expected.acls);
                    assert_eq!(seen.quotas, expected.quotas);
                }
                if n == CHANGES {
                    return;
                }
            }
        }
    })
    .await;
}
