//! Passwords that are given, generated and changed, and Secrets that belong to others.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::environment::{SHORT_DRIFT_INTERVAL, UserTestEnvironment, eventually, message};

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
