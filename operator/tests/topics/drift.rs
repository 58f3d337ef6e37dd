//! Changes of a topic by other clients are undone within the drift interval, reported and counted.

use std::collections::BTreeMap;

use serde_json::json;
use streamhouse_metadata::{GarbagePolicy, TopicChange};

use crate::environment::{LONG_DRIFT_INTERVAL, SHORT_DRIFT_INTERVAL, TopicTestEnvironment, eventually};

const CORRECTED: &str = "streamhouse_operator_drift_corrected_total{kind=\"Topic\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_somebody_changed_is_put_back() {
    let world = TopicTestEnvironment::new("changed").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world
        .apply(
            "orders",
            json!({ "config": { "segment.ms": 1000, "retention.bytes": null } }),
        )
        .await;
    world.until_ready("orders").await;
    let theirs = ["segment.ms", "retention.bytes", "max.message.bytes"]
        .map(|key| (key.to_owned(), Some("99999".to_owned())));
    let change = TopicChange {
        partitions: None,
        config: BTreeMap::from(theirs),
    };
    world.store.alter_topic("orders", &change).await.unwrap();
    let expected = [("retention.bytes", "99999"), ("segment.ms", "1000")];
    let expected: BTreeMap<String, String> = expected
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    eventually("the correction", async || {
        world.topic_row("orders").await.unwrap().config == expected
    })
    .await;
    let events = world
        .until_events_are("orders", &["Created", "DriftCorrected"])
        .await;
    assert!(
        events[1].1.contains("set segment.ms to 1000 (was 99999)"),
        "{events:?}"
    );
    assert!(events[1].1.contains("reset max.message.bytes"), "{events:?}");
    eventually("the count", async || operator.metric(CORRECTED) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_somebody_deleted_is_made_again_with_a_warning_and_another_id() {
    let world = TopicTestEnvironment::new("deleted").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.apply("orders", json!({ "partitions": 2 })).await;
    let before = world.until_ready("orders").await.status.unwrap().topic_id;
    world.store.delete_topic("orders").await.unwrap();
    let policy = GarbagePolicy {
        object_grace: std::time::Duration::ZERO,
        producer_expiry: LONG_DRIFT_INTERVAL,
        offsets_retention: LONG_DRIFT_INTERVAL,
        incarnation_retention: LONG_DRIFT_INTERVAL,
    };
    eventually("a new topic", async || {
        world.store.collect_garbage(&policy, 100).await.unwrap();
        world
            .topic_row("orders")
            .await
            .is_some_and(|row| Some(row.topic_id.to_string()) != before)
    })
    .await;
    let id = world.topic_row("orders").await.unwrap().topic_id.to_string();
    let topic = world
        .until("orders", "of the new id", |topic| {
            topic.status.as_ref().unwrap().topic_id == Some(id.clone())
        })
        .await;
    assert_eq!(topic.status.unwrap().partitions, Some(2));
    world.until_ready("orders").await;
    eventually("the warning", async || {
        world
            .events("orders")
            .await
            .iter()
            .any(|(reason, _)| reason == "Recreated")
    })
    .await;
    let events = world.events("orders").await;
    let (_, note) = events.iter().find(|(reason, _)| reason == "Recreated").unwrap();
    assert!(note.contains(&before.unwrap()) && note.contains(&id), "{note}");
    assert_eq!(operator.metric(CORRECTED), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_somebody_added_stay_and_are_named() {
    let world = TopicTestEnvironment::new("added").await;
    let _operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.apply("orders", json!({ "partitions": 2 })).await;
    world.until_ready("orders").await;
    let change = TopicChange {
        partitions: Some(4),
        config: BTreeMap::new(),
    };
    world.store.alter_topic("orders", &change).await.unwrap();
    let topic = world.until_ready_is("orders", "False", "InvalidPartitions").await;
    assert_eq!(topic.status.unwrap().partitions, Some(4));
    world
        .until_events_are("orders", &["Created", "InvalidPartitions"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_somebody_took_away_is_claimed_again() {
    let world = TopicTestEnvironment::new("unclaimed").await;
    let _operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    let topic = world.apply("orders", json!({})).await;
    world.until_ready("orders").await;
    assert!(
        world
            .store
            .release_topic("orders", &topic.metadata.uid.unwrap())
            .await
            .unwrap()
    );
    eventually("the claim", async || world.owner_name("orders").await.is_some()).await;
    world.until_events_are("orders", &["Created"]).await;
}
