//! What happens to a topic when its resource is deleted, in combination with other failures and
//! deletions.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use streamhouse_metadata::{ConnectOptions, connect, migrate};
use streamhouse_operator::{conditions::find_condition, crd::ConditionType, metadata_stores::StoreAccess};
use streamhouse_testkit::{KubeApi, Postgres};

use crate::environment::{
    TopicTestEnvironment, database, eventually, has_finalizer, install, message, ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn with_retain_the_resource_goes_at_once_and_the_topic_is_kept_and_free_for_another() {
    let world = TopicTestEnvironment::new("retain").await;
    let _operator = world.start_operator();
    world
        .apply("first", json!({ "topicName": "orders", "partitions": 3 }))
        .await;
    let topic = world.until_ready("first").await;
    assert!(!has_finalizer(&topic));
    let before = world.topic_row("orders").await.unwrap();
    world.delete("first").await;
    assert_eq!(world.get("first").await, None, "no finalizer delayed it");
    eventually("the end of the claim", async || {
        world.owner_name("orders").await.is_none()
    })
    .await;
    assert_eq!(world.topic_row("orders").await.unwrap(), before);

    world.apply("second", json!({ "topicName": "orders" })).await;
    let topic = world.until_ready("second").await;
    assert_eq!(topic.status.unwrap().topic_id, Some(before.topic_id.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_left_behind_while_the_operator_was_down_is_given_up() {
    let world = TopicTestEnvironment::new("left").await;
    let operator = world.start_operator();
    world.apply("first", json!({ "topicName": "orders" })).await;
    world.until_ready("first").await;
    operator.kill().await;
    world.delete("first").await;
    world.apply("second", json!({ "topicName": "orders" })).await;
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("first"));

    let _operator = world.start_operator();
    world.until_ready("second").await;
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_delete_the_topic_goes_and_then_the_resource() {
    let world = TopicTestEnvironment::new("delete").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    world.until_ready("orders").await;
    assert!(has_finalizer(&world.get("orders").await.unwrap()));
    world.delete("orders").await;
    world.until_gone("orders").await;
    assert_eq!(
        (world.topic_row("orders").await, world.owner_name("orders").await),
        (None, None)
    );
    world.until_events_are("orders", &["Created", "Deleted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topics_name_is_free_at_once() {
    let world = TopicTestEnvironment::new("reuse").await;
    let _operator = world.start_operator();
    world.create_topic_row("orders", 1, &[]).await;
    let old = world.topic_row("orders").await.unwrap();
    world.store.delete_topic("orders").await.unwrap();
    world.apply("orders", json!({ "partitions": 2 })).await;
    world.until_ready("orders").await;
    let row = world.topic_row("orders").await.unwrap();
    assert!(row.topic_id != old.topic_id && row.partitions == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_finalizer_comes_and_goes_with_the_policy_and_those_of_others_stay() {
    let world = TopicTestEnvironment::new("policy").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({})).await;
    world.until_ready("orders").await;
    let theirs = json!({ "metadata": { "finalizers": ["a.example/b"] } });
    let patch = Patch::Merge(theirs);
    world
        .topics
        .patch("orders", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let finalizers =
        |topic: &streamhouse_operator::crd::Topic| topic.metadata.finalizers.clone().unwrap_or_default();

    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    let topic = world.until("orders", "held", has_finalizer).await;
    assert_eq!(finalizers(&topic), ["a.example/b", "streamhouse.io/finalizer"]);
    world.apply("orders", json!({ "deletionPolicy": "Retain" })).await;
    let topic = world
        .until("orders", "let go", |topic| !has_finalizer(topic))
        .await;
    assert_eq!(finalizers(&topic), ["a.example/b"]);

    world.delete("orders").await;
    eventually("the end of the claim", async || {
        world.owner_name("orders").await.is_none()
    })
    .await;
    assert!(world.topic_row("orders").await.is_some());
    let none = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    world
        .topics
        .patch("orders", &PatchParams::default(), &none)
        .await
        .unwrap();
    world.until_gone("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_waits_for_postgresql_and_completes_when_it_is_back() {
    let postgres = Postgres::start().unwrap();
    let mut world = TopicTestEnvironment::new("down").await;
    let url = postgres.create_database("records").unwrap();
    let options = ConnectOptions {
        acquire_timeout: Duration::from_secs(1),
        ..ConnectOptions::default()
    };
    migrate(&url, &options).await.unwrap();
    world.store = connect(&url, &options).await.unwrap();
    let operator = world.start_operator();
    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    world.apply("kept", json!({})).await;
    world.until_ready("orders").await;
    world.until_ready("kept").await;

    postgres.stop().unwrap();
    world.delete("orders").await;
    let topic = world
        .until("orders", "waiting", |topic| {
            ready(topic) == ("False", "DeletePending")
        })
        .await;
    assert!(has_finalizer(&topic));
    assert!(!message(&topic).contains("streamhouse:streamhouse"), "a password");

    operator.publish_access(
        &world,
        StoreAccess::Closed("PostgreSQL does not answer".to_owned()),
    );
    world
        .until("orders", "told why", |topic| {
            message(topic).contains("PostgreSQL does not answer")
        })
        .await;
    world.until_ready_is("kept", "Unknown", "ClusterNotReady").await;
    postgres.start_again().unwrap();
    operator.publish_access(&world, world.open_access());
    world.until_gone("orders").await;
    world.until_ready("kept").await;
    eventually("the end of the row", async || {
        world.topic_row("orders").await.is_none()
    })
    .await;
    assert!(world.topic_row("kept").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_cluster_gone_or_going_a_topic_is_let_go_and_kept() {
    let world = TopicTestEnvironment::new("cluster-gone").await;
    let operator = world.start_operator();
    for name in ["gone", "going"] {
        world.apply(name, json!({ "deletionPolicy": "Delete" })).await;
        world.until_ready(name).await;
    }
    // Another finalizer, such as that of the cluster's own reconciliation, keeps the cluster.
    let hold = Patch::Merge(json!({ "metadata": { "finalizers": ["a.example/b"] } }));
    world
        .clusters()
        .patch("main", &PatchParams::default(), &hold)
        .await
        .unwrap();
    world
        .clusters()
        .delete("main", &DeleteParams::default())
        .await
        .unwrap();
    world.until_ready_is("gone", "Unknown", "ClusterNotReady").await;
    world.delete("going").await;
    world.until_gone("going").await;
    world.until_events_are("going", &["Created", "Retained"]).await;

    let free = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
    world
        .clusters()
        .patch("main", &PatchParams::default(), &free)
        .await
        .unwrap();
    operator.context.stores.remove(&world.key());
    world.until_ready_is("gone", "Unknown", "ClusterNotFound").await;
    world.delete("gone").await;
    world.until_gone("gone").await;
    for name in ["gone", "going"] {
        assert!(world.topic_row(name).await.is_some(), "{name} was deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_within_a_minute_though_the_operator_was_down_and_keeps_the_topics() {
    let api = KubeApi::start().unwrap();
    api.start_controller_manager().unwrap();
    install(&api);
    let namespace = api.create_namespace("ending").unwrap();
    let store = database(Postgres::shared().unwrap(), &namespace).await;
    let world = TopicTestEnvironment::on(&api, namespace, store).await;
    world.create_cluster().await;
    let names: Vec<String> = (0..20).map(|i| format!("topic-{i}")).collect();
    let operator = world.start_operator();
    for name in &names {
        world.apply(name, json!({ "deletionPolicy": "Delete" })).await;
    }
    for name in &names {
        world.until_ready(name).await;
    }
    operator.kill().await;

    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    let ends = |name: &str| {
        let name = name.to_owned();
        let topics = world.topics.clone();
        async move {
            topics
                .get(&name)
                .await
                .unwrap()
                .metadata
                .deletion_timestamp
                .is_some()
        }
    };
    for name in &names {
        eventually("the deletion of each Topic", async || ends(name).await).await;
    }
    let _operator = world.start_operator();
    let ended = tokio::time::timeout(
        Duration::from_secs(60),
        eventually("the end of the namespace", async || {
            namespaces.get_opt(&world.namespace).await.unwrap().is_none()
        }),
    );
    assert!(
        ended.await.is_ok(),
        "the namespace is still terminating after a minute"
    );
    for name in &names {
        assert!(world.topic_row(name).await.is_some(), "{name} was deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_namespace_that_ends_a_topic_is_let_go_and_kept_though_its_cluster_is_still_there() {
    let world = TopicTestEnvironment::new("terminating").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    world.until_ready("orders").await;
    // No controllers run here, so the namespace is only marked: the situation before they delete
    // the cluster.
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    world.delete("orders").await;
    world.until_gone("orders").await;
    assert!(world.topic_row("orders").await.is_some());
    assert_eq!(world.owner_name("orders").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_never_managed_anything_leaves_without_a_trace() {
    let world = TopicTestEnvironment::without_cluster("stranger").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    let topic = world.until_ready_is("orders", "Unknown", "ClusterNotFound").await;
    assert!(!has_finalizer(&topic));
    let paused = find_condition(&topic.status.unwrap().conditions, ConditionType::Paused).cloned();
    assert_eq!(paused.unwrap().status, "False");
    world.delete("orders").await;
    world.until_gone("orders").await;
    assert_eq!(world.overview().await, Default::default());
}
