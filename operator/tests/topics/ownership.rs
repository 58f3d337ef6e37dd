//! Two resources for one topic, and two operators that reconcile the same resources.

use serde_json::json;

use crate::environment::{
    SHORT_DRIFT_INTERVAL, TopicTestEnvironment, eventually, has_finalizer, message, ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_topics_for_one_name_one_manages_it_and_the_other_names_the_first() {
    let world = TopicTestEnvironment::new("two").await;
    let _operator = world.start_operator();
    world
        .apply("first", json!({ "topicName": "orders", "partitions": 2 }))
        .await;
    world.until_ready("first").await;
    let spec = json!({ "topicName": "orders", "partitions": 5, "deletionPolicy": "Delete" });
    world.apply("second", spec).await;
    let loser = world.until_ready_is("second", "False", "OwnershipConflict").await;
    assert!(message(&loser).starts_with(&format!("managed by {}/first", world.namespace)));
    assert!(!has_finalizer(&loser));
    assert_eq!(loser.status.unwrap().topic_id, None);
    let before = world.topic_row("orders").await.unwrap();
    assert_eq!(before.partitions, 2);

    world.delete("second").await;
    assert_eq!(world.get("second").await, None, "no finalizer delayed it");
    world
        .apply("first", json!({ "topicName": "orders", "partitions": 3 }))
        .await;
    world.until_ready("first").await;
    assert_eq!(world.topic_row("orders").await.unwrap().topic_id, before.topic_id);
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loser_takes_over_when_the_winner_goes() {
    let world = TopicTestEnvironment::new("heir").await;
    let _operator = world.start_operator();
    world.apply("first", json!({ "topicName": "orders" })).await;
    world.until_ready("first").await;
    world.apply("second", json!({ "topicName": "orders" })).await;
    world.until_ready_is("second", "False", "OwnershipConflict").await;
    world.delete("first").await;
    world.until_ready("second").await;
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_with_its_records_is_handed_over_if_another_topic_waits_for_it() {
    let world = TopicTestEnvironment::new("handed-over").await;
    let _operator = world.start_operator();
    let spec = json!({ "topicName": "orders", "partitions": 2, "deletionPolicy": "Delete" });
    world.apply("first", spec.clone()).await;
    world.until_ready("first").await;
    let before = world.topic_row("orders").await.unwrap();
    world.apply("second", spec).await;
    world.until_ready_is("second", "False", "OwnershipConflict").await;

    world.delete("first").await;
    world.until_gone("first").await;
    let heir = world.until_ready("second").await;
    assert_eq!(world.topic_row("orders").await, Some(before.clone()));
    assert_eq!(heir.status.unwrap().topic_id, Some(before.topic_id.to_string()));
    assert_eq!(world.owner_name("orders").await.as_deref(), Some("second"));
    let events = world.until_events_are("first", &["Created", "Retained"]).await;
    let heir = format!("handed over to Topic {}/second", world.namespace);
    assert!(events[1].1.contains(&heir), "{events:?}");
    world
        .until_events_are("second", &["OwnershipConflict", "Adopted"])
        .await;

    world.delete("second").await;
    world.until_gone("second").await;
    assert_eq!(world.topic_row("orders").await, None, "nobody waited any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_and_pairs_of_rivals_created_at_once_end_with_one_owner_each_and_at_rest() {
    let world = TopicTestEnvironment::new("rivals").await;
    let operators = [
        world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL),
        world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL),
    ];
    let names: Vec<String> = (0..10).map(|i| format!("topic-{i}")).collect();
    let all = names.iter().flat_map(|name| [(name, "a"), (name, "b")]);
    let spec = |name: &String| json!({ "topicName": name, "partitions": 2, "deletionPolicy": "Delete" });
    futures::future::join_all(all.map(|(name, rival)| {
        let (resource, spec) = (format!("{name}-{rival}"), spec(name));
        let world = &world;
        async move { world.apply(&resource, spec).await }
    }))
    .await;

    for name in &names {
        let (a, b) = (format!("{name}-a"), format!("{name}-b"));
        let settled = |topic: &streamhouse_operator::crd::Topic| {
            [("True", "Reconciled"), ("False", "OwnershipConflict")].contains(&ready(topic))
        };
        let a = world.until(&a, "settled", settled).await;
        let b = world.until(&b, "settled", settled).await;
        let (winner, loser) = if ready(&a).0 == "True" { (a, b) } else { (b, a) };
        assert_eq!((ready(&winner).0, ready(&loser).1), ("True", "OwnershipConflict"));
        assert!(has_finalizer(&winner) && !has_finalizer(&loser));
        assert_eq!(world.owner_name(name).await, winner.metadata.name);
        let row = world.topic_row(name).await.unwrap();
        assert_eq!(row.partitions, 2);
        assert_eq!(winner.status.unwrap().topic_id, Some(row.topic_id.to_string()));
    }
    assert_eq!(world.overview().await.topics.len(), names.len());

    // From here on neither operator writes, though both query.
    let writes = || {
        operators
            .iter()
            .map(|one| one.sum("streamhouse_operator_api_writes_total"))
            .sum::<f64>()
    };
    let looks = |of: &crate::environment::TestOperator| of.sum("streamhouse_operator_metadata_queries_total");
    eventually("rest", async || {
        let (before, seen) = (writes(), operators.iter().map(looks).collect::<Vec<_>>());
        let looked = async || {
            operators
                .iter()
                .zip(&seen)
                .all(|(one, seen)| looks(one) >= seen + 3.0)
        };
        eventually("three more looks of each", looked).await;
        writes() == before
    })
    .await;
    for operator in &operators {
        assert_eq!(operator.sum("streamhouse_operator_drift_corrected_total"), 0.0);
    }
}
