//! What one Kafka client may take from an agent: memory, time, connections.

use bytes::Bytes;
use streamhouse_core::kafka::{
    ApiVersionsRequest, FetchPartition, FetchRequest, FetchTopic, JoinGroupRequest, JoinGroupRequestProtocol,
    MetadataRequest, MetadataRequestTopic, ProduceRequest, encode_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    stores::FaultyStores,
    *,
};
/// No incarnation ends because a test holds a write.
const LONG_LEASE: &str = "--lease-ttl=5m";

pub(super) async fn start_with_topic(stores: &FaultyStores, more: &[&str]) -> Agent {
    let one = stores
        .start_ready_agent("one", &[&[LONG_LEASE], more].concat())
        .await;
    create_topic(&one, "orders", 1).await;
    one
}

/// Waits until no request holds memory.
pub(super) async fn wait_for_memory(agent: &Agent) {
    wait_until("all memory is given back", || {
        let queued = agent.node.writer.get().map_or(0, |writer| writer.queued_bytes());
        let (requests, answers) = (&agent.node.request_memory, &agent.node.memory.fetch);
        (requests.used(), answers.used(), queued) == (0, 0, 0)
    })
    .await;
}

/// Returns a request for the records of `orders` from an offset on.
pub(super) fn fetch_request(offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 100,
        min_bytes: 1,
        topics: vec![FetchTopic {
            topic: "orders".to_owned(),
            partitions: vec![FetchPartition {
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// Returns an idempotent producer's batch of about 100 kB.
fn idempotent_batch(sequence: i32) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.set_producer(7, 0, sequence);
    batch
        .append::<&str, &str>(0, None, Some(&[b'x'; 100_000]), &[])
        .unwrap();
    batch.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn full_memory_stops_an_idempotent_pipeline_without_an_error() {
    let stores = FaultyStores::new().await;
    let small = [
        "--produce-memory=1MiB",
        "--max-request-bytes=512KiB",
        "--flush-bytes=64KiB",
    ];
    let one = start_with_topic(&stores, &small).await;
    let upload = one.node.failpoints.hold(FailPoint::BeforeUpload);
    let client = RawKafkaClient::connect(&one).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        for sequence in 0..40 {
            let request = produce_request("orders", -1, idempotent_batch(sequence));
            let frame = encode_request(&request, 9, sequence, None).unwrap();
            writer.write_all(&frame.concat()).await.unwrap();
        }
        writer
    });
    wait_until("memory is full", || {
        one.node
            .writer
            .get()
            .is_some_and(|writer| writer.queued_bytes() > 900_000)
    })
    .await;
    let used = one.node.request_memory.used();
    assert!(used < 1 << 20, "one request more is read: {used}");
    // Others are served meanwhile.
    let mut other = RawKafkaClient::connect(&one).await;
    let answer = other.call(&MetadataRequest::default(), 9).await;
    assert_eq!(answer.topics.len(), 1);
    drop(upload);
    for sequence in 0..40 {
        let length = reader.read_i32().await.unwrap();
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        reader.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[..4], i32::to_be_bytes(sequence), "in order");
        let mut body = streamhouse_core::kafka::MessageReader::new(Bytes::from(frame).slice(5..));
        let response = streamhouse_core::kafka::KafkaMessage::decode(&mut body, 9).unwrap();
        assert_eq!(produced(&response), (0, i64::from(sequence)));
    }
    drop((reader, sending.await.unwrap()));
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_that_wait_for_memory_leave_room_for_the_requests_of_others() {
    let stores = FaultyStores::new().await;
    let small = [
        "--produce-memory=1MiB",
        "--max-request-bytes=1MiB",
        "--flush-bytes=64KiB",
    ];
    let one = start_with_topic(&stores, &small).await;
    let upload = one.node.failpoints.hold(FailPoint::BeforeUpload);
    let records = batch(&[b'x'; 1_000_000]);
    let frame = encode_request(&produce_request("orders", -1, records), 9, 1, None).unwrap();
    let frame = Bytes::from(frame.concat());
    let capacity = one.node.request_memory.capacity();
    let producers = (0..capacity / frame.len()).map(|_| async {
        let mut client = RawKafkaClient::connect(&one).await;
        let (frame, stream) = (frame.clone(), &mut client.stream);
        // The rest is sent when there is memory.
        let _ = timeout(Duration::from_millis(500), stream.write_all(&frame)).await;
        client
    });
    let producers = futures::future::join_all(producers).await;
    wait_until("producers have what they may have", || {
        one.node.request_memory.used() > capacity / 3
    })
    .await;
    let mut client = RawKafkaClient::connect(&one).await;
    for _ in 0..3 {
        client.call(&MetadataRequest::default(), 9).await;
        client.call(&fetch_request(0), 11).await;
    }
    assert!(one.node.request_memory.used() <= capacity / 2 + (1 << 20));
    drop((producers, client, upload));
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_surrounds_records_counts_as_long_as_they_hold_it_in_memory() {
    const PADDING: usize = 200_000;
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let upload = one.node.failpoints.hold(FailPoint::BeforeUpload);
    let mut client = RawKafkaClient::connect(&one).await;
    // The first write is being uploaded; the second waits behind it, with its frame.
    client.send(&produce_request("orders", -1, batch(b"a")), 9).await;
    wait_until("it is being uploaded", || {
        one.node.metrics.connections.get() > 0 && write_ages(&one)[0] > 0.0
    })
    .await;
    let frame = encode_request(&produce_request("orders", -1, batch(b"b")), 9, 2, None).unwrap();
    let mut frame = frame.concat();
    // An unknown tagged field at the end of the request.
    assert_eq!(frame.pop(), Some(0));
    frame.extend([1, 99]);
    let mut length = PADDING as u32;
    while length >= 0x80 {
        frame.push(length as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
    frame.extend([0; PADDING]);
    let length = i32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&length.to_be_bytes());
    client.stream.write_all(&frame).await.unwrap();
    let queued = one.node.writer.get().unwrap();
    wait_until("it is accepted", || {
        queued.queued_bytes() >= 2 * batch(b"a").len()
    })
    .await;
    wait_until("only the rest of it is counted", || {
        let used = one.node.request_memory.used();
        (PADDING..PADDING + 200).contains(&used)
    })
    .await;
    drop((upload, queued));
    for offset in 0..2 {
        let response = client.receive::<ProduceRequest>(9).await.unwrap();
        assert_eq!(produced(&response), (0, offset));
    }
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_group_does_not_hold_the_frame_that_it_joined_with() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let request = JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: Bytes::from(vec![1; 100_000]),
        }],
        ..JoinGroupRequest::default()
    };
    let joined = client.call(&request, 2).await;
    assert_eq!(joined.error_code, 0);
    assert_eq!(joined.members[0].metadata.len(), 100_000);
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_a_topic_once_however_often_it_is_asked_for() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let wanted = |name: &str| MetadataRequestTopic {
        name: Some(name.to_owned()),
        ..MetadataRequestTopic::default()
    };
    let mut topics = vec![wanted("orders"); 5_000];
    topics.push(wanted("unknown"));
    let request = MetadataRequest {
        topics: Some(topics),
        ..MetadataRequest::default()
    };
    let answer = client.call(&request, 9).await;
    let names: Vec<_> = answer.topics.iter().map(|topic| topic.name.as_deref()).collect();
    assert_eq!(names, [Some("orders"), Some("unknown")]);
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_name_is_not_copied_for_each_partition() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let mut request = produce_request(&"x".repeat(32_000), -1, batch(b"x"));
    let part = request.topic_data[0].partition_data[0].clone();
    // 320 MB of names.
    request.topic_data[0].partition_data = vec![part; 10_000];
    let answer = client.call(&request, 9).await;
    let codes = answer.responses[0].partition_responses.iter();
    assert!(codes.clone().all(|part| part.error_code == 3));
    assert_eq!(codes.count(), 10_000);
    // More partitions than memory is taken for.
    let mut part = request.topic_data[0].partition_data[0].clone();
    part.records = None;
    request.topic_data[0].partition_data = vec![part; 200_000];
    client.send(&request, 9).await;
    client.assert_closed().await;
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_for_answers_that_nobody_reads_are_not_served_ahead() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    create_topic(&one, "large", 2_000).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let all = MetadataRequest::default();
    let frame = encode_request(&all, 9, 1, None).unwrap().concat();
    client.stream.write_all(&frame.repeat(500)).await.unwrap();
    let served = || {
        let text = one.node.metrics.render().unwrap();
        let count = "streamhouse_agent_kafka_request_duration_seconds_count{api=\"Metadata\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(count));
        line.map_or(0, |count| count.parse().unwrap())
    };
    wait_until("an answer waits", || {
        one.node.memory.fetch.used() > 0 && served() > 0
    })
    .await;
    let before = served();
    assert!(before < 500, "{before}");
    assert!(one.node.memory.fetch.used() < 8 << 20, "it is one answer");
    for _ in 0..500 {
        client.receive_frame().await.unwrap();
    }
    drop(client);
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_no_answers_and_goes_has_produced() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let request = ProduceRequest {
        timeout_ms: 0,
        ..produce_request("orders", 0, batch(b"x"))
    };
    let frame = encode_request(&request, 9, 1, None).unwrap().concat();
    // More than may be in flight.
    client.stream.write_all(&frame.repeat(500)).await.unwrap();
    drop(client);
    wait_until("all of them are stored", || {
        let view = one.node.directory.view();
        let uid = view.find_partition("orders", "", 0).unwrap().uid;
        let session = one.node.session().unwrap();
        session.partitions.get(uid).unwrap().high_watermark() == 500
    })
    .await;
    // What is refused ends the connection, and nothing else does.
    let mut client = RawKafkaClient::connect(&one).await;
    client.send(&request, 9).await;
    client.call(&ApiVersionsRequest::default(), 0).await;
    client.send(&produce_request("unknown", 0, batch(b"x")), 9).await;
    client.assert_closed().await;
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_within_a_request_leaves_nothing_behind() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let request = produce_request("orders", -1, idempotent_batch(0));
    let frame = encode_request(&request, 9, 1, None).unwrap().concat();
    for sent in [1, 5, 100, frame.len() - 1] {
        let mut client = RawKafkaClient::connect(&one).await;
        client.stream.write_all(&frame[..sent]).await.unwrap();
        if sent > 100 {
            wait_until("its memory is taken", || {
                one.node.request_memory.used() >= frame.len() - 4
            })
            .await;
        }
        drop(client);
        wait_for_memory(&one).await;
        wait_until("it has gone", || one.node.metrics.connections.get() == 0).await;
    }
    let mut client = RawKafkaClient::connect(&one).await;
    assert_eq!(
        produced(&client.call(&request, 9).await),
        (0, 0),
        "it is the first"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_what_they_fetch_leave_memory_to_others() {
    let stores = FaultyStores::new().await;
    let small = [
        "--max-fetch-bytes=1MiB",
        "--max-request-bytes=1MiB",
        "--cache-memory=4MiB",
    ];
    let one = start_with_topic(&stores, &small).await;
    let mut client = RawKafkaClient::connect(&one).await;
    for sequence in 0..10 {
        let request = produce_request("orders", -1, idempotent_batch(sequence));
        assert_eq!(produced(&client.call(&request, 9).await).0, 0);
    }
    let frame = encode_request(&fetch_request(0), 11, 1, None).unwrap().concat();
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut client = RawKafkaClient::connect(&one).await;
        client.stream.write_all(&frame.repeat(100)).await.unwrap();
        silent.push(client);
    }
    wait_until("answers wait", || one.node.memory.fetch.used() > 1 << 20).await;
    let budget = one.node.memory.fetch.capacity();
    for _ in 0..3 {
        // An answer, or the advice to ask again later.
        let answer = client.call(&fetch_request(0), 11).await;
        assert_eq!(answer.error_code, 0);
        assert!(one.node.memory.fetch.used() <= budget);
    }
    drop((silent, client));
    wait_for_memory(&one).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_that_do_not_exist_are_refused() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    for (acks, code) in [(-2, 21), (2, 21), (1, 0), (-1, 0)] {
        let answer = client
            .call(&produce_request("orders", acks, batch(b"x")), 9)
            .await;
        assert_eq!(produced(&answer).0, code, "{acks}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_in_flight_and_then_ends_connections() {
    let stores = FaultyStores::new().await;
    let one = start_with_topic(&stores, &[]).await;
    let upload = one.node.failpoints.hold(FailPoint::BeforeUpload);
    let (mut busy, mut idle) = (
        RawKafkaClient::connect(&one).await,
        RawKafkaClient::connect(&one).await,
    );
    idle.call(&ApiVersionsRequest::default(), 0).await;
    busy.send(&produce_request("orders", -1, batch(b"x")), 9).await;
    wait_until("it is being stored", || write_ages(&one)[0] > 0.0).await;
    let node = one.node.clone();
    let draining = tokio::spawn(one.drain());
    wait_until("the drain has begun", || !node.health.is_ready()).await;
    drop(upload);
    let answer = busy.receive::<ProduceRequest>(9).await.unwrap();
    assert_eq!(produced(&answer), (0, 0));
    busy.assert_closed().await;
    idle.assert_closed().await;
    draining.await.unwrap();
}
