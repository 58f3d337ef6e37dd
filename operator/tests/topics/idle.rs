//! Five thousand Topics at rest cost one query of the metadata store per pass and no request to the
//! API server.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use kube::api::{ListParams, PostParams};
use serde_json::json;
use streamhouse_operator::crd::Topic;
use streamhouse_testkit::{KubeApi, Postgres};

use crate::environment::{SHORT_DRIFT_INTERVAL, TopicTestEnvironment, database, eventually, install};

const TOPICS: usize = 5_000;
const OVERVIEW_QUERIES: &str = "streamhouse_operator_metadata_queries_total{call=\"topics_overview\"}";

/// Returns the number of write requests for the operator's kinds, as counted by the API server.
fn writes(api: &KubeApi) -> f64 {
    let metrics = api.metrics().unwrap();
    let ours = metrics.lines().filter(|line| {
        line.starts_with("apiserver_request_total{")
            && line.contains("group=\"streamhouse.io\"")
            && !["GET", "LIST", "WATCH"]
                .iter()
                .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    });
    ours.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

async fn versions(world: &TopicTestEnvironment) -> BTreeMap<String, String> {
    let topics = world.topics.list(&ListParams::default()).await.unwrap();
    let version = |topic: Topic| {
        (
            topic.metadata.name.unwrap(),
            topic.metadata.resource_version.unwrap(),
        )
    };
    topics.items.into_iter().map(version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_topics_at_rest_cost_one_query_a_look_and_no_write() {
    let api = KubeApi::start().unwrap();
    install(&api);
    let namespace = api.create_namespace("rest").unwrap();
    let store = database(Postgres::shared().unwrap(), &namespace).await;
    let world = TopicTestEnvironment::on(&api, namespace, store).await;
    world.create_cluster().await;
    let mut operator = world.start_operator();
    stream::iter(0..TOPICS)
        .map(|i| {
            let world = &world;
            async move {
                let spec = json!({ "partitions": 1 + i % 3, "config": { "segment.ms": 1000 + i } });
                let manifest = TopicTestEnvironment::manifest(&format!("topic-{i}"), spec);
                let topic: Topic = serde_json::from_value(manifest).unwrap();
                world.topics.create(&PostParams::default(), &topic).await.unwrap();
            }
        })
        .buffer_unordered(32)
        .collect::<Vec<()>>()
        .await;
    let ready = "streamhouse_operator_resources{kind=\"Topic\",ready=\"true\"}";
    let all = TOPICS as f64;
    let made = "streamhouse_operator_metadata_queries_total{call=\"create_topic\"}";
    for thousand in (1000..=TOPICS).step_by(1000) {
        eventually("a thousand more topics", async || {
            operator.metric(made) >= thousand as f64
        })
        .await;
    }
    eventually("all Topics", async || operator.metric(ready) == all).await;
    assert_eq!(world.overview().await.topics.len(), TOPICS);
    assert_eq!(operator.metric(made), all, "each was created once");
    operator.stop().await;

    let (before, writes_before) = (versions(&world).await, writes(&api));
    let mut operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    eventually("a fifth look", async || operator.metric(OVERVIEW_QUERIES) >= 5.0).await;
    operator.stop().await;
    assert_eq!(operator.metric(ready), all);
    assert_eq!(
        operator.sum("streamhouse_operator_metadata_queries_total"),
        operator.metric(OVERVIEW_QUERIES)
    );
    assert_eq!(operator.sum("streamhouse_operator_api_writes_total"), 0.0);
    assert_eq!(writes(&api), writes_before);
    assert!(versions(&world).await == before, "a Topic was written");
}
