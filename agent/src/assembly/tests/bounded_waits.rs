//! Every wait has a bound: stores that hang or refuse, peers that die, two agents with one name.
//! What production distinguishes by time is distinguished here by leases that last longer than any
//! test.

use bytes::Bytes;
use streamhouse_core::protocol::v1::group_service_client::GroupServiceClient;
use streamhouse_metadata::Incarnation;
use tokio::net::TcpListener;
use tonic::transport::Endpoint;

use super::{stores::FaultyStores, *};
use crate::{
    faulty_metadata::{MetadataFault, MetadataFaultKind, MetadataMethod},
    store::{
        StoreErrorKind, StoreOperation,
        fault::{Toxic, ToxicKind},
    },
};

/// Longer than any test lasts.
const LONG_LEASE_ARGUMENT: &str = "--lease-ttl=5m";

fn put_toxic(kind: ToxicKind) -> Toxic {
    Toxic::new(kind).on(&[StoreOperation::Put])
}

/// Sends a record in the background.
fn spawn_produce(agent: &Arc<Agent>) -> JoinHandle<Result<i64, streamhouse_core::Error>> {
    let agent = agent.clone();
    tokio::spawn(async move { produce(&agent, "orders", 0, "x").await })
}

fn unmet_reason(agent: &Agent, condition: ReadinessCondition) -> String {
    agent.node.health.reason(condition).unwrap_or_default()
}

async fn drain_shared(agent: Arc<Agent>) {
    Arc::into_inner(agent).unwrap().drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_known_before_any_lease_ends_and_loses_nothing() {
    let stores = FaultyStores::new().await;
    let one = Arc::new(stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await);
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one);
    stores
        .store
        .add(put_toxic(ToxicKind::Error(StoreErrorKind::Unavailable)));
    let write = spawn_produce(&one);
    wait_until("it is not ready", || !one.node.health.is_ready()).await;
    let why = unmet_reason(&one, ReadinessCondition::ObjectStore);
    assert!(why.contains("injected failure of put"), "{why}");
    assert!(!write.is_finished(), "its bytes are kept");
    stores.store.clear();
    assert_eq!(write.await.unwrap(), Ok(0));
    wait_until("it is ready again", || one.node.health.is_ready()).await;
    assert_eq!(incarnation(&one), before, "no incarnation ended");
    drain_shared(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_learns_that_the_object_store_works_again() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    let toxic = stores
        .store
        .add(put_toxic(ToxicKind::Error(StoreErrorKind::Unauthorized)));
    for _ in 0..3 {
        // As a background job does that gives up.
        let put = one.node.store.put_new("key", Bytes::from_static(b"x"));
        assert!(put.await.is_err());
    }
    assert!(!one.node.health.is_ready());
    stores.store.remove(toxic);
    wait_until("it is ready again", || one.node.health.is_ready()).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_store_gives_its_partitions_up() {
    let stores = FaultyStores::new().await;
    let one = Arc::new(stores.start_ready_agent("one", &["--lease-ttl=1s"]).await);
    create_topic(&one, "orders", 1).await;
    let (before, over) = (
        incarnation(&one).unwrap(),
        one.node.session().unwrap().ended.clone(),
    );
    stores.store.add(put_toxic(ToxicKind::Hang));
    let error = spawn_produce(&one).await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::StorageUnavailable);
    assert!(
        error.is_retryable() && error.message().contains("the object store has taken no write"),
        "{error}"
    );
    assert!(over.is_cancelled());
    wait_until("its incarnation is sealed", || {
        one.node.directory.view().agent(before).is_none()
    })
    .await;
    assert_eq!(
        incarnation(&one),
        None,
        "no incarnation while nothing can be stored"
    );
    let why = unmet_reason(&one, ReadinessCondition::Joined);
    assert!(why.contains("the object store took no write"), "{why}");
    wait_until("the object store is to blame", || {
        !unmet_reason(&one, ReadinessCondition::ObjectStore).is_empty()
    })
    .await;
    // Producers learn the reason meanwhile, and the age of the write is still measured.
    let error = produce(&one, "orders", 0, "x").await.unwrap_err();
    assert!(
        error.is_retryable()
            && error.code().has_no_side_effects()
            && error.message().contains("object store"),
        "{error}"
    );
    assert!(write_ages(&one)[0] > 0.0);
    stores.store.clear();
    wait_until("it leads again", || {
        led_count(&one) == 1 && one.node.health.is_ready()
    })
    .await;
    assert!(incarnation(&one).unwrap() > before);
    assert_eq!(produce(&one, "orders", 0, "x").await, Ok(0), "nothing was stored");
    assert_eq!(write_ages(&one), [0.0, 0.0]);
    drain_shared(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_commits_hang_gives_its_partitions_up_while_renewals_succeed() {
    let stores = FaultyStores::new().await;
    let one = Arc::new(stores.start_ready_agent("one", &["--lease-ttl=1s"]).await);
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one).unwrap();
    let hung = stores.metadata.hang([MetadataMethod::commit_object]);
    let write = spawn_produce(&one);
    hung.wait_for_blocked_calls(1).await;
    let error = write.await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::MetadataUnavailable);
    assert!(
        error.message().contains("the metadata store has taken no write"),
        "{error}"
    );
    wait_until("the incarnation has ended", || incarnation(&one) != Some(before)).await;
    hung.release();
    wait_until("it leads", || led_count(&one) == 1 && one.node.health.is_ready()).await;
    // The abandoned commit was not made.
    assert_eq!(produce_to_any(&[&one], "orders", "x").await, 0);
    drain_shared(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_shorter_than_the_lease_ends_no_life() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one);
    let throttled = put_toxic(ToxicKind::Error(StoreErrorKind::Throttled)).times(5);
    stores.store.add(throttled);
    for offset in 0..3 {
        assert_eq!(produce(&one, "orders", 0, "x").await, Ok(offset));
    }
    assert_eq!(incarnation(&one), before);
    assert!(one.node.health.is_ready());
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_write_that_hangs_does_not_keep_a_new_life_from_beginning() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one).unwrap();
    let lost = MetadataFault::new(MetadataFaultKind::HangAfter, [MetadataMethod::commit_offsets]);
    let lost = stores.metadata.add_fault(lost);
    let channel = Endpoint::from_shared(format!("http://{}", one.addresses().0)).unwrap();
    let mut groups = GroupServiceClient::new(channel.connect().await.unwrap());
    let commit = v1::CommitOffsetsRequest {
        group_id: "g".to_owned(),
        generation: -1,
        offsets: vec![v1::CommitOffset {
            topic: "orders".to_owned(),
            offset: 0,
            ..Default::default()
        }],
        ..Default::default()
    };
    let committing = tokio::spawn(async move { groups.commit_offsets(commit).await });
    lost.wait_for_blocked_calls(1).await;
    one.node.metadata.seal(before).await.unwrap();
    wait_until("a new incarnation leads", || {
        incarnation(&one).is_some_and(|now| now > before)
            && one.node.health.is_ready()
            && led_count(&one) == 1
    })
    .await;
    let error = streamhouse_core::Error::from(committing.await.unwrap().unwrap_err());
    assert_eq!(error.code(), ErrorCode::MetadataUnavailable, "outcome unknown");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_hangs_does_not_keep_a_life_from_ending() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one).unwrap();
    let hung = stores.metadata.hang([
        MetadataMethod::bounds,
        MetadataMethod::move_leases,
        MetadataMethod::groups,
    ]);
    create_topic_without_faults(&stores, "payments").await;
    hung.wait_for_blocked_calls(1).await;
    stores.metadata.inner().seal(before).await.unwrap();
    wait_until("the incarnation has ended", || incarnation(&one) != Some(before)).await;
    hung.release();
    wait_until("a new incarnation leads", || {
        led_count(&one) == 2 && one.node.health.is_ready()
    })
    .await;
    one.drain().await;
}

/// Creates a topic past the faults.
async fn create_topic_without_faults(stores: &FaultyStores, name: &str) {
    let topic = streamhouse_metadata::NewTopic {
        name: name.to_owned(),
        partitions: 1,
        config: Default::default(),
    };
    stores.metadata.inner().create_topic(&topic).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_looks_for_news_once_however_many_partitions_moved() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    let part = |partition| v1::PartitionProduce {
        topic: "moved".to_owned(),
        partition,
        records: Bytes::new(),
        ..Default::default()
    };
    let request = v1::ProduceRequest {
        request_id: 1,
        partitions: (0..100).map(part).collect(),
        ..Default::default()
    };
    let before = stores.metadata.calls(MetadataMethod::snapshot);
    let pending = handler::accept(&one.node.produce(), request).await;
    let looks = stores.metadata.calls(MetadataMethod::snapshot) - before;
    // A few more are caused by background tasks.
    assert!(looks < 50, "{looks} looks");
    let answer = pending.finish(&one.node.produce()).await;
    assert!(answer.partitions.iter().all(|part| part.error.is_some()));
    one.drain().await;
}

/// Registers another agent that leads its share, as far as the metadata store knows.
async fn register_impostor(one: &Agent, id: &str, listener: &TcpListener) -> Incarnation {
    let http = one.addresses().1;
    let mut other = registration(&one.node.settings, (listener.local_addr().unwrap(), http), None);
    other.agent_id = id.to_owned();
    other.lease_ttl = Duration::from_secs(3600);
    let registered = one.node.metadata.register_agent(&other).await.unwrap();
    registered.incarnation
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_died_is_replaced_without_waiting_for_its_lease() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    create_topic(&one, "orders", 8).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = register_impostor(&one, "two", &listener).await;
    wait_until("it got its share", || led_count(&one) == 4).await;
    drop(listener.accept().await.unwrap());
    drop(listener);
    wait_until("the survivor leads all", || led_count(&one) == 8).await;
    assert!(one.node.directory.view().agent(dead).is_none());
    for partition in 0..8 {
        assert_eq!(produce(&one, "orders", partition, "x").await, Ok(0));
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_crashed_is_replaced_and_its_name_taken_over_at_once() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    create_topic(&one, "orders", 2).await;
    one.crash().await;
    // The same name at another address; the old address refuses connections.
    let again = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    wait_until("it leads all", || led_count(&again) == 2).await;
    again.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_never_answered_is_not_judged() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[LONG_LEASE_ARGUMENT]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let unreachable = AgentRegistration {
        agent_id: "behind-nat".to_owned(),
        grpc_address: address.to_string(),
        lease_ttl: Duration::from_secs(3600),
        ..registration(&one.node.settings, one.addresses(), None)
    };
    let registered = one.node.metadata.register_agent(&unreachable).await.unwrap();
    // An agent that is probed comes and goes meanwhile, which proves that time has passed.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = register_impostor(&one, "two", &listener).await;
    listener.accept().await.unwrap();
    drop(listener);
    wait_until("the dead one is gone", || {
        let view = one.node.directory.view();
        view.agent(dead).is_none() && view.agent(registered.incarnation).is_some()
    })
    .await;
    assert_eq!(stores.metadata.calls(MetadataMethod::seal_if_silent), 1);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_with_one_name_do_not_take_turns() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("same", &[LONG_LEASE_ARGUMENT]).await;
    create_topic(&one, "orders", 1).await;
    let before = incarnation(&one).unwrap();
    let two = stores.start_agent("same", &[LONG_LEASE_ARGUMENT]).await;
    wait_until("the second says why", || {
        unmet_reason(&two, ReadinessCondition::Joined)
            .contains("another agent with the id same is running at")
    })
    .await;
    let why = unmet_reason(&two, ReadinessCondition::Joined);
    let address = one.addresses().0.to_string();
    assert!(why.contains(&address) && why.contains("--agent-id"), "{why}");
    assert_eq!(produce(&one, "orders", 0, "x").await, Ok(0));
    assert_eq!((incarnation(&one), incarnation(&two)), (Some(before), None));
    assert!(one.node.health.is_ready());
    // The second agent waits for the first to leave.
    one.drain().await;
    wait_until("the second leads", || led_count(&two) == 1).await;
    two.drain().await;
}

#[test]
fn a_data_directory_is_for_one_agent() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path(), "one", &[]);
    let claimed = lock_data_dir(&settings).unwrap();
    assert!(claimed.is_some());
    let error = lock_data_dir(&settings).unwrap_err();
    assert!(error.is::<DataDirInUseError>(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&dir.path().display().to_string()) && text.contains("--data-dir"),
        "{text}"
    );
    drop(claimed);
    assert!(lock_data_dir(&settings).unwrap().is_some());
}
