//! The metrics of the requests of Kafka clients, and of gRPC clients beside them, as a scrape shows
//! them.

use bytes::Bytes;
use streamhouse_core::{
    kafka::{
        ApiKey, ApiVersionsRequest, FetchPartition, FetchRequest, FetchTopic, KafkaMessage, KafkaRequest,
        MessageReader, PartitionProduceData, ProduceRequest, TopicProduceData, encode_request,
    },
    protocol::v1::data_service_client::DataServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{console::get_data, *};

const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const API_VERSIONS_VERSION: i16 = 3;

/// A connection of a Kafka client.
struct KafkaWire(TcpStream);

impl KafkaWire {
    async fn connect(agent: &Agent) -> Self {
        let address = agent.kafka_address().unwrap();
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send<R: KafkaRequest>(&mut self, request: &R, version: i16) {
        let frame = encode_request(request, version, 7, Some("billing")).unwrap();
        self.0.write_all(&frame.concat()).await.unwrap();
    }

    async fn call<R: KafkaRequest>(&mut self, request: &R, version: i16) -> R::Response {
        self.send(request, version).await;
        let length = self.0.read_i32().await.unwrap();
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut answer).await.unwrap();
        // The header: the correlation id and, but for ApiVersions, tagged fields.
        let has_tags = R::KEY.is_flexible(version) && R::KEY != ApiKey::ApiVersions;
        let header = if has_tags { 5 } else { 4 };
        let mut reader = MessageReader::new(Bytes::from(answer).slice(header..));
        R::Response::decode(&mut reader, version).unwrap()
    }

    /// Waits until the agent has closed the connection.
    async fn closed(mut self) {
        let end = timeout(EVENT_TIMEOUT, self.0.read_u8()).await.unwrap();
        end.unwrap_err();
    }
}

fn batch(records: usize, value_bytes: usize) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None);
    for _ in 0..records {
        batch
            .append::<&str, &str>(0, None, Some(&vec![7; value_bytes]), &[])
            .unwrap();
    }
    batch.finish().unwrap()
}

fn produce_request(topic: &str, acks: i16, records: Bytes) -> ProduceRequest {
    let partition_data = vec![PartitionProduceData {
        index: 0,
        records: Some(records),
    }];
    ProduceRequest {
        acks,
        timeout_ms: 60_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_owned(),
            partition_data,
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

fn fetch_request(topic: &str, offset: i64, max_bytes: i32) -> FetchRequest {
    let partitions = vec![FetchPartition {
        partition: 0,
        current_leader_epoch: -1,
        fetch_offset: offset,
        partition_max_bytes: max_bytes,
        ..FetchPartition::default()
    }];
    FetchRequest {
        max_wait_ms: 60_000,
        min_bytes: 1,
        max_bytes,
        topics: vec![FetchTopic {
            topic: topic.to_owned(),
            partitions,
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// Returns the value of a series; 0 if it does not exist.
fn value(agent: &Agent, series: &str) -> f64 {
    agent.node.gauges().update();
    let text = agent.node.metrics.render().unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

fn topic_value(agent: &Agent, what: &str) -> f64 {
    value(
        agent,
        &format!("streamhouse_topic_{what}_total{{topic=\"orders\"}}"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_client_moves_the_counters_of_its_topic_once_for_each_record() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    let mut client = KafkaWire::connect(&one).await;
    let (small, large) = (batch(2, 10), batch(3, 20_000));
    for records in [&small, &large] {
        let request = produce_request("orders", -1, records.clone());
        let response = client.call(&request, PRODUCE_VERSION).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }
    let bytes = (small.len() + large.len()) as f64;
    assert_eq!(topic_value(&one, "produced_records"), 5.0);
    assert_eq!(topic_value(&one, "produced_bytes"), bytes);
    for (what, count) in [("records_sum", 5.0), ("records_count", 2.0), ("bytes_sum", bytes)] {
        let series = format!("streamhouse_agent_batch_size_{what}");
        assert_eq!(value(&one, &series), count, "{what}");
    }
    let mut offset = 0;
    while offset < 5 {
        // Each batch is larger than what is asked for, so its memory is found only at the second
        // attempt.
        let response = client
            .call(&fetch_request("orders", offset, 1), FETCH_VERSION)
            .await;
        let data = &response.responses[0].partitions[0];
        assert_eq!((data.error_code, data.high_watermark), (0, 5));
        let length = data.records.as_ref().map_or(0, |records| records.len());
        offset += if length == small.len() { 2 } else { 3 };
    }
    assert_eq!(topic_value(&one, "fetched_records"), 5.0);
    assert_eq!(topic_value(&one, "fetched_bytes"), bytes);
    for (series, expected) in [
        ("kafka_requests_total{api=\"Produce\",version=\"9\"}", 2.0),
        ("kafka_requests_total{api=\"Fetch\",version=\"12\"}", 2.0),
        ("kafka_request_duration_seconds_count{api=\"Produce\"}", 2.0),
        ("kafka_request_queue_seconds_count{api=\"Fetch\"}", 2.0),
        ("grpc_requests_total{method=\"Produce\"}", 0.0),
    ] {
        assert_eq!(
            value(&one, &format!("streamhouse_agent_{series}")),
            expected,
            "{series}"
        );
    }
    let traffic = |direction| {
        let series = format!("streamhouse_agent_listener_{direction}_bytes_total{{listener=\"kafka\"}}");
        value(&one, &series)
    };
    for direction in ["received", "sent"] {
        let counted = traffic(direction);
        assert!(
            (bytes..bytes + 2_000.0).contains(&counted),
            "{direction}: {counted}"
        );
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_kafka_clients_are_kafkas_and_not_those_of_grpc() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    let error = |api: &str, code: &str| {
        let series = format!("streamhouse_agent_kafka_errors_total{{api=\"{api}\",code=\"{code}\"}}");
        value(&one, &series)
    };
    let mut client = KafkaWire::connect(&one).await;
    let records = batch(1, 1);
    let mut twice = produce_request("missing", -1, records.clone());
    twice.topic_data.push(twice.topic_data[0].clone());
    client.call(&twice, PRODUCE_VERSION).await;
    assert_eq!(error("Produce", "UNKNOWN_TOPIC_OR_PARTITION"), 1.0, "one answer");
    client.call(&fetch_request("orders", 9, 100), FETCH_VERSION).await;
    assert_eq!(error("Fetch", "OFFSET_OUT_OF_RANGE"), 1.0);
    // Nobody is told, and the connection ends; it is an error all the same.
    let mut unacknowledged = KafkaWire::connect(&one).await;
    let request = produce_request("missing", 0, records);
    unacknowledged.send(&request, PRODUCE_VERSION).await;
    unacknowledged.closed().await;
    assert_eq!(error("Produce", "UNKNOWN_TOPIC_OR_PARTITION"), 2.0);
    let text = one.node.metrics.render().unwrap();
    assert!(!text.contains("streamhouse_agent_grpc_errors_total{"), "{text}");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_grpc_clients_are_counted_by_method() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    let address = format!("http://{}", one.addresses().0);
    let mut client = DataServiceClient::connect(address).await.unwrap();
    let part = v1::PartitionFetch {
        topic: "orders".to_owned(),
        offset: 9,
        max_bytes: 100,
        ..v1::PartitionFetch::default()
    };
    let fetch = v1::FetchRequest {
        max_bytes: 100,
        partitions: vec![part],
        ..v1::FetchRequest::default()
    };
    let answer = client.fetch(fetch).await.unwrap().into_inner();
    assert!(answer.partitions[0].error.is_some());
    let part = v1::PartitionProduce {
        topic: "missing".to_owned(),
        records: batch(1, 1),
        ..v1::PartitionProduce::default()
    };
    let produce = v1::ProduceRequest {
        partitions: vec![part.clone(), part],
        ..v1::ProduceRequest::default()
    };
    let requests = futures::stream::iter([produce]);
    let mut answers = client.produce(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.partitions.len(), 2);
    for (method, code, count) in [
        ("Fetch", "OFFSET_OUT_OF_RANGE", 1.0),
        ("Produce", "UNKNOWN_TOPIC_OR_PARTITION", 2.0),
    ] {
        let series = format!("streamhouse_agent_grpc_errors_total{{code=\"{code}\",method=\"{method}\"}}");
        assert_eq!(value(&one, &series), count, "{series}");
    }
    assert!(
        !one.node
            .metrics
            .render()
            .unwrap()
            .contains("streamhouse_agent_kafka_errors_total{")
    );
    drop((client, answers));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_requests_are_counted_by_reason() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let header = |api: i16, version: i16| {
        let mut frame = 10_i32.to_be_bytes().to_vec();
        frame.extend(api.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 7, 0xff, 0xff]);
        frame
    };
    for (reason, wire) in [
        ("too_large", b"GET / HTTP/1.1\r\n".to_vec()),
        ("invalid_length", [(-1_i32).to_be_bytes(); 4].concat()),
        ("malformed", [&3_i32.to_be_bytes()[..], &[0; 13]].concat()),
        ("malformed", header(ApiKey::Heartbeat.number(), 0)),
        ("unknown_api", header(999, 0)),
        ("unsupported_version", header(ApiKey::Heartbeat.number(), 99)),
    ] {
        let series = format!("streamhouse_agent_kafka_refused_frames_total{{reason=\"{reason}\"}}");
        let before = value(&one, &series);
        let mut client = KafkaWire::connect(&one).await;
        client.0.write_all(&wire).await.unwrap();
        client.closed().await;
        // It is counted a moment after the connection has ended.
        wait_until(reason, || value(&one, &series) >= before + 1.0).await;
        assert_eq!(value(&one, &series), before + 1.0, "{reason}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shown_by_the_software_that_their_clients_name() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let connections = |software: &str, version: &str| {
        let series =
            format!("streamhouse_agent_kafka_connections{{software=\"{software}\",version=\"{version}\"}}");
        value(&one, &series)
    };
    let named = |name: &str, version: &str| ApiVersionsRequest {
        client_software_name: name.to_owned(),
        client_software_version: version.to_owned(),
    };
    let mut client = KafkaWire::connect(&one).await;
    let mut other = KafkaWire::connect(&one).await;
    let response = client
        .call(&named("librdkafka", "2.15.0"), API_VERSIONS_VERSION)
        .await;
    assert_eq!((response.error_code, response.api_keys.is_empty()), (0, false));
    // As Kafka refuses them; the connection goes on.
    for (name, version) in [("", ""), ("evil\n}", "1"), ("sarama", "-")] {
        let response = other.call(&named(name, version), API_VERSIONS_VERSION).await;
        assert_eq!(
            (response.error_code, response.api_keys.is_empty()),
            (42, true),
            "{name:?}"
        );
    }
    assert_eq!(
        (connections("librdkafka", "2.15.0"), connections("_unnamed", "")),
        (1.0, 1.0)
    );
    let page = get_data(&one, "clients").await;
    assert_eq!((&page["connections"], &page["total"]), (&2.into(), &2.into()));
    let rows = page["software"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "librdkafka").unwrap();
    assert_eq!(
        (&row["version"], &row["client_ids"]),
        (&"2.15.0".into(), &1.into())
    );
    drop((client, other));
    wait_until("the connections are gone", || {
        connections("librdkafka", "2.15.0") + connections("_unnamed", "") == 0.0
    })
    .await;
    one.drain().await;
}
