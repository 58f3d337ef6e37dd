//! Two resources for one user, and users that were made by hand.

use serde_json::json;
use streamhouse_core::security::QuotaName;
use streamhouse_metadata::{
    ClientQuotaId, ClientQuotaRow, QuotaAlteration, ScramAlteration, ScramCredentialRow, UnownedRows,
    UserRows,
};

use crate::environment::{
    SHORT_DRIFT_INTERVAL, UserTestEnvironment, eventually, has_finalizer, message, ready,
};

fn by_hand(user_name: &str) -> ScramCredentialRow {
    ScramCredentialRow {
        user_name: user_name.to_owned(),
        mechanism: "SCRAM-SHA-512".to_owned(),
        salt: vec![1; 16],
        iterations: 4096,
        stored_key: vec![2; 64],
        server_key: vec![3; 64],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_users_for_one_name_one_manages_it_and_the_other_takes_over_when_it_goes() {
    let world = UserTestEnvironment::new("two").await;
    let _operator = world.start_operator();
    world.apply("first", json!({ "name": "alice" })).await;
    world.until_ready("first").await;
    let before = world.rows("alice").await.unwrap();
    world.apply("second", json!({ "name": "alice" })).await;
    let loser = world.until_ready_is("second", "False", "OwnershipConflict").await;
    let expected = format!("managed by {}/first", world.namespace);
    assert!(message(&loser).contains(&expected), "{loser:?}");
    assert!(!has_finalizer(&loser));
    assert_eq!(world.secret("second").await, None);
    assert_eq!(world.rows("alice").await.unwrap(), before);
    world.until_events_are("second", &["OwnershipConflict"]).await;

    world.delete("first").await;
    world.until_gone("first").await;
    world.until_ready("second").await;
    let secret = world.secret("second").await.unwrap();
    assert!(world.accepts("alice", &secret["password"]).await);
    world.delete("second").await;
    world.until_gone("second").await;
    assert_eq!(world.rows("alice").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_was_made_by_hand_is_adopted_only_when_asked() {
    let world = UserTestEnvironment::new("by-hand").await;
    let _operator = world.start_operator();
    let change = ScramAlteration {
        upserts: vec![by_hand("alice")],
        deletions: Vec::new(),
    };
    world.store.alter_scram_credentials(&change).await.unwrap();
    world.apply("alice", json!({})).await;
    let user = world.until_ready_is("alice", "False", "AlreadyExists").await;
    assert!(message(&user).contains("spec.adopt"), "{user:?}");
    assert!(!has_finalizer(&user));
    let snapshot = world.store.load_security().await.unwrap();
    assert_eq!(snapshot.credentials, [by_hand("alice")]);

    world.apply("alice", json!({ "adopt": "IfExists" })).await;
    world.until_ready("alice").await;
    let secret = world.secret("alice").await.unwrap();
    assert!(world.accepts("alice", &secret["password"]).await);
    world
        .until_events_are("alice", &["AlreadyExists", "Adopted"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_user_that_no_longer_exists_are_taken_over() {
    let world = UserTestEnvironment::new("stale").await;
    let rows = |name: &str| UserRows {
        user_name: name.to_owned(),
        credentials: vec![by_hand(name)],
        acls: Vec::new(),
        quotas: Vec::new(),
    };
    let gone = "00000000-0000-4000-8000-000000000000";
    let earlier = format!("k8s:{}/alice/{gone}", world.namespace);
    let other = format!("k8s:{}/other/{gone}", world.namespace);
    for (owner, name) in [(&earlier, "alice"), (&other, "bob")] {
        world
            .store
            .apply_user(owner, &rows(name), UnownedRows::Refuse)
            .await
            .unwrap();
    }
    let foreign = "k8s:elsewhere/carol/1".to_owned();
    world
        .store
        .apply_user(&foreign, &rows("carol"), UnownedRows::Refuse)
        .await
        .unwrap();

    let _operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    let password = world.secret("alice").await.unwrap()["password"].clone();
    assert!(world.accepts("alice", &password).await);

    world.apply("bob", json!({})).await;
    world.until_ready_is("bob", "False", "AlreadyExists").await;
    world.apply("bob", json!({ "adopt": "IfExists" })).await;
    world.until_ready("bob").await;

    // What is in a namespace that the operator does not watch cannot be judged.
    world.apply("carol", json!({ "adopt": "IfExists" })).await;
    world.until_ready_is("carol", "False", "OwnershipConflict").await;
    assert_eq!(world.owned("carol").await.unwrap().0, foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_was_made_by_hand_is_noticed_before_anything_is_written() {
    let world = UserTestEnvironment::new("quota").await;
    let _operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let quota = ClientQuotaRow {
        id: ClientQuotaId {
            user_name: Some(QuotaName::Named("alice".to_owned())),
            client_id: None,
            ip: None,
            key: "producer_byte_rate".to_owned(),
        },
        value: 5.0,
    };
    let change = QuotaAlteration {
        upserts: vec![quota.clone()],
        removals: Vec::new(),
    };
    world.store.alter_client_quotas(&change).await.unwrap();
    let quotas = json!({ "producerByteRate": 1000 });
    world.apply("alice", json!({ "quotas": quotas })).await;
    let user = world.until_ready_is("alice", "False", "AlreadyExists").await;
    assert!(message(&user).contains("producer_byte_rate"), "{user:?}");
    // Another attempt begins where this one has ended.
    tokio::time::sleep(2 * SHORT_DRIFT_INTERVAL).await;
    assert_eq!(world.secret("alice").await, None);
    assert_eq!(world.rows("alice").await, None);
    assert!(!has_finalizer(&world.get("alice").await.unwrap()));
    assert_eq!(world.store.load_security().await.unwrap().quotas, [quota]);

    world
        .apply("alice", json!({ "quotas": quotas, "adopt": "IfExists" }))
        .await;
    world.until_ready("alice").await;
    let secret = world.secret("alice").await.unwrap();
    assert!(world.accepts("alice", &secret["password"]).await);
    assert_eq!(world.rows("alice").await.unwrap().quotas[0].value, 1000.0);
    world
        .until_events_are("alice", &["AlreadyExists", "Adopted"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_user_of_the_resource_name_retained_stays() {
    let world = UserTestEnvironment::new("earlier").await;
    let _operator = world.start_operator();
    let spec = |name: &str| json!({ "name": name, "secretName": name, "deletionPolicy": "Retain" });
    world.apply("alice", spec("one")).await;
    world.until_ready("alice").await;
    let before = world.owned("one").await.unwrap();
    world.delete("alice").await;
    world.until_gone("alice").await;
    world.apply("alice", spec("two")).await;
    world.until_ready("alice").await;
    assert!(world.rows("two").await.is_some());
    assert_eq!(world.owned("one").await, Some(before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_rows_somebody_else_has_now_does_not_wait_for_the_operator() {
    let world = UserTestEnvironment::new("lost").await;
    {
        let _operator = world.start_operator();
        world.apply("alice", json!({})).await;
        assert!(has_finalizer(&world.until_ready("alice").await));
        world.until_events_are("alice", &["Created"]).await;
    }
    let (owner, rows) = world.owned("alice").await.unwrap();
    world.store.delete_user(&owner).await.unwrap();
    let theirs = "terraform:alice";
    let applied = world.store.apply_user(theirs, &rows, UnownedRows::Refuse);
    applied.await.unwrap();
    let _operator = world.start_operator();
    let user = world.until_ready_is("alice", "False", "OwnershipConflict").await;
    assert!(message(&user).contains(theirs), "{user:?}");
    eventually("the end of the finalizer", async || {
        !has_finalizer(&world.get("alice").await.unwrap())
    })
    .await;
    world.delete("alice").await;
    assert_eq!(world.get("alice").await, None);
    assert_eq!(world.owned("alice").await, Some((theirs.to_owned(), rows)));
    world
        .until_events_are("alice", &["Created", "OwnershipConflict"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rivals_that_are_created_at_once_under_two_operators_end_with_one_owner_each() {
    let world = UserTestEnvironment::new("rivals").await;
    let start = || world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let operators = [start(), start()];
    let names: Vec<String> = (0..5).map(|i| format!("user-{i}")).collect();
    let all = names.iter().flat_map(|name| [(name, "a"), (name, "b")]);
    futures::future::join_all(all.map(|(name, rival)| {
        let (world, resource) = (&world, format!("{name}-{rival}"));
        async move { world.apply(&resource, json!({ "name": name })).await }
    }))
    .await;
    for name in &names {
        let (a, b) = (format!("{name}-a"), format!("{name}-b"));
        eventually(&format!("one owner of {name}"), async || {
            let (a, b) = (world.get(&a).await.unwrap(), world.get(&b).await.unwrap());
            let mut states = [ready(&a), ready(&b)];
            states.sort_unstable();
            states == [("False", "OwnershipConflict"), ("True", "Reconciled")]
        })
        .await;
        let resource = match ready(&world.get(&a).await.unwrap()).0 {
            "True" => a,
            _ => b,
        };
        let (owner, _) = world.owned(name).await.unwrap();
        assert!(owner.contains(&format!("/{resource}/")), "{owner}");
        // Both may have generated a password; that of the Secret remains.
        eventually(&format!("the password of {name}"), async || {
            let secret = world.secret(&resource).await.unwrap();
            world.accepts(name, &secret["password"]).await
        })
        .await;
    }
    world.until_rest(&[&operators[0], &operators[1]]).await;
}
