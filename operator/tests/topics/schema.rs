//! What the API server itself rejects, tested with dry runs, and what it must accept.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use streamhouse_operator::crd::Topic;

use crate::environment::TopicTestEnvironment;

async fn refusal_of_new(world: &TopicTestEnvironment, name: &str, spec: Value) -> Option<String> {
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let topic: Topic = serde_json::from_value(TopicTestEnvironment::manifest(name, spec)).unwrap();
    world
        .topics
        .create(&dry, &topic)
        .await
        .err()
        .map(|error| error.to_string())
}

async fn refusal_of_change(world: &TopicTestEnvironment, name: &str, spec: Value) -> Option<String> {
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "spec": spec }));
    world
        .topics
        .patch(name, &dry, &patch)
        .await
        .err()
        .map(|error| error.to_string())
}

fn assert_refused(refusal: Option<String>, with: &str) {
    let refusal = refusal.unwrap_or_else(|| panic!("accepted, and should be refused with {with:?}"));
    assert!(refusal.contains(with), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn illegal_names_are_refused() {
    let world = TopicTestEnvironment::new("illegal").await;
    for (name, with) in [
        ("..", "must not be '.', '..'"),
        (".", "must not be '.', '..'"),
        ("__consumer_groups", "reserved"),
        ("__consumer_offsets", "reserved"),
        ("a b", "should match"),
        ("", "topicName"),
    ] {
        assert_refused(
            refusal_of_new(&world, "a", json!({ "topicName": name })).await,
            with,
        );
    }
    let long = "a".repeat(250);
    assert_refused(
        refusal_of_new(&world, "a", json!({ "topicName": long })).await,
        "249",
    );
    assert_refused(refusal_of_new(&world, &"a".repeat(250), json!({})).await, "249");
    let users = json!({ "topicName": "__debezium-heartbeat.db" });
    assert_eq!(refusal_of_new(&world, "a", users).await, None);
    let longest = json!({ "topicName": "a".repeat(249) });
    assert_eq!(refusal_of_new(&world, "a", longest).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_can_neither_shrink_nor_be_unset() {
    let world = TopicTestEnvironment::new("partitions").await;
    world.apply("set", json!({ "partitions": 3 })).await;
    world.apply("unset", json!({})).await;
    assert_refused(
        refusal_of_change(&world, "set", json!({ "partitions": 2 })).await,
        "can only grow",
    );
    assert_refused(
        refusal_of_change(&world, "set", json!({ "partitions": null })).await,
        "can only grow",
    );
    assert_eq!(
        refusal_of_change(&world, "set", json!({ "partitions": 4 })).await,
        None
    );
    assert_eq!(
        refusal_of_change(&world, "unset", json!({ "partitions": 4 })).await,
        None
    );
    for bad in [0, -1, 10_001] {
        assert_refused(
            refusal_of_new(&world, "a", json!({ "partitions": bad })).await,
            "spec.partitions",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn name_and_cluster_cannot_change_nor_be_set_or_unset_later() {
    let world = TopicTestEnvironment::new("immutable").await;
    world.apply("set", json!({ "topicName": "orders" })).await;
    world.apply("unset", json!({})).await;
    let with = "topicName cannot change";
    assert_refused(
        refusal_of_change(&world, "set", json!({ "topicName": "other" })).await,
        with,
    );
    assert_refused(
        refusal_of_change(&world, "set", json!({ "topicName": null })).await,
        with,
    );
    assert_refused(
        refusal_of_change(&world, "unset", json!({ "topicName": "orders" })).await,
        with,
    );
    let moved = json!({ "clusterRef": { "name": "other" } });
    assert_refused(
        refusal_of_change(&world, "set", moved).await,
        "clusterRef cannot change",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_setting_given_twice_is_refused() {
    let world = TopicTestEnvironment::new("twice").await;
    for (field, key) in [
        (json!({ "retention": { "time": "1d" } }), "retention.ms"),
        (json!({ "retention": { "bytes": "1Gi" } }), "retention.bytes"),
        (json!({ "segmentBytes": "1Mi" }), "segment.bytes"),
        (json!({ "compression": "lz4" }), "compression.type"),
        (json!({ "cleanupPolicy": "delete" }), "cleanup.policy"),
    ] {
        assert_eq!(refusal_of_new(&world, "a", field.clone()).await, None);
        for value in [json!("1"), json!(null)] {
            let mut twice = field.clone();
            twice["config"] = json!({ key: value });
            assert_refused(refusal_of_new(&world, "a", twice).await, "are the same setting");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_any_size_are_accepted_and_can_be_read_back() {
    let world = TopicTestEnvironment::new("numbers").await;
    let config = json!({ "segment.ms": 604_800_000_000_i64, "retention.ms": "-1", "retention.bytes": null });
    world.apply("orders", json!({ "config": config })).await;
    let topic = world.get("orders").await.unwrap();
    let text = |key: &str| topic.spec.config[key].as_ref().map(ToString::to_string);
    assert_eq!(text("segment.ms").as_deref(), Some("604800000000"));
    assert_eq!(
        (text("retention.ms").as_deref(), text("retention.bytes")),
        (Some("-1"), None)
    );
    for bad in [json!(true), json!(1.5), json!([1])] {
        let manifest = Patch::Apply(TopicTestEnvironment::manifest(
            "bad",
            json!({ "config": { "segment.ms": bad } }),
        ));
        let refused = world
            .topics
            .patch("bad", &PatchParams::apply("a-person"), &manifest)
            .await;
        assert!(refused.unwrap_err().to_string().contains("segment.ms"));
    }
}
