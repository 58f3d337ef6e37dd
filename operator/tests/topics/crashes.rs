//! An operator that is killed at any point leaves nothing that the next one does not complete
//! exactly once.

use serde_json::json;
use streamhouse_operator::metadata_stores::StoreAccess;

use crate::{
    crash_points::{CrashPoint, CrashingStore, StopPoint},
    environment::{LONG_DRIFT_INTERVAL, TopicTestEnvironment, eventually, has_finalizer},
};

/// Runs an operator until its `calls`-th change of the metadata store stops, and kills it at that
/// point. Changes of the API server lie between those: claim, finalizer, create, status; delete,
/// release, finalizer.
async fn kill_operator_at(world: &TopicTestEnvironment, calls: i64, stop: StopPoint) {
    let point = CrashPoint::new(calls, stop);
    let store = CrashingStore::new(world.store.clone(), point.clone());
    let operator = world.start_operator_with(Some(StoreAccess::Open(store)), LONG_DRIFT_INTERVAL);
    point.stopped().await;
    operator.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_in_mid_create_is_followed_by_one_that_ends_with_one_topic() {
    let world = TopicTestEnvironment::new("mid-create").await;
    // Claim, create.
    for (calls, stop) in [
        (0, StopPoint::Before),
        (0, StopPoint::After),
        (1, StopPoint::Before),
        (1, StopPoint::After),
    ] {
        let name = format!("topic-{calls}-{stop:?}").to_lowercase();
        world
            .apply(&name, json!({ "partitions": 3, "deletionPolicy": "Delete" }))
            .await;
        kill_operator_at(&world, calls, stop).await;
        let made = world.topic_row(&name).await;

        let mut operator = world.start_operator();
        let topic = world.until_ready(&name).await;
        assert!(has_finalizer(&topic));
        let row = world.topic_row(&name).await.unwrap();
        assert_eq!(row.partitions, 3);
        assert_eq!(
            made.map_or(row.topic_id, |made| made.topic_id),
            row.topic_id,
            "created twice"
        );
        assert_eq!(topic.status.unwrap().topic_id, Some(row.topic_id.to_string()));
        assert_eq!(world.owner_name(&name).await, Some(name.clone()));
        operator.stop().await;
    }
    assert_eq!(world.overview().await.topics.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_in_mid_change_is_followed_by_one_that_ends_it() {
    let world = TopicTestEnvironment::new("mid-change").await;
    let mut operator = world.start_operator();
    world.apply("orders", json!({ "partitions": 1 })).await;
    world.until_ready("orders").await;
    operator.stop().await;
    for (partitions, stop) in [(2, StopPoint::Before), (3, StopPoint::After)] {
        let spec = json!({ "partitions": partitions, "config": { "segment.ms": partitions * 1000 } });
        world.apply("orders", spec).await;
        kill_operator_at(&world, 0, stop).await;
        let mut operator = world.start_operator();
        let topic = world.until_ready("orders").await;
        assert_eq!(topic.status.unwrap().partitions, Some(partitions));
        let row = world.topic_row("orders").await.unwrap();
        assert_eq!(row.partitions, partitions);
        assert_eq!(row.config["segment.ms"], (partitions * 1000).to_string());
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_in_mid_delete_is_followed_by_one_that_ends_it() {
    let world = TopicTestEnvironment::new("mid-delete").await;
    // Delete, release.
    for (calls, stop) in [
        (0, StopPoint::Before),
        (0, StopPoint::After),
        (1, StopPoint::Before),
        (1, StopPoint::After),
    ] {
        let name = format!("topic-{calls}-{stop:?}").to_lowercase();
        let mut operator = world.start_operator();
        world.apply(&name, json!({ "deletionPolicy": "Delete" })).await;
        world.until_ready(&name).await;
        operator.stop().await;
        world.delete(&name).await;
        kill_operator_at(&world, calls, stop).await;
        assert!(has_finalizer(&world.get(&name).await.unwrap()));

        let mut operator = world.start_operator();
        world.until_gone(&name).await;
        assert_eq!(
            (world.topic_row(&name).await, world.owner_name(&name).await),
            (None, None)
        );
        operator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_killed_at_any_time_leave_every_topic_to_be_made_once() {
    let world = TopicTestEnvironment::new("any-time").await;
    let names: Vec<String> = (0..100).map(|i| format!("topic-{i}")).collect();
    for name in &names {
        world
            .apply(name, json!({ "partitions": 2, "deletionPolicy": "Delete" }))
            .await;
    }
    let mut ids = std::collections::BTreeMap::new();
    for calls in [3, 7, 11, 13, 17] {
        kill_operator_at(&world, calls, StopPoint::After).await;
        for (name, row) in world.overview().await.topics {
            assert_eq!(
                *ids.entry(name).or_insert(row.topic_id),
                row.topic_id,
                "created twice"
            );
        }
    }
    let _operator = world.start_operator();
    for name in &names {
        world.until_ready(name).await;
    }
    let overview = world.overview().await;
    assert_eq!(
        (overview.topics.len(), overview.owners.len()),
        (names.len(), names.len())
    );
    for (name, id) in &ids {
        assert_eq!(overview.topics[name].topic_id, *id, "created twice");
    }
    // An operator that was killed may not have published its last events.
    let created_at_last = names.iter().rfind(|name| !ids.contains_key(*name)).unwrap();
    eventually("an event of a topic", async || {
        !world.events(created_at_last).await.is_empty()
    })
    .await;
}
