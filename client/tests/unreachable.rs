//! Agents that advertise an unreachable address are named in the errors of everything that waits
//! for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::time::Duration;

use fake_agent::{
    FakeCluster,
    helpers::{POLL_TIMEOUT, TEST_TIMEOUT, of},
};
use streamhouse_client::{
    Client, ClientConfig, Consumer, Error, ErrorCode, Producer, Record, metrics::MetricsRegistry,
};
use tokio::time::timeout;

/// An address without a listener.
const UNREACHABLE_ADDRESS: &str = "127.0.0.1:1";

/// Starts two agents, of which one advertises an unreachable address. Returns settings with the
/// other's address.
async fn cluster(unreachable: usize) -> (FakeCluster, ClientConfig) {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 1);
    let mut settings = ClientConfig::new(cluster.address(1 - unreachable));
    settings.retry_backoff = Duration::from_millis(5);
    settings.retry_backoff_max = Duration::from_millis(50);
    settings.api_timeout = Duration::from_millis(500);
    let mut state = cluster.state.lock();
    state.addresses[unreachable] = UNREACHABLE_ADDRESS.to_owned();
    state.topics.get_mut("t").unwrap()[0].leader = unreachable;
    drop(state);
    (cluster, settings)
}

#[tokio::test]
async fn a_delivery_that_is_late_names_the_leader_that_does_not_answer() {
    let (_cluster, settings) = cluster(1).await;
    let producer = Producer::builder()
        .client_config(settings)
        .metrics_registry(MetricsRegistry::new())
        .delivery_timeout(Duration::from_millis(500))
        .build()
        .await
        .unwrap();
    let error = producer
        .send(Record::new("t", "a"))
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(
        error.cause().map(|cause| cause.code()),
        Some(ErrorCode::NetworkException)
    );
    let expected = format!("agent agent-1 advertises {UNREACHABLE_ADDRESS}, which does not answer (");
    assert!(error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn a_group_whose_coordinator_cannot_be_reached_says_so_while_it_waits() {
    let (_cluster, settings) = cluster(0).await;
    let client = Client::new(settings).unwrap();
    let consumer = Consumer::builder().client(&client).group("g").topics(["t"]);
    let mut consumer = consumer
        .metrics_registry(MetricsRegistry::new())
        .build()
        .await
        .unwrap();
    let outage = async {
        loop {
            assert!(consumer.poll(POLL_TIMEOUT).await.unwrap().is_empty());
            if let Some(outage) = consumer.coordinator_outage() {
                break outage;
            }
        }
    };
    let outage = timeout(TEST_TIMEOUT, outage).await.expect("no outage is told");
    let expected = format!("agent agent-0 advertises {UNREACHABLE_ADDRESS}, which does not answer (");
    assert!(outage.cause.message().contains(&expected), "{}", outage.cause);
    let named = client.unreachable_agents();
    assert!(
        named
            .iter()
            .any(|agent| agent.agent_id.as_deref() == Some("agent-0")),
        "{named:?}"
    );
    let committed = consumer.committed(&[of("t", 0)]).await;
    let error = committed.unwrap_err();
    assert!(error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn a_topic_that_is_not_found_in_time_names_the_bootstrap_address() {
    let mut settings = ClientConfig::new(UNREACHABLE_ADDRESS);
    settings.retry_backoff = Duration::from_millis(5);
    let producer = Producer::builder()
        .client_config(settings)
        .metrics_registry(MetricsRegistry::new())
        .max_block(Duration::from_millis(500));
    let error = producer.build().await.unwrap().topic("t").await.unwrap_err();
    let expected = format!("no agent answers at {UNREACHABLE_ADDRESS} (");
    assert!(error.to_string().contains(&expected), "{error}");
}
