//! Quotas: clients that exceed them are told to wait, and are not read from until they have; on
//! both protocols.

use streamhouse_core::{
    kafka::*,
    protocol::v1::{admin_service_client::AdminServiceClient, data_service_client::DataServiceClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    kafka_limits::{fetch_request, start_with_topic},
    kafka_security_admin::{alter_quotas, quota},
    stores::FaultyStores,
    *,
};

const THROTTLING_QUOTA_EXCEEDED: i16 = 89;

/// Limits the clients of these tests.
async fn limit(agent: &Agent, key: &str, value: f64) {
    let mut admin = RawKafkaClient::connect(agent).await;
    admin.client_id = "admin";
    let limited = match key {
        "connection_creation_rate" => ("ip", None),
        _ => ("client-id", Some("raw")),
    };
    let entries = vec![quota(&[limited], &[(key, value, false)])];
    assert_eq!(alter_quotas(&mut admin, entries, false).await, [0]);
}

/// Waits for the next answer of a client that was told to wait since `begun`, and asserts that it
/// did not come earlier.
async fn next_answer(client: &mut RawKafkaClient, begun: Instant, throttle_ms: i32) {
    let throttle = Duration::from_millis(u64::try_from(throttle_ms).unwrap());
    client.send(&ApiVersionsRequest::default(), 0).await;
    client.receive::<ApiVersionsRequest>(0).await.unwrap();
    let waited = begun.elapsed();
    assert!(
        waited + Duration::from_millis(2) >= throttle,
        "{waited:?} of {throttle:?}"
    );
}

fn throttles(agent: &Agent, quota: &str) -> f64 {
    let text = agent.node.metrics.render().unwrap();
    let name = format!("streamhouse_agent_quota_throttled_total{{quota=\"{quota}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_waits_until_its_debt_is_paid_also_if_it_does_not_wait_by_itself() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let request = produce_request("orders", -1, batch(&[7; 3_000]));
    assert_eq!(client.call(&request, 9).await.throttle_time_ms, 0, "no quota");
    limit(&one, "producer_byte_rate", 5_000.0).await;
    for acks in [-1, 1, 0] {
        let begun = Instant::now();
        let request = produce_request("orders", acks, batch(&[7; 10_000]));
        if acks == 0 {
            client.send(&request, 9).await;
            next_answer(&mut client, begun, 900).await;
            continue;
        }
        let answer = client.call(&request, 9).await;
        assert_eq!(produced(&answer).0, 0, "it is stored all the same");
        let throttle_ms = answer.throttle_time_ms;
        assert!((900..=2_500).contains(&throttle_ms), "{throttle_ms}");
        next_answer(&mut client, begun, throttle_ms - 100).await;
    }
    assert!(throttles(&one, "producer_byte_rate") >= 3.0);
    let mut other = RawKafkaClient::connect(&one).await;
    other.client_id = "other";
    let request = produce_request("orders", -1, batch(&[7; 100_000]));
    assert_eq!(
        other.call(&request, 9).await.throttle_time_ms,
        0,
        "another client id"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_gets_no_more_at_once_than_its_quota_and_waits_for_it() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    for _ in 0..20 {
        let request = produce_request("orders", -1, batch(&[7; 1_000]));
        assert_eq!(produced(&client.call(&request, 9).await).0, 0);
    }
    let read = async |client: &mut RawKafkaClient| {
        let begun = Instant::now();
        let answer = client.call(&fetch_request(0), 11).await;
        let records = answer.responses[0].partitions[0].records.as_ref().unwrap().len();
        (begun, records, answer.throttle_time_ms)
    };
    let (_, all, throttle_ms) = read(&mut client).await;
    assert!(all > 20_000 && throttle_ms == 0, "{all} {throttle_ms}");
    limit(&one, "consumer_byte_rate", 1_000.0).await;
    let (begun, part, throttle_ms) = read(&mut client).await;
    assert!((5_000..=11_000).contains(&part), "{part}");
    assert!((4_000..=11_000).contains(&throttle_ms), "{throttle_ms}");
    // With a higher limit, the debt is paid sooner, but the client was told and is not read from.
    limit(&one, "consumer_byte_rate", 1e9).await;
    next_answer(&mut client, begun, throttle_ms - 100).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_beyond_the_quota_are_refused_or_for_old_clients_created_later() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    limit(&one, "controller_mutation_rate", 0.5).await;
    let creation = |name: &str| CreateTopicsRequest {
        topics: vec![CreateTopicsTopic {
            name: name.to_owned(),
            num_partitions: 6,
            replication_factor: -1,
            ..CreateTopicsTopic::default()
        }],
        timeout_ms: 10_000,
        ..CreateTopicsRequest::default()
    };
    let created = client.call(&creation("first"), 6).await;
    assert_eq!(
        created.topics[0].error_code, 0,
        "the first one that exceeds it is created"
    );
    let refused = client.call(&creation("second"), 6).await;
    assert_eq!(refused.topics[0].error_code, THROTTLING_QUOTA_EXCEEDED);
    assert!(
        (1..=2_500).contains(&refused.throttle_time_ms),
        "{}",
        refused.throttle_time_ms
    );
    assert!(one.node.directory.view().topic("second").is_none());
    let planned = CreateTopicsRequest {
        validate_only: true,
        ..creation("second")
    };
    assert_eq!(client.call(&planned, 6).await.topics[0].error_code, 0);
    let deletion = DeleteTopicsRequest {
        topics: vec![DeleteTopicsTopic {
            name: Some("first".to_owned()),
            ..DeleteTopicsTopic::default()
        }],
        timeout_ms: 10_000,
        ..DeleteTopicsRequest::default()
    };
    let refused = client.call(&deletion, 6).await;
    assert_eq!(refused.responses[0].error_code, THROTTLING_QUOTA_EXCEEDED);
    let more = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic {
            name: "first".to_owned(),
            count: 7,
            ..CreatePartitionsTopic::default()
        }],
        timeout_ms: 10_000,
        ..CreatePartitionsRequest::default()
    };
    let refused = client.call(&more, 3).await;
    assert_eq!(refused.results[0].error_code, THROTTLING_QUOTA_EXCEEDED);
    let begun = Instant::now();
    let late = client.call(&creation("second"), 5).await;
    assert_eq!(late.topics[0].error_code, 0, "who cannot be told is throttled");
    assert!(late.throttle_time_ms > 5_000, "{}", late.throttle_time_ms);
    limit(&one, "controller_mutation_rate", 1e6).await;
    // Nothing is measured any more, but the client was told.
    drop(client);
    assert!(
        begun.elapsed() < EVENT_TIMEOUT,
        "nobody waits for a client that has gone"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_requests_has_a_limit_and_connections_of_an_address_have_a_rate() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    // A hundred-thousandth of a processor.
    limit(&one, "request_percentage", 0.001).await;
    let mut throttle_ms = 0;
    for _ in 0..50 {
        let answer = client.call(&MetadataRequest::default(), 12).await;
        throttle_ms = answer.throttle_time_ms;
        if throttle_ms > 0 {
            break;
        }
    }
    assert!(throttle_ms > 0);
    assert!(throttles(&one, "request_percentage") >= 1.0);
    limit(&one, "request_percentage", 1e6).await;
    limit(&one, "connection_creation_rate", 2.0).await;
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = RawKafkaClient::connect(&one).await;
        client.send(&ApiVersionsRequest::default(), 0).await;
        clients.push(client);
    }
    for mut client in clients {
        client.receive::<ApiVersionsRequest>(0).await.unwrap();
    }
    // Two are served at once, the fourth has to wait for a second.
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(throttles(&one, "connection_creation_rate") >= 2.0);
    one.drain().await;
}

async fn channel(agent: &Agent, user_agent: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.addresses().0)).unwrap();
    endpoint
        .user_agent(user_agent.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// Starts an agent whose gRPC client `app` has a quota, with ten batches of 10 kB.
async fn start_with_limited_app(key: &str, per_second: f64) -> (FaultyStores, Agent, Channel) {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut admin = RawKafkaClient::connect(&one).await;
    admin.client_id = "admin";
    for _ in 0..10 {
        let request = produce_request("orders", -1, batch(&[7; 10_000]));
        assert_eq!(produced(&admin.call(&request, 9).await).0, 0);
    }
    let entries = vec![quota(&[("client-id", Some("app"))], &[(key, per_second, false)])];
    assert_eq!(alter_quotas(&mut admin, entries, false).await, [0]);
    let app = channel(&one, "app streamhouse-client/1.0.0").await;
    (stores, one, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_producer_is_told_to_wait_and_nothing_more_is_read_meanwhile() {
    let (_stores, one, app) = start_with_limited_app("producer_byte_rate", 10_000.0).await;
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut data = DataServiceClient::new(app);
    let answers = data.produce(UnboundedReceiverStream::new(outgoing)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut produce = async || {
        let part = v1::PartitionProduce {
            topic: "orders".to_owned(),
            records: batch(&[7; 10_000]),
            ..Default::default()
        };
        let request = v1::ProduceRequest {
            request_id: 1,
            partitions: vec![part],
            ..Default::default()
        };
        requests.send(request).unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.partitions[0].error, None);
        answer.throttle_ms
    };
    produce().await;
    let begun = Instant::now();
    let throttle_ms = produce().await;
    assert!((500..=2_000).contains(&throttle_ms), "{throttle_ms}");
    produce().await;
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert!(throttles(&one, "producer_byte_rate") >= 2.0);
    one.drain().await;
}

/// Fetches by gRPC, and returns how many bytes came and for how long the client is throttled.
async fn fetch_all(channel: &Channel) -> (usize, u32) {
    let fetch = v1::FetchRequest {
        max_wait_ms: 1_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partitions: vec![v1::PartitionFetch {
            topic: "orders".to_owned(),
            max_bytes: 1 << 20,
            ..Default::default()
        }],
    };
    let answer = DataServiceClient::new(channel.clone()).fetch(fetch).await;
    let answer = answer.unwrap().into_inner();
    let bytes = answer.partitions.iter().map(|part| part.records.len()).sum();
    (bytes, answer.throttle_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_consumer_waits_for_its_next_records_and_others_do_not() {
    let (_stores, one, app) = start_with_limited_app("consumer_byte_rate", 20_000.0).await;
    let (bytes, throttle_ms) = fetch_all(&app).await;
    assert!(
        bytes > 80_000 && (2_000..=6_000).contains(&throttle_ms),
        "{bytes} {throttle_ms}"
    );
    let begun = Instant::now();
    for other in ["other streamhouse-client/1.0.0", "anything", "app"] {
        let (bytes, throttle_ms) = fetch_all(&channel(&one, other).await).await;
        assert!(
            bytes > 80_000 && throttle_ms == 0,
            "{other}: {bytes} {throttle_ms}"
        );
    }
    fetch_all(&app).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(1_500),
        "{:?}",
        begun.elapsed()
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_creates_no_more_partitions_than_its_quota() {
    let (_stores, one, app) = start_with_limited_app("controller_mutation_rate", 0.1).await;
    let create = async |name: &str| {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions: 3,
            ..Default::default()
        };
        let created = AdminServiceClient::new(app.clone()).create_topic(request).await;
        created.map(drop).map_err(streamhouse_core::Error::from)
    };
    create("first").await.unwrap();
    let refused = create("second").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    assert!(refused.retry_after_ms() > 1_000, "{refused}");
    let mut admin = AdminServiceClient::new(app.clone());
    let deletion = v1::DeleteTopicRequest {
        name: "first".to_owned(),
    };
    let refused = admin.delete_topic(deletion).await.unwrap_err();
    assert_eq!(
        streamhouse_core::Error::from(refused).code(),
        ErrorCode::ResourceExhausted
    );
    let growth = v1::AlterTopicRequest {
        name: "first".to_owned(),
        partitions: 5,
        ..Default::default()
    };
    let refused = admin.alter_topic(growth).await.unwrap_err();
    assert_eq!(
        streamhouse_core::Error::from(refused).code(),
        ErrorCode::ResourceExhausted
    );
    one.drain().await;
}
