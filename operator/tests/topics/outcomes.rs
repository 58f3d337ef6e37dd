//! Outcomes for a Topic that is not deleted: created, adopted, extended, configured, rejected,
//! paused, without a cluster.

use serde_json::json;
use streamhouse_operator::{conditions::find_condition, crd::ConditionType, metadata_stores::StoreAccess};

use crate::{
    environment::{SHORT_DRIFT_INTERVAL, TopicTestEnvironment, eventually, has_finalizer, message, ready},
    faulty_store::FaultyStore,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_nothing_set_is_created_with_defaults_and_then_at_rest() {
    let world = TopicTestEnvironment::new("defaults").await;
    let mut operator = world.start_operator();
    world.apply("orders", json!({})).await;
    let topic = world.until_ready("orders").await;

    let row = world.topic_row("orders").await.unwrap();
    assert_eq!((row.partitions, row.config.len()), (1, 0));
    let status = topic.status.as_ref().unwrap();
    assert_eq!(status.topic_id, Some(row.topic_id.to_string()));
    assert_eq!(
        (status.topic_name.as_deref(), status.partitions),
        (Some("orders"), Some(1))
    );
    assert_eq!((status.records, status.size_bytes), (Some(0), Some(0)));
    assert_eq!(status.observed_generation, topic.metadata.generation);
    let paused = find_condition(&status.conditions, ConditionType::Paused).unwrap();
    assert_eq!(
        (paused.status.as_str(), paused.reason.as_str()),
        ("False", "NotPaused")
    );
    assert!(!has_finalizer(&topic), "deletionPolicy is Retain");
    world.until_events_are("orders", &["Created"]).await;
    operator.stop().await;

    // Another operator queries repeatedly and finds nothing to change.
    let mut second = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let looks = "streamhouse_operator_metadata_queries_total{call=\"topics_overview\"}";
    eventually("a third look", async || second.metric(looks) >= 3.0).await;
    second.stop().await;
    assert_eq!(second.sum("streamhouse_operator_api_writes_total"), 0.0);
    assert_eq!(
        second.sum("streamhouse_operator_metadata_queries_total"),
        second.metric(looks)
    );
    assert_eq!(world.get("orders").await.unwrap(), topic);
    assert_eq!(
        second.metric("streamhouse_operator_resources{kind=\"Topic\",ready=\"true\"}"),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_have_a_name_that_kubernetes_does_not_allow() {
    let world = TopicTestEnvironment::new("names").await;
    let _operator = world.start_operator();
    world
        .apply("orders-v1", json!({ "topicName": "Orders_V1", "partitions": 2 }))
        .await;
    let topic = world.until_ready("orders-v1").await;
    assert_eq!(topic.status.unwrap().topic_name.as_deref(), Some("Orders_V1"));
    assert_eq!(world.topic_row("Orders_V1").await.unwrap().partitions, 2);
    assert_eq!(world.topic_row("orders-v1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_exists_is_adopted_and_its_settings_converge_with_one_event() {
    let world = TopicTestEnvironment::new("adopted").await;
    let config = [
        ("segment.ms", "5000"),
        ("max.message.bytes", "2048"),
        ("retention.bytes", "9"),
    ];
    world.create_topic_row("orders", 3, &config).await;
    let before = world.topic_row("orders").await.unwrap();
    let _operator = world.start_operator();
    let spec = json!({
        "partitions": 3, "retention": { "time": "1h" }, "config": { "segment.ms": 7000, "retention.bytes": null }
    });
    world.apply("orders", spec).await;
    let topic = world.until_ready("orders").await;

    let row = world.topic_row("orders").await.unwrap();
    assert_eq!((row.topic_id, row.partitions), (before.topic_id, 3));
    let expected = [
        ("retention.bytes", "9"),
        ("retention.ms", "3600000"),
        ("segment.ms", "7000"),
    ];
    let found: Vec<(&str, &str)> = row.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!(topic.status.unwrap().topic_id, Some(before.topic_id.to_string()));
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("orders"));
    world.until_events_are("orders", &["Adopted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_exists_and_may_not_be_adopted_is_not_touched() {
    let world = TopicTestEnvironment::new("never").await;
    world
        .create_topic_row("orders", 3, &[("segment.ms", "5000")])
        .await;
    let before = world.overview().await;
    let _operator = world.start_operator();
    let spec = json!({ "adopt": "Never", "partitions": 5, "deletionPolicy": "Delete" });
    world.apply("orders", spec).await;
    let topic = world.until_ready_is("orders", "False", "AlreadyExists").await;
    assert_eq!(world.overview().await, before);
    assert_eq!(topic.status.as_ref().unwrap().topic_id, None);
    assert!(!has_finalizer(&topic));
    world.until_events_are("orders", &["AlreadyExists"]).await;
    world.delete("orders").await;
    world.until_gone("orders").await;
    assert_eq!(world.overview().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_grow_in_one_step_and_the_status_and_an_event_follow() {
    let world = TopicTestEnvironment::new("grow").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({ "partitions": 2 })).await;
    let before = world.until_ready("orders").await;
    world
        .apply(
            "orders",
            json!({ "partitions": 6, "config": { "segment.ms": 1000 } }),
        )
        .await;
    let after = world.until_ready("orders").await;
    let (before, after) = (before.status.unwrap(), after.status.unwrap());
    assert_eq!((before.partitions, after.partitions), (Some(2), Some(6)));
    assert_eq!(before.topic_id, after.topic_id);
    let row = world.topic_row("orders").await.unwrap();
    assert_eq!((row.partitions, row.config["segment.ms"].as_str()), (6, "1000"));
    let events = world
        .until_events_are("orders", &["Created", "PartitionsIncreased", "ConfigUpdated"])
        .await;
    assert_eq!(events[1].1, "from 2 to 6");
    assert_eq!(events[2].1, "set segment.ms to 1000 (was the default, 600000)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_more_partitions_than_wanted_keeps_them_and_says_so() {
    let world = TopicTestEnvironment::new("shrink").await;
    world.create_topic_row("orders", 5, &[]).await;
    let _operator = world.start_operator();
    world
        .apply(
            "orders",
            json!({ "partitions": 3, "config": { "segment.ms": 1000 } }),
        )
        .await;
    let topic = world.until_ready_is("orders", "False", "InvalidPartitions").await;
    assert!(message(&topic).contains("set it to 5"), "{}", message(&topic));
    assert_eq!(topic.status.unwrap().partitions, Some(5));
    let row = world.topic_row("orders").await.unwrap();
    assert_eq!((row.partitions, row.config["segment.ms"].as_str()), (5, "1000"));
    world.apply("orders", json!({ "partitions": 5 })).await;
    world.until_ready("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_enforced_then_left_alone_when_null_then_reset_when_absent() {
    let world = TopicTestEnvironment::new("settings").await;
    let _operator = world.start_operator();
    let segment_ms = async || {
        world
            .topic_row("orders")
            .await
            .unwrap()
            .config
            .get("segment.ms")
            .cloned()
    };
    world
        .apply(
            "orders",
            json!({ "config": { "segment.ms": 604_800_000_000_i64 } }),
        )
        .await;
    world.until_ready("orders").await;
    assert_eq!(
        segment_ms().await.as_deref(),
        Some("604800000000"),
        "larger than 32 bits"
    );
    world
        .apply("orders", json!({ "config": { "segment.ms": null } }))
        .await;
    world.until_ready("orders").await;
    assert_eq!(segment_ms().await.as_deref(), Some("604800000000"));
    world.apply("orders", json!({})).await;
    world.until_ready("orders").await;
    assert_eq!(segment_ms().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_and_the_others_are_applied() {
    let world = TopicTestEnvironment::new("wrong").await;
    let _operator = world.start_operator();
    let spec = json!({
        "partitions": 2, "segmentBytes": "1Ki", "config": { "retention.mss": "1", "segment.ms": 1000 }
    });
    world.apply("orders", spec).await;
    let topic = world.until_ready_is("orders", "False", "InvalidConfig").await;
    let message = message(&topic);
    for part in ["\"retention.mss\"", "\"retention.ms\"", "segment.bytes: 1024"] {
        assert!(message.contains(part), "{message}");
    }
    let row = world.topic_row("orders").await.unwrap();
    assert_eq!((row.partitions, row.config.len()), (2, 1));
    assert_eq!(row.config["segment.ms"], "1000");
    world
        .apply(
            "orders",
            json!({ "partitions": 2, "config": { "segment.ms": 1000 } }),
        )
        .await;
    world.until_ready("orders").await;
    world
        .until_events_are("orders", &["Created", "InvalidConfig"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_topic_hinders_no_other() {
    let world = TopicTestEnvironment::new("others").await;
    world.create_topic_row("taken", 1, &[]).await;
    let _operator = world.start_operator();
    world.apply("taken", json!({ "adopt": "Never" })).await;
    world.apply("wrong", json!({ "config": { "nonsense": 1 } })).await;
    for name in ["one", "two", "three"] {
        world.apply(name, json!({ "partitions": 3 })).await;
    }
    for name in ["one", "two", "three"] {
        world.until_ready(name).await;
    }
    world.until_ready_is("taken", "False", "AlreadyExists").await;
    world.until_ready_is("wrong", "False", "InvalidConfig").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_topic_is_not_changed_and_says_what_would_be() {
    let world = TopicTestEnvironment::new("paused").await;
    let _operator = world.start_operator();
    world
        .apply(
            "new",
            json!({ "paused": true, "partitions": 3, "deletionPolicy": "Delete" }),
        )
        .await;
    let topic = world.until_ready_is("new", "False", "Paused").await;
    assert!(
        message(&topic).contains("pending changes: claim the topic name; create the topic with 3 partitions")
    );
    assert!(!has_finalizer(&topic));
    assert_eq!(world.overview().await, Default::default());

    world
        .apply("orders", json!({ "config": { "segment.ms": 1000 } }))
        .await;
    world.until_ready("orders").await;
    world
        .apply(
            "orders",
            json!({ "paused": true, "config": { "segment.ms": 2000 } }),
        )
        .await;
    let topic = world.until_ready_is("orders", "False", "Paused").await;
    assert_eq!(
        message(&topic),
        "paused; pending changes: set segment.ms to 2000 (was 1000)"
    );
    let conditions = &topic.status.as_ref().unwrap().conditions;
    assert_eq!(
        find_condition(conditions, ConditionType::Paused).unwrap().status,
        "True"
    );
    assert_eq!(
        world.topic_row("orders").await.unwrap().config["segment.ms"],
        "1000"
    );

    world
        .apply(
            "orders",
            json!({ "paused": true, "config": { "segment.ms": 1000 } }),
        )
        .await;
    world.until_ready("orders").await;
    world
        .apply("orders", json!({ "config": { "segment.ms": 2000 } }))
        .await;
    world.until_ready("orders").await;
    assert_eq!(
        world.topic_row("orders").await.unwrap().config["segment.ms"],
        "2000"
    );
    world
        .until_events_are("orders", &["Created", "ConfigUpdated"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_topic_can_be_deleted() {
    let world = TopicTestEnvironment::new("paused-end").await;
    let _operator = world.start_operator();
    world.apply("orders", json!({ "deletionPolicy": "Delete" })).await;
    world.until_ready("orders").await;
    world
        .apply("orders", json!({ "deletionPolicy": "Delete", "paused": true }))
        .await;
    world
        .until("orders", "paused", |topic| {
            find_condition(&topic.status.as_ref().unwrap().conditions, ConditionType::Paused)
                .unwrap()
                .status
                == "True"
        })
        .await;
    world.delete("orders").await;
    world.until_gone("orders").await;
    assert_eq!(
        (world.topic_row("orders").await, world.owner_name("orders").await),
        (None, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_waits_for_its_cluster_and_is_woken_when_it_comes() {
    let world = TopicTestEnvironment::without_cluster("waits").await;
    let operator = world.start_operator_with(None, crate::environment::LONG_DRIFT_INTERVAL);
    world.apply("orders", json!({})).await;
    let topic = world.until_ready_is("orders", "Unknown", "ClusterNotFound").await;
    assert!(message(&topic).contains("\"main\""));
    world.create_cluster().await;
    world.until_ready_is("orders", "Unknown", "ClusterNotReady").await;
    operator.publish_access(
        &world,
        StoreAccess::Closed("the Secret postgres is missing".to_owned()),
    );
    world
        .until("orders", "told why", |topic| {
            message(topic) == "the Secret postgres is missing"
        })
        .await;

    // No retries while it waits.
    assert_eq!(operator.sum("streamhouse_operator_metadata_queries_total"), 0.0);
    operator.publish_access(&world, world.open_access());
    world.until_ready("orders").await;
    world.until_events_are("orders", &["Created"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_starts_takes_nothing_back_before_it_has_looked() {
    let world = TopicTestEnvironment::new("restart").await;
    let mut first = world.start_operator();
    world.apply("orders", json!({})).await;
    let before = world.until_ready("orders").await;
    first.stop().await;

    let second = world.start_operator_with(None, SHORT_DRIFT_INTERVAL);
    let passes = "streamhouse_operator_reconciles_total{kind=\"Topic\",outcome=\"waiting\"}";
    eventually("two passes", async || second.metric(passes) >= 2.0).await;
    assert_eq!(world.get("orders").await.unwrap(), before);
    second.publish_access(&world, StoreAccess::Closed("gone".to_owned()));
    world
        .until("orders", "unknown", |topic| {
            ready(topic) == ("Unknown", "ClusterNotReady")
        })
        .await;
    second.publish_access(&world, world.open_access());
    world.until_ready("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_once_takes_nothing_back_and_one_that_keeps_failing_does() {
    let world = TopicTestEnvironment::new("blink").await;
    let mut first = world.start_operator();
    world.apply("orders", json!({})).await;
    let before = world.until_ready("orders").await;
    first.stop().await;

    let mut second = world.start_operator_with(
        Some(StoreAccess::Open(FaultyStore::fail_first_overviews(
            world.store.clone(),
            2,
        ))),
        SHORT_DRIFT_INTERVAL,
    );
    let looks = "streamhouse_operator_metadata_queries_total{call=\"topics_overview\"}";
    eventually("a fourth look", async || second.metric(looks) >= 4.0).await;
    second.stop().await;
    assert_eq!(world.get("orders").await.unwrap(), before);

    let _third = world.start_operator_with(
        Some(StoreAccess::Open(FaultyStore::fail_first_overviews(
            world.store.clone(),
            4,
        ))),
        SHORT_DRIFT_INTERVAL,
    );
    let topic = world.until_ready_is("orders", "Unknown", "ClusterNotReady").await;
    assert!(message(&topic).contains("a test blinded it"));
    assert_eq!(topic.status.unwrap().topic_id, before.status.unwrap().topic_id);
    world.until_ready("orders").await;
}
