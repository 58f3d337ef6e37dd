//! Kafka listeners of the listeners file: the addresses that their clients are given.

use bytes::Bytes;
use streamhouse_core::kafka::{
    FindCoordinatorRequest, KafkaMessage as _, KafkaRequest, MessageReader, MetadataRequest,
    MetadataRequestTopic, MetadataResponse, encode_request,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{stores::FaultyStores, *};

const LEADER_NOT_AVAILABLE: i16 = 5;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const LISTENER_NOT_FOUND: i16 = 72;

/// Sends a request in a version without tagged fields, and returns the answer.
async fn ask<R: KafkaRequest>(socket: &mut TcpStream, request: &R, version: i16) -> R::Response {
    for buffer in encode_request(request, version, 7, Some("test")).unwrap() {
        socket.write_all(&buffer).await.unwrap();
    }
    let length = socket.read_i32().await.unwrap();
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    socket.read_exact(&mut frame).await.unwrap();
    // The number of the request comes first.
    let mut reader = MessageReader::new(Bytes::from(frame).slice(4..));
    R::Response::decode(&mut reader, version).unwrap()
}

async fn ask_metadata(socket: &mut TcpStream, version: i16) -> MetadataResponse {
    let topic = MetadataRequestTopic {
        name: Some("orders".to_owned()),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![topic]),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    ask(socket, &request, version).await
}

fn addresses(answer: &MetadataResponse) -> Vec<String> {
    let brokers = answer.brokers.iter();
    let mut addresses: Vec<String> = brokers
        .map(|broker| format!("{}:{}", broker.host, broker.port))
        .collect();
    addresses.sort();
    addresses
}

/// Returns the error codes of the partitions, each once.
fn codes(answer: &MetadataResponse) -> Vec<i16> {
    let partitions = answer.topics[0].partitions.iter();
    let mut codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

async fn start_two(stores: &FaultyStores, listeners: &str) -> (Agent, Agent) {
    let one = stores.start_ready_agent("one", &[listeners]).await;
    let two = stores.start_ready_agent("two", &[]).await;
    create_topic(&one, "orders", 4).await;
    wait_until("both lead and it is known", || {
        let view = one.node.directory.view();
        let known = |partition| {
            let record = view.partition("orders", partition);
            record.is_some_and(|record| view.is_led(record))
        };
        led_count(&one) == 2 && led_count(&two) == 2 && (0..4).all(known)
    })
    .await;
    (one, two)
}

fn further_address(agent: &Agent, listener: &str) -> SocketAddr {
    let mut further = agent.further_addresses().iter();
    further.find(|(name, _)| name == listener).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_given_the_addresses_of_the_listener_that_they_use() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    let file = |agents: &str| {
        let text = format!(
            "listeners: [{{name: outside, protocol: kafka, listen: '127.0.0.1:0', agents: {{{agents}}}}}]"
        );
        std::fs::write(&path, text).unwrap();
    };
    file("one: 'node1:31001', two: '[fd00::7]:31002'");
    let stores = FaultyStores::new().await;
    let (one, two) = start_two(&stores, &format!("--listeners-file={}", path.display())).await;
    let mut inside = TcpStream::connect(one.kafka_address().unwrap()).await.unwrap();
    let mut advertised = [&one, &two].map(|agent| agent.kafka_address().unwrap().to_string());
    advertised.sort();
    let mut outside = TcpStream::connect(further_address(&one, "outside"))
        .await
        .unwrap();
    assert_eq!(addresses(&ask_metadata(&mut inside, 8).await), advertised);
    let answer = ask_metadata(&mut outside, 8).await;
    assert_eq!(addresses(&answer), ["fd00::7:31002", "node1:31001"]);
    assert_eq!(codes(&answer), [0]);

    // An agent that the file does not name cannot be reached, and so leads nothing for its clients.
    file("one: 'node3:31001'");
    wait_until_answer(&mut outside, &["node3:31001"]).await;
    for (version, code) in [(5, LEADER_NOT_AVAILABLE), (8, LISTENER_NOT_FOUND)] {
        let answer = ask_metadata(&mut outside, version).await;
        assert_eq!(codes(&answer), [0, code], "version {version}");
        assert_eq!(codes(&ask_metadata(&mut inside, version).await), [0]);
    }
    let mut found = Vec::new();
    for number in 0..32 {
        let request = FindCoordinatorRequest {
            key: format!("group-{number}"),
            ..FindCoordinatorRequest::default()
        };
        let answer = ask(&mut outside, &request, 2).await;
        found.push((answer.error_code, answer.host));
    }
    found.sort();
    found.dedup();
    let coordinators = [
        (0, "node3".to_owned()),
        (COORDINATOR_NOT_AVAILABLE, String::new()),
    ];
    assert_eq!(found, coordinators);
}

async fn wait_until_answer(socket: &mut TcpStream, expected: &[&str]) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while addresses(&ask_metadata(socket, 8).await) != expected {
        assert!(Instant::now() < deadline, "the changed file is not used");
        sleep(Duration::from_millis(50)).await;
    }
}
