//! Two agents of one cluster, and clients that reach only one of them: by the listener for
//! port-forwards and by listeners of a file. Records, groups and deletions reach the leader, with
//! the meaning of its answers; nothing acknowledged is lost or stored twice while leaders change.

#![allow(clippy::needless_update)] // messages get new fields

mod authenticated;
mod changes;
mod groups;

use std::collections::BTreeSet;

use streamhouse_core::protocol::v1::{
    admin_service_client::AdminServiceClient, data_service_client::DataServiceClient,
    group_service_client::GroupServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{
    ledger::fetch_values,
    stores::{FaultyStores, user_partition},
    *,
};
use crate::{
    listeners::FORWARDED_HEADER,
    tls::{ListenerKind, tests::TestAuthority},
};

const FORWARD: &str = "--grpc-forward-listen=127.0.0.1:0";
/// The address that clients use, such as that of a port-forward.
const CLIENT_ADDRESS: &str = "localhost:7000";
const PARTITIONS: i32 = 4;

fn listener_address(agent: &Agent, listener: &str) -> SocketAddr {
    let further = agent.further_addresses().iter();
    let found = further.filter(|(name, _)| name == listener);
    found.map(|(_, address)| *address).next().unwrap()
}

/// Connects to a listener, as a client that believes to be connected to [`CLIENT_ADDRESS`].
async fn connect(agent: &Agent, listener: &str) -> Channel {
    let address = listener_address(agent, listener);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let origin = format!("http://{CLIENT_ADDRESS}").parse().unwrap();
    endpoint.origin(origin).connect().await.unwrap()
}

/// Two agents that lead two partitions of the topic `orders` each.
struct TwoAgents {
    stores: FaultyStores,
    one: Agent,
    two: Agent,
}

impl TwoAgents {
    async fn start(more_of_one: &[&str], more_of_two: &[&str]) -> Self {
        let stores = FaultyStores::new().await;
        let one = stores
            .start_ready_agent("one", &[&[FORWARD], more_of_one].concat())
            .await;
        let two = stores
            .start_ready_agent("two", &[&[FORWARD], more_of_two].concat())
            .await;
        create_topic(&one, "orders", PARTITIONS).await;
        wait_until("both lead and know it", || {
            led_count(&one) == 2 && led_count(&two) == 2 && knows_leaders(&one) && knows_leaders(&two)
        })
        .await;
        Self { stores, one, two }
    }

    /// Returns a partition that `agent` leads.
    fn partition_of(&self, agent: &Agent) -> i32 {
        let view = self.one.node.directory.view();
        let leads = |p: &i32| view.partition("orders", *p).unwrap().holder == incarnation(agent);
        (0..PARTITIONS).find(leads).unwrap()
    }
}

fn knows_leaders(agent: &Agent) -> bool {
    let view = agent.node.directory.view();
    view.agents().count() == 2
        && (0..PARTITIONS).all(|p| {
            view.partition("orders", p)
                .is_some_and(|record| view.is_led(record))
        })
}

/// A produce stream of one client.
struct ProducerStream {
    requests: mpsc::UnboundedSender<v1::ProduceRequest>,
    answers: Streaming<v1::ProduceResponse>,
}

impl ProducerStream {
    async fn open(channel: Channel) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut data = DataServiceClient::new(channel).max_encoding_message_size(64 << 20);
        let answers = data
            .produce(UnboundedReceiverStream::new(outgoing))
            .await
            .unwrap();
        Self {
            requests,
            answers: answers.into_inner(),
        }
    }

    fn send(&self, request_id: u64, partitions: Vec<v1::PartitionProduce>) {
        let request = v1::ProduceRequest {
            request_id,
            partitions,
            ..Default::default()
        };
        self.requests.send(request).unwrap();
    }

    async fn answer(&mut self) -> v1::ProduceResponse {
        let answer = timeout(EVENT_TIMEOUT, self.answers.message()).await;
        answer.unwrap().unwrap().unwrap()
    }

    /// Sends one part and returns its offset.
    async fn produce(&mut self, part: v1::PartitionProduce) -> Result<i64, streamhouse_core::Error> {
        self.send(1, vec![part]);
        let result = self.answer().await.partitions.remove(0);
        result
            .error
            .map_or(Ok(result.base_offset), |error| Err(error.into()))
    }
}

/// A batch of one record, of an idempotent producer if `producer` is its id and sequence.
fn part(partition: i32, value: &str, producer: Option<(i64, i32)>) -> v1::PartitionProduce {
    let mut batch = BatchBuilder::new(Compression::None);
    if let Some((id, sequence)) = producer {
        batch.set_producer(id, 0, sequence);
    }
    batch
        .append::<&str, &str>(0, None, Some(value.as_bytes()), &[])
        .unwrap();
    v1::PartitionProduce {
        topic: "orders".to_owned(),
        partition,
        records: batch.finish().unwrap(),
        ..Default::default()
    }
}

fn error_of(result: &v1::PartitionProduceResult) -> ErrorCode {
    let code = result.error.as_ref().map_or(0, |error| error.code);
    ErrorCode::from_number(code)
}

/// Returns the addresses of the agents and of the leaders in a metadata answer.
async fn metadata_addresses(channel: Channel) -> BTreeSet<String> {
    let request = v1::MetadataRequest {
        topics: vec!["orders".to_owned()],
    };
    let answer = DataServiceClient::new(channel).metadata(request).await;
    let answer = answer.unwrap().into_inner();
    let leaders = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let leaders = leaders.map(|partition| partition.leader.clone().unwrap().address);
    let agents = answer.agents.iter().map(|agent| agent.grpc_address.clone());
    leaders.chain(agents).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_answers_with_the_addresses_of_its_clients() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    let file = |address: &str| {
        format!(
            "listeners:\n- {{name: shared, listen: '127.0.0.1:0', address: '{address}'}}\n\
             - {{name: nodes, listen: '127.0.0.1:0', agents: {{one: 'node1:31001', two: 'node2:31002'}}}}\n"
        )
    };
    std::fs::write(&path, file("broker.example.com:9094")).unwrap();
    let listeners = format!("--listeners-file={}", path.display());
    let both = TwoAgents::start(&[&listeners], &[]).await;
    let set = |addresses: &[&str]| addresses.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let builtin = Endpoint::from_shared(format!("http://{}", both.one.addresses().0)).unwrap();
    let advertised = [&both.one, &both.two].map(|agent| agent.addresses().0.to_string());
    assert_eq!(
        metadata_addresses(builtin.connect().await.unwrap()).await,
        advertised.into_iter().collect()
    );
    for (listener, expected) in [
        ("forward", set(&[CLIENT_ADDRESS])),
        ("shared", set(&["broker.example.com:9094"])),
        ("nodes", set(&["node1:31001", "node2:31002"])),
    ] {
        let channel = connect(&both.one, listener).await;
        assert_eq!(metadata_addresses(channel.clone()).await, expected, "{listener}");
        let mut admin = AdminServiceClient::new(channel.clone());
        let cluster = admin
            .describe_cluster(v1::DescribeClusterRequest {})
            .await
            .unwrap();
        let agents = cluster.get_ref().agents.iter();
        let agents: BTreeSet<_> = agents.map(|agent| agent.grpc_address.clone()).collect();
        assert_eq!(agents, expected, "{listener}");
        let request = v1::DescribeTopicRequest {
            name: "orders".to_owned(),
        };
        let topic = admin.describe_topic(request).await.unwrap().into_inner();
        let leaders = topic.partitions.into_iter().map(|p| p.leader.unwrap().address);
        assert_eq!(leaders.collect::<BTreeSet<_>>(), expected, "{listener}");
        let request = v1::FindCoordinatorRequest {
            group_id: "billing".to_owned(),
        };
        let found = GroupServiceClient::new(channel)
            .find_coordinator(request)
            .await
            .unwrap();
        let address = found.into_inner().coordinator.unwrap().address;
        assert!(expected.contains(&address), "{listener}: {address}");
    }
    std::fs::write(&path, file("other.example.com:9094")).unwrap();
    let shared = connect(&both.one, "shared").await;
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while metadata_addresses(shared.clone()).await != set(&["other.example.com:9094"]) {
        assert!(Instant::now() < deadline, "the changed file is not used");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_every_leader_pass_through_one_agent_once_and_in_order() {
    let both = TwoAgents::start(&[], &[]).await;
    let mut stream = ProducerStream::open(connect(&both.two, "forward").await).await;
    let producer = both.two.node.metadata.allocate_producer_id().await.unwrap();
    // Several requests in flight, each with a batch for every partition.
    for sequence in 0..20 {
        let parts = (0..PARTITIONS).map(|p| part(p, &format!("{p}.{sequence}"), Some((producer, sequence))));
        stream.send(sequence as u64, parts.collect());
    }
    for sequence in 0..20 {
        let answer = stream.answer().await;
        assert_eq!(answer.request_id, sequence);
        for (p, result) in (0..).zip(&answer.partitions) {
            assert_eq!(
                (result.partition, result.base_offset, error_of(result)),
                (p, sequence as i64, ErrorCode::None)
            );
            assert_eq!(result.leader, None, "there is no better address");
        }
        assert_eq!(answer.partitions.len(), PARTITIONS as usize);
    }
    // A retry is acknowledged with the first offset.
    for p in 0..PARTITIONS {
        let retried = stream
            .produce(part(p, &format!("{p}.19"), Some((producer, 19))))
            .await;
        assert_eq!(retried, Ok(19));
    }
    for p in 0..PARTITIONS {
        let log = user_partition(&both.stores, "orders", p).await;
        let values = fetch_values(&both.two.node, &log, 0, 1 << 20).await.unwrap();
        let expected = (0..20).map(|n| (n, format!("{p}.{n}")));
        assert_eq!(values, expected.collect::<Vec<_>>());
    }
    let [forwarded] = scrape_values(&both.two, ["forwarded_requests_total{kind=\"produce\"}"]);
    assert!(forwarded >= 20.0, "{forwarded}");
    let [forwarded] = scrape_values(&both.one, ["forwarded_requests_total{kind=\"produce\"}"]);
    assert_eq!(forwarded, 0.0);
    let used = || both.two.node.request_memory.used();
    drop(stream);
    wait_until("the memory is free again", || used() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_can_reach_the_leader_is_told_its_address() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    let file =
        "listeners: [{name: nodes, listen: '127.0.0.1:0', agents: {one: 'node1:31001', two: 'node2:31002'}}]";
    std::fs::write(&path, file).unwrap();
    let listeners = format!("--listeners-file={}", path.display());
    let both = TwoAgents::start(&[], &[&listeners]).await;
    let mut stream = ProducerStream::open(connect(&both.two, "nodes").await).await;
    for (agent, id, hint) in [(&both.one, "one", Some("node1:31001")), (&both.two, "two", None)] {
        stream.send(1, vec![part(both.partition_of(agent), "x", None)]);
        let result = stream.answer().await.partitions.remove(0);
        assert_eq!((error_of(&result), result.base_offset), (ErrorCode::None, 0));
        let leader = result.leader.map(|leader| (leader.agent_id, leader.address));
        assert_eq!(leader, hint.map(|hint| (id.to_owned(), hint.to_owned())));
    }
}

/// Returns the name of a group that `agent` coordinates.
fn group_of(both: &TwoAgents, agent: &Agent) -> String {
    let view = both.one.node.directory.view();
    let coordinates = |group: &String| {
        let slot = streamhouse_core::murmur2::group_slot(group, streamhouse_metadata::GROUP_SLOTS);
        let record = view.partition(streamhouse_metadata::GROUP_SLOT_TOPIC, slot);
        record.unwrap().holder == incarnation(agent)
    };
    (0..).map(|n| format!("group-{n}")).find(coordinates).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_request_is_not_forwarded_again() {
    let both = TwoAgents::start(&[], &[]).await;
    let partition = both.partition_of(&both.one);
    let channel = connect(&both.two, "forward").await;
    let mut request = Request::new(futures::stream::iter([v1::ProduceRequest {
        request_id: 1,
        partitions: vec![part(partition, "x", None)],
        ..Default::default()
    }]));
    request
        .metadata_mut()
        .insert(FORWARDED_HEADER, "192.0.2.7".parse().unwrap());
    let mut data = DataServiceClient::new(channel.clone());
    let mut answers = data.produce(request).await.unwrap().into_inner();
    let result = answers.message().await.unwrap().unwrap().partitions.remove(0);
    assert_eq!(error_of(&result), ErrorCode::NotLeader);
    let leader = result.leader.unwrap();
    assert_eq!(
        (leader.agent_id.as_str(), leader.address.as_str()),
        ("one", CLIENT_ADDRESS)
    );
    let group = group_of(&both, &both.one);
    let mut request = Request::new(v1::DescribeGroupRequest { group_id: group });
    request
        .metadata_mut()
        .insert(FORWARDED_HEADER, "192.0.2.7".parse().unwrap());
    let error = GroupServiceClient::new(channel)
        .describe_group(request)
        .await
        .unwrap_err();
    assert_eq!(
        streamhouse_core::Error::from(error).code(),
        ErrorCode::NotCoordinator
    );
    assert_eq!(
        scrape_values(&both.one, ["forwarded_requests_total{kind=\"call\"}"]),
        [0.0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_fetched_and_deleted_through_any_agent() {
    let both = TwoAgents::start(&[], &[]).await;
    let partition = both.partition_of(&both.one);
    let channel = connect(&both.two, "forward").await;
    let mut stream = ProducerStream::open(channel.clone()).await;
    for n in 0..3 {
        assert_eq!(stream.produce(part(partition, "x", None)).await, Ok(n));
    }
    let mut admin = AdminServiceClient::new(channel.clone());
    let deleted = admin.delete_records(v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        partition,
        before_offset: 2,
    });
    assert_eq!(deleted.await.unwrap().into_inner().log_start_offset, 2);
    let mut data = DataServiceClient::new(channel);
    let fetched = data.fetch(v1::FetchRequest {
        max_wait_ms: 10_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partitions: vec![v1::PartitionFetch {
            topic: "orders".to_owned(),
            partition,
            offset: 2,
            max_bytes: 1 << 20,
            ..Default::default()
        }],
    });
    let fetched = fetched.await.unwrap().into_inner().partitions.remove(0);
    assert_eq!((fetched.error, fetched.high_watermark), (None, 3));
    assert_eq!(fetched.leader.unwrap().address, CLIENT_ADDRESS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_for_the_leader_fails_alone() {
    let both = TwoAgents::start(&["--max-request-bytes=64KiB"], &[]).await;
    let (theirs, own) = (both.partition_of(&both.one), both.partition_of(&both.two));
    let mut stream = ProducerStream::open(connect(&both.two, "forward").await).await;
    let large = "x".repeat(100 << 10);
    stream.send(1, vec![part(theirs, &large, None), part(own, &large, None)]);
    let answer = stream.answer().await;
    let codes: Vec<_> = answer.partitions.iter().map(error_of).collect();
    assert_eq!(codes, [ErrorCode::MessageTooLarge, ErrorCode::None]);
    assert_eq!(stream.produce(part(theirs, "small", None)).await, Ok(0));
    // Together they are too large; they are sent in smaller requests then.
    let half = "y".repeat(40 << 10);
    let mut sent = vec![part(theirs, &half, None), part(theirs, &half, None)];
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !sent.is_empty() {
        assert!(Instant::now() < deadline);
        stream.send(2, sent.clone());
        let answer = stream.answer().await;
        let results = sent.into_iter().zip(answer.partitions);
        sent = results
            .filter_map(|(part, result)| {
                let error = streamhouse_core::Error::from(result.error?);
                assert!(
                    error.is_retryable() && error.code().has_no_side_effects(),
                    "{error}"
                );
                Some(part)
            })
            .collect();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_too_many_batches_for_other_agents_stores_only_its_own() {
    let both = TwoAgents::start(&[], &[]).await;
    let (theirs, own) = (both.partition_of(&both.one), both.partition_of(&both.two));
    let mut stream = ProducerStream::open(connect(&both.two, "forward").await).await;
    let mut parts = vec![part(theirs, "x", None); 10_001];
    parts.insert(5000, part(own, "y", None));
    stream.send(1, parts);
    let results = stream.answer().await.partitions;
    assert_eq!(results.len(), 10_002);
    for (at, result) in results.iter().enumerate() {
        let expected = match at {
            5000 => (own, ErrorCode::None),
            _ => (theirs, ErrorCode::InvalidRequest),
        };
        assert_eq!((result.partition, error_of(result)), expected, "{at}");
    }
    assert_eq!(stream.produce(part(theirs, "x", None)).await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_forward_over_tls_and_trust_only_each_other() {
    let (dir, authority, foreign) = (
        TempDir::new().unwrap(),
        TestAuthority::new(),
        TestAuthority::new(),
    );
    let arguments = ["one", "two", "stranger"].map(|id| {
        let tls = dir.path().join(id);
        let issuer = if id == "stranger" { &foreign } else { &authority };
        issuer.write(&tls, ListenerKind::Grpc, "agents.shop.svc");
        std::fs::write(tls.join("grpc/ca.crt"), &issuer.pem).unwrap();
        format!("--tls-dir={}", tls.display())
    });
    let connect_tls = async |agent: &Agent, authority: &TestAuthority| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority.pem))
            .domain_name("agents.shop.svc");
        let endpoint = Endpoint::from_shared(format!("https://{}", listener_address(agent, "forward")));
        endpoint
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .unwrap()
    };
    let both = TwoAgents::start(&[&arguments[0]], &[&arguments[1]]).await;
    let mut stream = ProducerStream::open(connect_tls(&both.two, &authority).await).await;
    for p in 0..PARTITIONS {
        assert_eq!(stream.produce(part(p, "x", None)).await, Ok(0));
    }
    // An agent whose certificate is of another authority neither trusts the others nor is trusted.
    let both = TwoAgents::start(&[&arguments[0]], &[&arguments[2]]).await;
    let mut stream = ProducerStream::open(connect_tls(&both.two, &foreign).await).await;
    let refused = stream
        .produce(part(both.partition_of(&both.one), "x", None))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::LeaderNotAvailable, "{refused}");
    assert_eq!(
        stream
            .produce(part(both.partition_of(&both.two), "x", None))
            .await,
        Ok(0)
    );
}
