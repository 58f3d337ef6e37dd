//! Users that a resource manages: its rows, those of others, and those made by hand.

use std::collections::BTreeMap;

use super::{
    fixture::SharedStore,
    races::run_concurrently,
    security::{
        SHA_256, SHA_512, acl, credential, credential_id, load, named, put_credentials, quota, quota_id,
        with_versions,
    },
};
use crate::{
    AclRow, ClientQuotaRow, Error, QuotaAlteration, ScramAlteration, ScramCredentialRow, SecuritySnapshot,
    UnownedRows, UserRows,
};

const ALICE: &str = "k8s:default/alice";
const OTHER: &str = "k8s:other/alice";

/// Returns a user with a credential, two entries and a quota, all made of `byte`.
fn user(user_name: &str, byte: u8) -> UserRows {
    UserRows {
        user_name: user_name.to_owned(),
        credentials: vec![credential(user_name, SHA_256, byte)],
        acls: vec![acl(user_name, "orders"), acl(user_name, &format!("topic-{byte}"))],
        quotas: vec![quota(user_name, f64::from(byte))],
    }
}

/// Returns a user that has nothing but its name.
fn bare_user(user_name: &str) -> UserRows {
    UserRows {
        user_name: user_name.to_owned(),
        ..UserRows::default()
    }
}

async fn apply(store: &SharedStore, owner: &str, user: &UserRows) -> crate::Result<bool> {
    store.apply_user(owner, user, UnownedRows::Refuse).await
}

async fn adopt(store: &SharedStore, owner: &str, user: &UserRows) -> crate::Result<bool> {
    store.apply_user(owner, user, UnownedRows::Adopt).await
}

async fn owned(store: &SharedStore, prefix: &str) -> BTreeMap<String, UserRows> {
    store.list_owned_users(prefix).await.unwrap()
}

fn assert_conflict(result: crate::Result<bool>, found: &str) {
    match result {
        Err(Error::OwnerConflict { owner, what }) => assert_eq!(owner, found, "{what}"),
        other => panic!("{other:?}"),
    }
}

fn in_force(users: &[&UserRows]) -> SecuritySnapshot {
    let mut rows = SecuritySnapshot::default();
    for user in users {
        rows.credentials.extend(user.credentials.clone());
        rows.acls.extend(user.acls.clone());
        rows.quotas.extend(user.quotas.clone());
    }
    rows.credentials.sort();
    rows.acls.sort();
    rows.acls.dedup();
    rows.quotas.sort_by(|one, other| one.id.cmp(&other.id));
    rows
}

async fn assert_in_force(store: &SharedStore, users: &[&UserRows]) {
    let seen = load(store).await;
    let version = seen.version;
    assert_eq!(
        seen,
        SecuritySnapshot {
            version,
            ..in_force(users)
        }
    );
}

pub async fn an_owner_has_exactly_the_rows_that_it_applied_last(store: &SharedStore) {
    let (first, mut second) = (user("alice", 1), user("alice", 2));
    let bob = user("bob", 7);
    assert!(
        with_versions(store, 1, apply(store, ALICE, &first))
            .await
            .unwrap()
    );
    assert!(
        with_versions(store, 1, apply(store, "k8s:default/bob", &bob))
            .await
            .unwrap()
    );
    assert!(
        !with_versions(store, 0, apply(store, ALICE, &first))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&first, &bob]).await;

    second.credentials = vec![credential("alice", SHA_512, 2)];
    second.quotas[0].id.key = "consumer_byte_rate".to_owned();
    assert!(
        with_versions(store, 1, apply(store, ALICE, &second))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&second, &bob]).await;
    assert_eq!(
        owned(store, "k8s:default/").await,
        [
            (ALICE.to_owned(), second.clone()),
            ("k8s:default/bob".to_owned(), bob.clone())
        ]
        .into()
    );

    assert!(with_versions(store, 1, store.delete_user(ALICE)).await.unwrap());
    assert!(!with_versions(store, 0, store.delete_user(ALICE)).await.unwrap());
    assert_in_force(store, &[&bob]).await;
    assert!(
        with_versions(store, 1, apply(store, OTHER, &first))
            .await
            .unwrap(),
        "the name is free"
    );
}

/// A user of another means of authentication has a name that nobody else can take, too.
pub async fn a_user_has_one_owner(store: &SharedStore) {
    apply(store, ALICE, &user("alice", 1)).await.unwrap();
    let bare = bare_user("bob");
    assert!(
        with_versions(store, 0, apply(store, "k8s:default/bob", &bare))
            .await
            .unwrap()
    );
    assert!(!apply(store, "k8s:default/bob", &bare).await.unwrap());
    let before = load(store).await;
    for how in [UnownedRows::Refuse, UnownedRows::Adopt] {
        let refused = store.apply_user(OTHER, &user("alice", 2), how).await;
        let text = refused.as_ref().unwrap_err().to_string();
        assert!(
            text.contains("user \"alice\" is managed by k8s:default/alice"),
            "{text}"
        );
        assert_conflict(refused, ALICE);
        assert_conflict(
            store.apply_user(OTHER, &user("bob", 2), how).await,
            "k8s:default/bob",
        );
    }
    assert_eq!(load(store).await, before);
    assert!(store.delete_user("k8s:default/bob").await.unwrap());
    apply(store, OTHER, &bare).await.unwrap();
}

pub async fn an_owner_that_renames_its_user_frees_the_old_name(store: &SharedStore) {
    apply(store, ALICE, &user("alice", 1)).await.unwrap();
    let renamed = user("alicia", 1);
    assert!(
        with_versions(store, 1, apply(store, ALICE, &renamed))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&renamed]).await;
    assert_eq!(
        owned(store, "").await,
        [(ALICE.to_owned(), renamed.clone())].into()
    );
    apply(store, OTHER, &user("alice", 2)).await.unwrap();
    // Back it cannot go.
    assert_conflict(apply(store, ALICE, &user("alice", 1)).await, OTHER);
    assert_in_force(store, &[&renamed, &user("alice", 2)]).await;
}

pub async fn rows_made_by_hand_are_adopted_only_on_demand(store: &SharedStore) {
    let by_hand = [credential("alice", SHA_256, 1), credential("alice", SHA_512, 1)];
    put_credentials(store, &by_hand).await;
    let wanted = user("alice", 2);
    // Also a user without a password would take over the name.
    for user in [&wanted, &bare_user("alice")] {
        let refused = apply(store, ALICE, user).await;
        let text = refused.as_ref().unwrap_err().to_string();
        assert!(text.contains("user \"alice\" was made by hand"), "{text}");
        assert_conflict(refused, "");
    }
    assert_eq!(load(store).await.credentials, by_hand);
    assert!(
        with_versions(store, 1, adopt(store, ALICE, &wanted))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&wanted]).await;
    store.delete_user(ALICE).await.unwrap();
    assert_in_force(store, &[]).await;

    let alteration = QuotaAlteration {
        upserts: vec![quota("alice", 5.0), quota("bob", 5.0)],
        removals: Vec::new(),
    };
    store.alter_client_quotas(&alteration).await.unwrap();
    assert_conflict(apply(store, ALICE, &wanted).await, "");
    adopt(store, ALICE, &wanted).await.unwrap();
    store.delete_user(ALICE).await.unwrap();
    assert_eq!(load(store).await.quotas, [quota("bob", 5.0)]);
}

/// A quota has one value, so it has one owner; whose user it limits does not matter.
pub async fn a_quota_has_one_owner(store: &SharedStore) {
    let alice = user("alice", 1);
    apply(store, ALICE, &alice).await.unwrap();
    let thief = UserRows {
        quotas: vec![quota("alice", 9.0)],
        ..user("bob", 1)
    };
    let refused = adopt(store, OTHER, &thief).await;
    let text = refused.as_ref().unwrap_err().to_string();
    assert!(
        text.contains("the quota producer_byte_rate of user \"bob\" is managed by k8s:default/alice"),
        "{text}"
    );
    assert_conflict(refused, ALICE);
    assert_in_force(store, &[&alice]).await;
    assert_eq!(owned(store, OTHER).await, BTreeMap::new());
}

pub async fn an_entry_of_several_owners_is_in_force_until_the_last_has_gone(store: &SharedStore) {
    let shared = [acl("*", "orders")];
    let with_entry = |name| UserRows {
        acls: [shared.clone(), shared.clone()].concat(),
        ..bare_user(name)
    };
    apply(store, ALICE, &with_entry("alice")).await.unwrap();
    apply(store, OTHER, &with_entry("bob")).await.unwrap();
    assert_eq!(store.create_acls(&shared).await.unwrap(), [true]);
    assert_eq!(load(store).await.acls, shared);
    assert_eq!(owned(store, ALICE).await[ALICE].acls, shared);
    store.delete_user(OTHER).await.unwrap();
    store.delete_user(ALICE).await.unwrap();
    assert_eq!(load(store).await.acls, shared, "it was made by hand too");
    apply(store, ALICE, &with_entry("alice")).await.unwrap();
    // Whoever deletes an entry by hand wants it to be gone.
    assert_eq!(
        with_versions(store, 1, store.delete_acls(&shared)).await.unwrap(),
        [true]
    );
    assert_eq!(load(store).await.acls, []);
    assert_eq!(owned(store, ALICE).await[ALICE].acls, []);
    assert!(
        apply(store, ALICE, &with_entry("alice")).await.unwrap(),
        "its owner repairs it"
    );
}

/// What is changed by hand in the rows of an owner stays that owner's, which sees and repairs it.
pub async fn changes_by_hand_are_a_drift_of_the_owner(store: &SharedStore) {
    let wanted = user("alice", 1);
    apply(store, ALICE, &wanted).await.unwrap();
    let drift = ScramAlteration {
        upserts: vec![credential("alice", SHA_256, 9), credential("alice", SHA_512, 9)],
        deletions: Vec::new(),
    };
    store.alter_scram_credentials(&drift).await.unwrap();
    let quotas = QuotaAlteration {
        upserts: vec![quota("alice", 99.0)],
        removals: Vec::new(),
    };
    store.alter_client_quotas(&quotas).await.unwrap();
    let seen = owned(store, ALICE).await.remove(ALICE).unwrap();
    assert_eq!(seen.credentials, drift.upserts);
    assert_eq!(seen.quotas, quotas.upserts);
    assert!(
        with_versions(store, 1, apply(store, ALICE, &wanted))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&wanted]).await;

    let gone = ScramAlteration {
        upserts: Vec::new(),
        deletions: vec![credential_id("alice", SHA_256)],
    };
    store.alter_scram_credentials(&gone).await.unwrap();
    let gone = QuotaAlteration {
        upserts: Vec::new(),
        removals: vec![quota_id(named("alice"), None)],
    };
    store.alter_client_quotas(&gone).await.unwrap();
    assert!(
        with_versions(store, 1, apply(store, ALICE, &wanted))
            .await
            .unwrap()
    );
    assert_in_force(store, &[&wanted]).await;
    // Nothing is left of a user whose owner goes.
    store.alter_scram_credentials(&drift).await.unwrap();
    store.delete_user(ALICE).await.unwrap();
    assert_in_force(store, &[]).await;
}

pub async fn owners_are_listed_by_prefix(store: &SharedStore) {
    for (owner, name) in [
        ("k8s:a/x", "one"),
        ("k8s:a/y", "two"),
        ("k8s:ab/x", "three"),
        ("k8s:a_/x", "four"),
        ("k8s:%/x", "five"),
        ("other", "six"),
    ] {
        apply(store, owner, &bare_user(name)).await.unwrap();
    }
    put_credentials(store, &[credential("by-hand", SHA_256, 1)]).await;
    for (prefix, names) in [
        ("k8s:a/", vec!["one", "two"]),
        ("k8s:a", vec!["one", "two", "four", "three"]),
        ("k8s:%", vec!["five"]),
        ("k8s:_", vec![]),
        ("K8S:", vec![]),
        ("", vec!["five", "one", "two", "four", "three", "six"]),
    ] {
        let seen: Vec<String> = owned(store, prefix)
            .await
            .into_values()
            .map(|user| user.user_name)
            .collect();
        assert_eq!(seen, names, "{prefix}");
    }
    let wanted = user("one", 1);
    apply(store, "k8s:a/x", &wanted).await.unwrap();
    for (owner, found) in [("k8s:a/x", Some(wanted)), ("k8s:a/", None), ("", None)] {
        assert_eq!(store.find_owned_user(owner).await.unwrap(), found, "{owner}");
    }
}

pub async fn malformed_users_change_nothing(store: &SharedStore) {
    let right = user("alice", 1);
    let wrong = |change: fn(&mut UserRows)| {
        let mut user = right.clone();
        change(&mut user);
        user
    };
    let cases = [
        wrong(|user| user.user_name.clear()),
        wrong(|user| user.credentials.push(credential("bob", SHA_256, 1))),
        wrong(|user| user.credentials.push(credential("alice", SHA_256, 2))),
        wrong(|user| user.quotas.push(quota("alice", 2.0))),
        wrong(|user| user.quotas[0].value = f64::NAN),
        wrong(|user| user.acls[0].host.clear()),
        wrong(|user| user.credentials[0].stored_key.clear()),
    ];
    let mut results = Vec::new();
    for case in &cases {
        results.push(adopt(store, ALICE, case).await);
    }
    for owner in [String::new(), "x".repeat(513), "k8s:\0".to_owned()] {
        results.push(apply(store, &owner, &right).await);
        results.push(store.delete_user(&owner).await);
    }
    for result in results {
        assert!(
            matches!(result, Err(Error::InvalidSecurityChange(_))),
            "{result:?}"
        );
    }
    assert_eq!(load(store).await, SecuritySnapshot::default());
    assert_eq!(owned(store, "").await, BTreeMap::new());
    apply(store, &"x".repeat(512), &right).await.unwrap();
}

pub async fn racing_owners_of_one_user_have_one_winner(store: &SharedStore) {
    for round in 0..4 {
        let name = format!("user-{round}");
        let results = run_concurrently(6, |n, barrier| {
            let (store, name) = (store.clone(), name.clone());
            async move {
                let owner = format!("k8s:{n}/{name}");
                barrier.wait().await;
                let result = apply(&store, &owner, &user(&name, 1)).await;
                (owner, result)
            }
        })
        .await;
        let winner = results.iter().find(|(_, result)| result.is_ok()).unwrap();
        for (owner, result) in &results {
            match result {
                Ok(applied) => assert!(*applied && *owner == winner.0),
                Err(Error::OwnerConflict { owner, .. }) => assert_eq!(*owner, winner.0),
                Err(error) => panic!("{error}"),
            }
        }
    }
    let seen = load(store).await;
    assert_eq!((seen.version, seen.credentials.len()), (4, 4));
}

/// Operators, an admin and the deletion of resources at the same time: the tables agree afterwards.
pub async fn racing_changes_leave_no_row_of_nobody(store: &SharedStore) {
    let names = ["alice", "bob", "carol"];
    run_concurrently(6, |task, barrier| {
        let store = store.clone();
        async move {
            barrier.wait().await;
            for step in 0..12_u8 {
                let name = names[usize::from(step) % 3];
                let owner = format!("k8s:{}/{name}", task % 2);
                match (task + usize::from(step)) % 4 {
                    0 | 1 => match adopt(&store, &owner, &user(name, step)).await {
                        Ok(_) | Err(Error::OwnerConflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    },
                    2 => drop(store.delete_user(&owner).await.unwrap()),
                    _ => put_credentials(&store, &[credential(name, SHA_512, step)]).await,
                }
            }
        }
    })
    .await;
    let (seen, users) = (load(store).await, owned(store, "").await);
    for row in &seen.acls {
        assert!(users.values().any(|user| user.acls.contains(row)), "{row:?}");
    }
    for row in &seen.quotas {
        assert!(users.values().any(|user| user.quotas.contains(row)), "{row:?}");
    }
    for row in &seen.credentials {
        let mut owners = users.values().filter(|user| user.user_name == row.user_name);
        assert!(
            owners.all(|user| user.credentials.contains(row)),
            "{row:?} is not its owner's"
        );
    }
    for owner in users.into_keys() {
        store.delete_user(&owner).await.unwrap();
    }
    let seen = load(store).await;
    assert_eq!((seen.acls, seen.quotas), no_rows());
    let by_hand: Vec<ScramCredentialRow> = seen.credentials;
    assert!(by_hand.iter().all(|row| row.mechanism == SHA_512), "{by_hand:?}");
}

fn no_rows() -> (Vec<AclRow>, Vec<ClientQuotaRow>) {
    (Vec::new(), Vec::new())
}
