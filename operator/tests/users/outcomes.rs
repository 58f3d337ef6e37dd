//! Users that are created and changed, and what keeps them from being ready.

use serde_json::json;
use streamhouse_metadata::{QuotaAlteration, UnownedRows};
use streamhouse_operator::metadata_stores::StoreAccess;

use crate::environment::{
    LONG_DRIFT_INTERVAL, SHORT_DRIFT_INTERVAL, UserTestEnvironment, eventually, has_finalizer, message,
};

fn acl(name: &str, operations: &[&str]) -> serde_json::Value {
    json!({ "resource": { "type": "topic", "name": name }, "operations": operations })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_created_with_a_password_rights_quotas_and_files_for_clients() {
    let world = UserTestEnvironment::new("created").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let spec = json!({
        "authorization": { "acls": [acl("orders", &["Read", "Describe"])] },
        "quotas": { "producerByteRate": 1000 },
    });
    world.apply("alice", spec).await;
    let user = world.until_ready("alice").await;
    assert!(has_finalizer(&user));
    let status = user.status.as_ref().unwrap();
    assert_eq!(status.user_name.as_deref(), Some("alice"));
    assert_eq!(status.secret_name.as_deref(), Some("alice"));
    let (owner, rows) = world.owned("alice").await.unwrap();
    let uid = user.metadata.uid.as_deref().unwrap();
    assert_eq!(owner, format!("k8s:{}/alice/{uid}", world.namespace));
    assert_eq!(
        (rows.credentials.len(), rows.acls.len(), rows.quotas.len()),
        (2, 2, 1)
    );

    let secret = world.secret("alice").await.unwrap();
    assert_eq!(secret["username"], "alice");
    assert_eq!(secret["bootstrap"], "main-kafka:9092");
    assert!(world.accepts("alice", &secret["password"]).await);
    let properties = &secret["client.properties"];
    assert!(
        properties.contains("sasl.mechanism=SCRAM-SHA-256\n"),
        "{properties}"
    );
    assert!(
        properties.contains("security.protocol=SASL_PLAINTEXT\n"),
        "{properties}"
    );
    let stored = world.secrets.get("alice").await.unwrap();
    assert_eq!(stored.metadata.owner_references.unwrap()[0].uid, uid);
    world.until_events_are("alice", &["Created"]).await;

    world.until_rest(&[&operator]).await;
    assert_eq!(operator.sum("streamhouse_operator_drift_corrected_total"), 0.0);
    let text = serde_json::to_string(&world.get("alice").await).unwrap()
        + &format!("{:?}", world.events("alice").await);
    assert!(
        !text.contains(&secret["password"]),
        "a password is in no status or event"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_changes_exactly_the_rows_and_keeps_the_password() {
    let world = UserTestEnvironment::new("updated").await;
    let _operator = world.start_operator();
    let both = json!({ "acls": [acl("orders", &["Read"]), acl("payments", &["Write"])] });
    world
        .apply(
            "alice",
            json!({ "authorization": both, "quotas": { "producerByteRate": 1000 } }),
        )
        .await;
    world.until_ready("alice").await;
    let before = world.rows("alice").await.unwrap();
    let password = world.secret("alice").await.unwrap()["password"].clone();
    world
        .apply(
            "alice",
            json!({ "authorization": { "acls": [acl("payments", &["Write"])] } }),
        )
        .await;
    world.until_ready("alice").await;
    let after = world.rows("alice").await.unwrap();
    assert_eq!(after.acls.len(), 1);
    assert_eq!(after.acls[0].resource_name, "payments");
    assert!(after.quotas.is_empty());
    assert_eq!(after.credentials, before.credentials);
    assert_eq!(world.secret("alice").await.unwrap()["password"], password);
    world
        .until_events_are("alice", &["Created", "ConfigUpdated"])
        .await;

    let one = json!({ "type": "scram", "mechanisms": ["SCRAM-SHA-512"] });
    world.apply("alice", json!({ "authentication": one })).await;
    world.until_ready("alice").await;
    let rows = world.rows("alice").await.unwrap();
    assert_eq!(rows.credentials.len(), 1);
    assert!(
        before.credentials.contains(&rows.credentials[0]),
        "the verifier stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changed_by_hand_is_put_back() {
    let world = UserTestEnvironment::new("drift").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let acls = json!({ "acls": [acl("orders", &["Read"])] });
    world
        .apply(
            "alice",
            json!({ "authorization": acls, "quotas": { "producerByteRate": 1000 } }),
        )
        .await;
    world.until_ready("alice").await;
    let wanted = world.rows("alice").await.unwrap();
    let mut quota = wanted.quotas[0].clone();
    quota.value = 5.0;
    let change = QuotaAlteration {
        upserts: vec![quota],
        removals: Vec::new(),
    };
    world.store.alter_client_quotas(&change).await.unwrap();
    world.store.delete_acls(&wanted.acls).await.unwrap();
    eventually("the correction", async || {
        world.rows("alice").await.as_ref() == Some(&wanted)
    })
    .await;
    eventually("the count", async || {
        operator.sum("streamhouse_operator_drift_corrected_total") >= 1.0
    })
    .await;

    // Everything, the name included.
    let (owner, _) = world.owned("alice").await.unwrap();
    world.store.delete_user(&owner).await.unwrap();
    eventually("the correction", async || {
        world
            .rows("alice")
            .await
            .is_some_and(|rows| rows.acls == wanted.acls)
    })
    .await;
    let password = world.secret("alice").await.unwrap()["password"].clone();
    eventually("the password", async || world.accepts("alice", &password).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_user_has_rights_and_no_password() {
    let world = UserTestEnvironment::new("external").await;
    let _operator = world.start_operator();
    let spec = json!({
        "authentication": { "type": "external", "subject": "CN=alice,O=shop" },
        "authorization": { "acls": [acl("orders", &["Read"])] },
    });
    world.apply("alice", spec).await;
    world.until_ready("alice").await;
    let rows = world.rows("CN=alice,O=shop").await.unwrap();
    assert!(rows.credentials.is_empty());
    assert_eq!(rows.acls[0].principal, "User:CN=alice,O=shop");
    assert_eq!(world.secret("alice").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_waits_for_its_cluster_and_for_the_metadata_store() {
    let world = UserTestEnvironment::without_cluster("waits").await;
    let operator = world.start_operator_with(None, LONG_DRIFT_INTERVAL);
    world.apply("alice", json!({})).await;
    let user = world.until_ready_is("alice", "Unknown", "ClusterNotFound").await;
    assert!(message(&user).contains("create it"), "{user:?}");
    world.create_cluster().await;
    world.until_ready_is("alice", "Unknown", "ClusterNotReady").await;
    let closed = StoreAccess::Closed("PostgreSQL does not answer".to_owned());
    operator.context.stores.publish(&world.key(), closed);
    eventually("the reason", async || {
        let user = world.get("alice").await.unwrap();
        message(&user) == "PostgreSQL does not answer"
    })
    .await;
    operator.context.stores.publish(&world.key(), world.open_access());
    world.until_ready("alice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_no_request_needs_are_refused_and_nothing_is_written() {
    let world = UserTestEnvironment::new("invalid").await;
    let _operator = world.start_operator();
    world
        .apply(
            "alice",
            json!({ "authorization": { "acls": [acl("orders", &["ClusterAction"])] } }),
        )
        .await;
    let user = world.until_ready_is("alice", "False", "InvalidSpec").await;
    assert!(message(&user).contains("spec.authorization.acls[0]"), "{user:?}");
    assert_eq!(world.rows("alice").await, None);
    assert_eq!(world.secret("alice").await, None);
    assert!(!has_finalizer(&user));
    world.until_events_are("alice", &["InvalidSpec"]).await;
    world
        .apply(
            "alice",
            json!({ "authorization": { "acls": [acl("orders", &["Read"])] } }),
        )
        .await;
    world.until_ready("alice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_follows_the_address_of_the_cluster() {
    let world = UserTestEnvironment::new("address").await;
    let operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    let before = world.secret("alice").await.unwrap();
    world.set_kafka_address("other-kafka:9092").await;
    eventually("the new address", async || {
        world.secret("alice").await.unwrap()["bootstrap"] == "other-kafka:9092"
    })
    .await;
    let after = world.secret("alice").await.unwrap();
    assert_eq!(after["password"], before["password"]);
    world
        .until_events_are("alice", &["Created", "ConfigUpdated"])
        .await;
    assert_eq!(operator.sum("streamhouse_operator_drift_corrected_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_user_is_not_changed() {
    let world = UserTestEnvironment::new("paused").await;
    let _operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.apply("alice", json!({ "paused": true })).await;
    let user = world.until_ready_is("alice", "False", "Paused").await;
    assert_eq!(message(&user), "paused; pending changes: create the user");
    assert_eq!(world.rows("alice").await, None);
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    let acls = json!({ "acls": [acl("orders", &["Read"])] });
    world
        .apply("alice", json!({ "paused": true, "authorization": acls }))
        .await;
    let user = world.until_ready_is("alice", "False", "Paused").await;
    assert!(message(&user).ends_with("access control lists"), "{user:?}");
    assert!(world.rows("alice").await.unwrap().acls.is_empty());
    // A row by another name remains by itself.
    let other = streamhouse_metadata::UserRows {
        user_name: "bob".to_owned(),
        credentials: Vec::new(),
        acls: Vec::new(),
        quotas: Vec::new(),
    };
    world
        .store
        .apply_user("terraform:bob", &other, UnownedRows::Refuse)
        .await
        .unwrap();
    world.delete("alice").await;
    world.until_gone("alice").await;
    assert!(world.rows("bob").await.is_some());
}

/// The rows as an operator leaves them that ends after the claim, or before it writes the Secret.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_begun_another_completes() {
    let world = UserTestEnvironment::new("begun").await;
    for name in ["claimed", "half-written"] {
        let user = world
            .apply(name, json!({ "quotas": { "producerByteRate": 1000 } }))
            .await;
        let uid = user.metadata.uid.unwrap();
        let begun = streamhouse_metadata::UserRows {
            user_name: name.to_owned(),
            credentials: match name {
                "claimed" => Vec::new(),
                _ => vec![streamhouse_metadata::ScramCredentialRow {
                    user_name: name.to_owned(),
                    mechanism: "SCRAM-SHA-256".to_owned(),
                    salt: vec![1; 16],
                    iterations: 4096,
                    stored_key: vec![2; 32],
                    server_key: vec![3; 32],
                }],
            },
            acls: Vec::new(),
            quotas: Vec::new(),
        };
        let owner = format!("k8s:{}/{name}/{uid}", world.namespace);
        let applied = world.store.apply_user(&owner, &begun, UnownedRows::Refuse);
        applied.await.unwrap();
    }
    let _operator = world.start_operator();
    for name in ["claimed", "half-written"] {
        let user = world.until_ready(name).await;
        assert!(has_finalizer(&user));
        let password = world.secret(name).await.unwrap()["password"].clone();
        assert!(world.accepts(name, &password).await);
        assert_eq!(world.rows(name).await.unwrap().quotas.len(), 1);
    }
}
