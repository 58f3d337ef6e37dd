//! Passwords that are given, generated and changed, and Secrets that belong to others.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use streamhouse_operator::metadata_stores::StoreAccess;

use crate::{
    environment::{
        LONG_DRIFT_INTERVAL, SHORT_DRIFT_INTERVAL, UserTestEnvironment, eventually, message, ready,
    },
    suspended_store::SuspendedStore,
};

fn given(name: &str) -> serde_json::Value {
    json!({ "authentication": { "type": "scram", "passwordSecret": { "name": name } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_password_is_used_and_a_changed_one_replaces_it() {
    let world = UserTestEnvironment::new("given").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.apply("alice", given("alice-password")).await;
    let user = world.until_ready_is("alice", "False", "SecretMissing").await;
    assert!(message(&user).contains("alice-password"), "{user:?}");
    assert_eq!(world.rows("alice").await, None);

    world
        .put_secret("alice-password", json!({ "password": "first" }))
        .await;
    world.until_ready("alice").await;
    assert!(world.accepts("alice", "first").await);
    assert_eq!(world.secret("alice").await.unwrap()["password"], "first");

    world
        .put_secret("alice-password", json!({ "password": "second" }))
        .await;
    eventually("the new password", async || {
        world.accepts("alice", "second").await
    })
    .await;
    assert_eq!(world.secret("alice").await.unwrap()["password"], "second");
    world
        .until_events_are("alice", &["SecretMissing", "Created", "CredentialsUpdated"])
        .await;
    world.until_rest(&[&operator]).await;

    // Without the password, the user keeps the last one.
    world
        .secrets
        .delete("alice-password", &DeleteParams::default())
        .await
        .unwrap();
    world.until_ready_is("alice", "False", "SecretMissing").await;
    assert!(world.accepts("alice", "second").await);
    world
        .put_secret("alice-password", json!({ "password": "hush\n" }))
        .await;
    let user = world.until_ready_is("alice", "False", "InvalidSecret").await;
    assert!(!message(&user).contains("hush"), "{user:?}");
    assert!(world.accepts("alice", "second").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_password_stays_until_its_secret_is_deleted() {
    let world = UserTestEnvironment::new("generated").await;
    {
        let _operator = world.start_operator();
        world
            .apply("alice", json!({ "secretName": "alice-client" }))
            .await;
        world.until_ready("alice").await;
    }
    let first = world.secret("alice-client").await.unwrap();
    let rows = world.rows("alice").await.unwrap();
    // Another operator generates no other one.
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.until_rest(&[&operator]).await;
    assert_eq!(world.secret("alice-client").await.unwrap(), first);
    assert_eq!(world.rows("alice").await.unwrap(), rows);

    world
        .secrets
        .delete("alice-client", &DeleteParams::default())
        .await
        .unwrap();
    eventually("a new password", async || {
        match world.secret("alice-client").await {
            Some(secret) => {
                secret["password"] != first["password"] && world.accepts("alice", &secret["password"]).await
            }
            None => false,
        }
    })
    .await;

    // A password that was written into the Secret is that of the user, in every file.
    let change = Patch::Merge(json!({ "stringData": { "password": "by-hand" } }));
    let how = PatchParams::default();
    world.secrets.patch("alice-client", &how, &change).await.unwrap();
    eventually("the password by hand", async || {
        world.accepts("alice", "by-hand").await
    })
    .await;
    eventually("the files", async || {
        let secret = world.secret("alice-client").await.unwrap();
        secret["librdkafka.conf"].contains("sasl.password=by-hand")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_never_changed() {
    let world = UserTestEnvironment::new("foreign").await;
    let _operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.put_secret("alice", json!({ "password": "theirs" })).await;
    let before = world.secrets.get("alice").await.unwrap();
    world.apply("alice", json!({})).await;
    let user = world.until_ready_is("alice", "False", "ObjectConflict").await;
    assert!(message(&user).contains("Secret alice"), "{user:?}");
    assert_eq!(world.secrets.get("alice").await.unwrap(), before);
    assert_eq!(world.rows("alice").await, None, "and the name is not occupied");
    world
        .secrets
        .delete("alice", &DeleteParams::default())
        .await
        .unwrap();
    world.until_ready("alice").await;
    assert_ne!(world.secret("alice").await.unwrap()["password"], "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_somebody_else_creates_meanwhile_is_not_changed_either() {
    let world = UserTestEnvironment::new("meanwhile").await;
    let store = SuspendedStore::new(world.store.clone());
    let access = Some(StoreAccess::Open(store.clone()));
    let _operator = world.start_operator_with(access, LONG_DRIFT_INTERVAL);
    world.apply("alice", json!({})).await;
    // The operator has found no Secret and is about to write the user and a Secret.
    store.suspended().await;
    world.put_secret("alice", json!({ "theirs": "secret" })).await;
    let before = world.secrets.get("alice").await.unwrap();
    store.resume();
    world.until_ready_is("alice", "False", "ObjectConflict").await;
    assert_eq!(world.secrets.get("alice").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_users_that_want_one_secret_at_once_one_gets_it() {
    let world = UserTestEnvironment::new("shared").await;
    let _operator = world.start_operator();
    let secrets: Vec<String> = (0..5).map(|i| format!("shared-{i}")).collect();
    let all = secrets.iter().flat_map(|secret| [(secret, "a"), (secret, "b")]);
    futures::future::join_all(all.map(|(secret, rival)| {
        let (world, resource) = (&world, format!("{secret}-{rival}"));
        async move { world.apply(&resource, json!({ "secretName": secret })).await }
    }))
    .await;
    for name in &secrets {
        let (a, b) = (format!("{name}-a"), format!("{name}-b"));
        eventually(&format!("one owner of {name}"), async || {
            let (a, b) = (world.get(&a).await.unwrap(), world.get(&b).await.unwrap());
            let mut states = [ready(&a), ready(&b)];
            states.sort_unstable();
            states == [("False", "ObjectConflict"), ("True", "Reconciled")]
        })
        .await;
        let winner = match ready(&world.get(&a).await.unwrap()).0 {
            "True" => a,
            _ => b,
        };
        let secret = world.secret(name).await.unwrap();
        assert_eq!(secret["username"], winner);
        assert!(world.accepts(&winner, &secret["password"]).await);
    }
}
