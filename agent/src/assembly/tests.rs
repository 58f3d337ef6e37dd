//! Whole agents in one process, on one SQLite file and one directory: joining, leaving, crashing,
//! losing the metadata store. [`wrong_answers`] and [`false_answers`] check the offsets that they
//! return; [`admin_calls`] their admin calls and pages; [`console`] the console; [`foreign_polls`]
//! fetches at an agent that does not lead; [`kafka_apis`], [`kafka_configs`], [`kafka_groups`] and
//! [`kafka_records`] what Kafka clients ask, [`kafka_failing_stores`] what they learn of stores
//! that fail, [`kafka_limits`] and [`kafka_fuzz`] those that take too much or send nonsense,
//! [`kafka_listeners`] the addresses that they are given; [`kafka_sasl`] how they authenticate,
//! [`kafka_acls`] and [`kafka_denials`] what they may do, [`kafka_security_admin`] how they change
//! that; [`forwarding`] clients that reach only one agent; [`grpc_auth`] gRPC clients that
//! authenticate, [`oauth`] clients with tokens; [`topic_reuse`] topic names that are used again;
//! [`ownership`] the bucket's cluster; [`kafka_metrics`] the metrics of Kafka clients;
//! [`tls_agents`] TLS; [`stores`] stores that fail; [`takeover`] what other agents find after an
//! agent stopped at any step; [`bounded_waits`] the bounds of waits; [`simulation`] all of it at
//! random.

mod admin_calls;
mod bounded_waits;
mod console;
mod false_answers;
mod foreign_polls;
mod forwarding;
mod grpc_auth;
mod kafka_acls;
mod kafka_apis;
mod kafka_client;
mod kafka_configs;
mod kafka_denials;
mod kafka_failing_stores;
mod kafka_fuzz;
mod kafka_groups;
mod kafka_limits;
mod kafka_listeners;
mod kafka_metrics;
mod kafka_quotas;
mod kafka_records;
mod kafka_sasl;
mod kafka_security_admin;
mod ledger;
mod memory;
mod oauth;
mod ownership;
mod simulation;
pub(crate) mod stores;
mod takeover;
mod tls_agents;
mod topic_reuse;
mod wrong_answers;

use std::{collections::HashMap, path::Path, sync::atomic::Ordering};

use streamhouse_core::{
    ErrorCode, Incarnation,
    batch::{BatchBuilder, Compression},
    protocol::v1,
    settings::{AgentInvocation, load},
};
use streamhouse_metadata::AgentRegistration;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{settings::registration, *};
use crate::{failpoint::FailPoint, health::ReadinessCondition, produce::handler, topics};

/// Long enough for a busy machine; no test waits for it to elapse.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);

fn settings(dir: &Path, id: &str, more: &[&str]) -> AgentSettings {
    let data = format!("--data-dir={}", dir.display());
    let fixed = [
        "--dev",
        &data,
        "--grpc-listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
        "--kafka-listen=127.0.0.1:0",
        "--lease-ttl=2s",
        "--agent-id",
        id,
    ];
    let arguments = fixed.iter().chain(more).map(ToString::to_string);
    match load(arguments, [], &[]) {
        Ok(AgentInvocation::Command { settings, .. }) => *settings,
        other => panic!("{other:?}"),
    }
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn start_agent(dir: &Path, id: &str) -> Agent {
    let agent = Agent::start(settings(dir, id, &[])).await.unwrap();
    wait_ready(&agent).await;
    agent
}

async fn wait_ready(agent: &Agent) {
    let mut ready = agent.node.health.subscribe();
    let waited = timeout(EVENT_TIMEOUT, ready.wait_for(|ready| *ready)).await;
    assert!(matches!(waited, Ok(Ok(_))), "{:?}", agent.node.health.reasons());
}

fn led_count(agent: &Agent) -> usize {
    agent.node.session().map_or(0, |life| life.partitions.len())
}

fn incarnation(agent: &Agent) -> Option<Incarnation> {
    agent.node.session().map(|life| life.incarnation)
}

async fn create_topic(agent: &Agent, name: &str, partitions: i32) -> v1::TopicDescription {
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions,
        ..v1::CreateTopicRequest::default()
    };
    topics::create(&agent.node.topics(), request).await.unwrap()
}

async fn produce(
    agent: &Agent,
    topic: &str,
    partition: i32,
    value: &str,
) -> Result<i64, streamhouse_core::Error> {
    let mut batch = BatchBuilder::new(Compression::None);
    batch
        .append::<&str, &str>(0, None, Some(value.as_bytes()), &[])
        .unwrap();
    let records = batch.finish().unwrap();
    let part = v1::PartitionProduce {
        topic: topic.to_owned(),
        partition,
        records,
        topic_id: String::new(),
    };
    let pending = handler::accept(
        &agent.node.produce(),
        v1::ProduceRequest {
            request_id: 1,
            partitions: vec![part],
            ..Default::default()
        },
    )
    .await;
    let result = pending.finish(&agent.node.produce()).await.partitions.remove(0);
    result
        .error
        .map_or(Ok(result.base_offset), |error| Err(error.into()))
}

/// Sends a record to the agents in turn until one of them stores it.
async fn produce_to_any(agents: &[&Agent], topic: &str, value: &str) -> i64 {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    for agent in agents.iter().cycle() {
        match produce(agent, topic, 0, value).await {
            Ok(offset) => return offset,
            Err(error) => {
                assert!(
                    error.code().has_no_side_effects() && error.is_retryable(),
                    "{error}"
                );
                assert!(Instant::now() < deadline, "{error}");
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    unreachable!("there are agents")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_leads_everything_when_the_topic_is_created() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let topic = create_topic(&one, "orders", 7).await;
    assert_eq!(led_count(&one), 7);
    assert!(
        topic
            .partitions
            .iter()
            .all(|p| p.leader.as_ref().unwrap().agent_id == "one")
    );
    assert_eq!(produce(&one, "orders", 3, "hello").await, Ok(0));
    one.drain().await;
}

/// Returns the values of an agent's series, as a scrape shows them.
fn scrape_values<const N: usize>(agent: &Agent, series: [&str; N]) -> [f64; N] {
    agent.node.gauges().update();
    let text = agent.node.metrics.render().unwrap();
    series.map(|series| {
        let series = format!("streamhouse_agent_{series} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap().parse().unwrap()
    })
}

/// Returns how long the oldest write has been in upload and in commit.
fn write_ages(agent: &Agent) -> [f64; 2] {
    scrape_values(
        agent,
        [
            "write_stage_age_seconds{stage=\"upload\"}",
            "write_stage_age_seconds{stage=\"commit\"}",
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_hangs_shows_where_and_for_how_long() {
    let dir = TempDir::new().unwrap();
    // An incarnation is given up when a write hangs for as long as the lease.
    let settings = settings(dir.path(), "one", &["--lease-ttl=5m"]);
    let one = Arc::new(Agent::start(settings).await.unwrap());
    wait_ready(&one).await;
    create_topic(&one, "orders", 1).await;
    assert_eq!(write_ages(&one), [0.0, 0.0]);
    let upload = one.node.failpoints.hold(FailPoint::BeforeUpload);
    let commit = one.node.failpoints.hold(FailPoint::BeforeCommit);
    let writer = one.clone();
    let write = tokio::spawn(async move { produce(&writer, "orders", 0, "x").await });
    wait_until(
        "the upload ages",
        || matches!(write_ages(&one), [age, 0.0] if age > 0.0),
    )
    .await;
    drop(upload);
    wait_until(
        "the commit ages",
        || matches!(write_ages(&one), [0.0, age] if age > 0.0),
    )
    .await;
    drop(commit);
    assert_eq!(write.await.unwrap(), Ok(0));
    wait_until("nothing is under way", || write_ages(&one) == [0.0, 0.0]).await;
    Arc::into_inner(one).unwrap().drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_its_share_and_gives_it_back_when_it_drains() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 8).await;
    let two = start_agent(dir.path(), "two").await;
    wait_until("both lead the same", || {
        (led_count(&one), led_count(&two)) == (4, 4)
    })
    .await;
    let gone = incarnation(&two).unwrap();
    two.drain().await;
    wait_until("the first leads all", || led_count(&one) == 8).await;
    wait_until("the drained incarnation is sealed", || {
        one.node.directory.view().agent(gone).is_none()
    })
    .await;
    let text = one.node.metrics.render().unwrap();
    assert!(
        text.contains("streamhouse_agent_lease_changes_total{reason=\"balanced\"} 4"),
        "{text}"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn producing_goes_on_through_a_drain_and_nothing_acked_is_lost() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    let two = start_agent(dir.path(), "two").await;
    let first = produce_to_any(&[&one, &two], "orders", "0").await;
    // Drains the leader while records keep arriving.
    let (leader, other) = if led_count(&one) == 1 {
        (one, two)
    } else {
        (two, one)
    };
    let node = leader.node.clone();
    let draining = tokio::spawn(leader.drain());
    let mut acked = vec![first];
    while !draining.is_finished() || acked.len() < 50 {
        acked.push(produce_to_any(&[&other], "orders", "x").await);
    }
    draining.await.unwrap();
    let expected: Vec<i64> = (0..acked.len() as i64).collect();
    assert_eq!(acked, expected, "gap-free, in order, none twice");
    let description = topics::describe(&other.node.topics(), "orders").await.unwrap();
    assert_eq!(description.partitions[0].high_watermark, acked.len() as i64);
    assert!(node.session().is_none());
    other.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_heals_when_the_lease_expires() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 6).await;
    let two = start_agent(dir.path(), "two").await;
    wait_until("both lead the same", || {
        (led_count(&one), led_count(&two)) == (3, 3)
    })
    .await;
    two.crash().await;
    wait_until("the survivor leads all", || led_count(&one) == 6).await;
    for partition in 0..6 {
        assert_eq!(produce(&one, "orders", partition, "x").await, Ok(0));
    }
    let cluster = [
        "cluster_partitions{kind=\"topic\",state=\"led\"}",
        "cluster_partitions{kind=\"topic\",state=\"leaderless\"}",
        "cluster_partitions{kind=\"coordinator\",state=\"leaderless\"}",
        "unswept_lives",
    ];
    wait_until("the survivor shows it", || {
        scrape_values(&one, cluster) == [6.0, 0.0, 0.0, 1.0]
    })
    .await;
    let [age, stored, written] = scrape_values(
        &one,
        ["unswept_life_age_seconds", "stored_bytes", "produced_bytes_total"],
    );
    assert!(age > 0.0);
    assert_eq!(stored, written, "nothing was compacted or deleted yet");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cut_off_stops_itself_and_begins_a_new_life_when_it_can() {
    let dir = TempDir::new().unwrap();
    let deferred = Arc::new(DeferredMetadataStore::default());
    let one = Agent::start_with_deferred_metadata(
        settings(dir.path(), "one", &[]),
        deferred.clone(),
        OptionalTracer::default(),
    )
    .await
    .unwrap();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    create_topic(&one, "orders", 2).await;
    let (before, over) = (
        incarnation(&one).unwrap(),
        one.node.session().unwrap().ended.clone(),
    );
    deferred.disconnected.store(true, Ordering::Release);
    wait_until("the incarnation has ended", || one.node.session().is_none()).await;
    assert!(over.is_cancelled());
    assert!(!one.node.health.is_ready());
    let refused = produce(&one, "orders", 0, "x").await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    deferred.disconnected.store(false, Ordering::Release);
    wait_until("it leads again", || {
        led_count(&one) == 2 && one.node.health.is_ready()
    })
    .await;
    assert!(incarnation(&one).unwrap() > before);
    assert_eq!(produce_to_any(&[&one], "orders", "x").await, 0);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_the_metadata_store_ends_at_its_time_limit() {
    let dir = TempDir::new().unwrap();
    let deferred = Arc::new(DeferredMetadataStore::default());
    let settings = settings(dir.path(), "one", &["--drain-timeout=1s", "--lease-ttl=5m"]);
    let one = Agent::start_with_deferred_metadata(settings, deferred.clone(), OptionalTracer::default())
        .await
        .unwrap();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    create_topic(&one, "orders", 1).await;
    deferred.disconnected.store(true, Ordering::Release);
    let node = one.node.clone();
    one.drain().await;
    assert!(node.session().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_sealed_by_another_of_the_same_name_ends_and_a_new_one_begins() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 2).await;
    let before = incarnation(&one).unwrap();
    let impostor = registration(&one.node.settings, one.addresses(), None);
    one.node.metadata.register_agent(&impostor).await.unwrap();
    wait_until("a new incarnation leads", || {
        incarnation(&one).is_some_and(|now| now > before) && led_count(&one) == 2
    })
    .await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_let_go_and_new_partitions_are_taken_up() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 2).await;
    create_topic(&one, "payments", 3).await;
    let grown = v1::AlterTopicRequest {
        name: "orders".to_owned(),
        partitions: 4,
        ..v1::AlterTopicRequest::default()
    };
    assert_eq!(
        topics::alter(&one.node.topics(), grown)
            .await
            .unwrap()
            .partitions
            .len(),
        4
    );
    assert_eq!(led_count(&one), 7);
    topics::delete(&one.node.topics(), "payments").await.unwrap();
    wait_until("its partitions are released", || led_count(&one) == 4).await;
    let error = topics::describe(&one.node.topics(), "payments")
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownTopicOrPartition);
    one.drain().await;
}
