//! Deletion: exactly what the User owns goes, and it never hangs.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use streamhouse_metadata::AclRow;
use streamhouse_operator::metadata_stores::StoreAccess;

use crate::environment::{UserTestEnvironment, eventually, has_finalizer, message};

fn acl(name: &str) -> AclRow {
    AclRow {
        principal: "User:alice".to_owned(),
        resource_type: "TOPIC".to_owned(),
        resource_name: name.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: "READ".to_owned(),
        permission: "ALLOW".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_the_user_owns_is_deleted_and_nothing_else() {
    let world = UserTestEnvironment::new("owned").await;
    let _operator = world.start_operator();
    world.store.create_acls(&[acl("by-hand")]).await.unwrap();
    let orders = json!({ "resource": { "type": "topic", "name": "orders" }, "operations": ["Read"] });
    let spec = json!({ "authorization": { "acls": [orders] }, "quotas": { "consumerByteRate": 1000 } });
    world.apply("alice", spec).await;
    world.until_ready("alice").await;
    world.delete("alice").await;
    world.until_gone("alice").await;
    let snapshot = world.store.load_security().await.unwrap();
    assert!(snapshot.credentials.is_empty() && snapshot.quotas.is_empty());
    assert_eq!(snapshot.acls, [acl("by-hand")]);
    world.until_events_are("alice", &["Created", "Deleted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_user_goes_at_once_and_its_rows_stay_until_it_comes_back() {
    let world = UserTestEnvironment::new("retained").await;
    let _operator = world.start_operator();
    world.put_secret("given", json!({ "password": "same" })).await;
    let spec = json!({
        "deletionPolicy": "Retain",
        "authentication": { "type": "scram", "passwordSecret": { "name": "given" } },
    });
    world.apply("alice", spec.clone()).await;
    assert!(!has_finalizer(&world.until_ready("alice").await));
    let earlier = world.owned("alice").await.unwrap().0;
    world.delete("alice").await;
    assert_eq!(world.get("alice").await, None);
    assert!(world.accepts("alice", "same").await);
    // No garbage collector runs here.
    world
        .secrets
        .delete("alice", &DeleteParams::default())
        .await
        .unwrap();
    world.apply("alice", spec).await;
    let user = world.until_ready("alice").await;
    assert!(world.accepts("alice", "same").await);
    let (owner, uid) = (world.owned("alice").await.unwrap().0, user.metadata.uid.unwrap());
    assert!(owner.ends_with(&uid) && owner != earlier, "{owner}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_the_metadata_store() {
    let world = UserTestEnvironment::new("pending").await;
    let operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    let closed = StoreAccess::Closed("PostgreSQL does not answer".to_owned());
    operator.context.stores.publish(&world.key(), closed);
    world.delete("alice").await;
    let user = world.until_ready_is("alice", "False", "DeletePending").await;
    assert!(message(&user).contains("PostgreSQL does not answer"), "{user:?}");
    operator.context.stores.publish(&world.key(), world.open_access());
    world.until_gone("alice").await;
    assert_eq!(world.rows("alice").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_cluster_a_user_goes_and_its_rows_stay() {
    let world = UserTestEnvironment::new("orphan").await;
    let operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    world
        .clusters()
        .delete("main", &DeleteParams::default())
        .await
        .unwrap();
    operator.context.stores.remove(&world.key());
    world.until_ready_is("alice", "Unknown", "ClusterNotFound").await;
    world.delete("alice").await;
    world.until_gone("alice").await;
    assert!(world.rows("alice").await.is_some());
    world.until_events_are("alice", &["Created", "Retained"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_namespace_that_ends_a_user_is_let_go() {
    let world = UserTestEnvironment::new("terminating").await;
    let _operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    // No controllers run here, so the namespace is only marked: the situation before they delete
    // the cluster.
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let how = DeleteParams::default();
    namespaces.delete(&world.namespace, &how).await.unwrap();
    world.delete("alice").await;
    world.until_gone("alice").await;
    assert!(world.rows("alice").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_namespace_that_ends_a_user_is_let_go_without_the_metadata_store() {
    let world = UserTestEnvironment::new("closed").await;
    let operator = world.start_operator();
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    let closed = StoreAccess::Closed("PostgreSQL does not answer".to_owned());
    operator.context.stores.publish(&world.key(), closed);
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let how = DeleteParams::default();
    namespaces.delete(&world.namespace, &how).await.unwrap();
    world.delete("alice").await;
    world.until_gone("alice").await;
    assert!(world.rows("alice").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_gone_is_no_longer_counted() {
    let world = UserTestEnvironment::new("counted").await;
    let operator = world.start_operator();
    let acl = json!({ "resource": { "type": "topic", "name": "orders" }, "operations": ["ClusterAction"] });
    world
        .apply("alice", json!({ "authorization": { "acls": [acl] } }))
        .await;
    let user = world.until_ready_is("alice", "False", "InvalidSpec").await;
    assert!(!has_finalizer(&user));
    let count = || operator.sum("streamhouse_operator_resources");
    eventually("the count of the User", async || count() == 1.0).await;
    world.delete("alice").await;
    eventually("the count without it", async || count() == 0.0).await;
    assert_eq!(operator.sum("streamhouse_operator_resources_failing"), 0.0);
}
