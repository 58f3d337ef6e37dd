//! Records that Kafka clients send, with the codes of Kafka 4.3.1.

use bytes::Bytes;
use streamhouse_core::{
    batch::DecodedRecords,
    kafka::{
        FetchPartition, FetchRequest, FetchTopic, InitProducerIdRequest, ListOffsetsPartition,
        ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic, MetadataRequest,
    },
};
use uuid::Uuid;

use super::{
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    stores::FaultyStores,
    wrong_answers::create_configured_topic,
    *,
};

/// Returns a batch of records with these times.
pub(super) fn timed_batch(times: &[i64]) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::Lz4);
    for time in times {
        batch.append::<&str, &str>(*time, None, Some(b"v"), &[]).unwrap();
    }
    batch.finish().unwrap()
}

/// Returns a new producer id.
pub(super) async fn new_producer_id(client: &mut RawKafkaClient) -> i64 {
    let response = client.call(&InitProducerIdRequest::default(), 5).await;
    response.producer_id
}

/// Returns a batch of an idempotent producer.
pub(super) fn sequenced_batch(producer_id: i64, sequence: i32) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.set_producer(producer_id, 0, sequence);
    batch.append::<&str, &str>(0, None, Some(b"v"), &[]).unwrap();
    batch.finish().unwrap()
}

/// Sends records and returns the code of the answer.
pub(super) async fn produce_code(client: &mut RawKafkaClient, topic: &str, acks: i16, records: Bytes) -> i16 {
    let response = client.call(&produce_request(topic, acks, records), 9).await;
    produced(&response).0
}

/// Returns the offset of a timestamp in the first partition.
pub(super) async fn list_offset(
    client: &mut RawKafkaClient,
    topic: &str,
    timestamp: i64,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: topic.to_owned(),
            partitions: vec![ListOffsetsPartition {
                timestamp,
                ..ListOffsetsPartition::default()
            }],
        }],
        ..ListOffsetsRequest::default()
    };
    let mut answer = client.call(&request, version).await;
    answer.topics.remove(0).partitions.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_broker_refuses_are_refused_with_its_codes() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    create_configured_topic(&one, "small", &[("max.message.bytes", "100")]).await;
    let limits = [
        ("message.timestamp.before.max.ms", "60000"),
        ("message.timestamp.after.max.ms", "60000"),
    ];
    create_configured_topic(&one, "timely", &limits).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let now = one.node.produce().clock.now_ms();
    let whole = batch(b"v");
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] = to;
        Bytes::from(bytes)
    };
    for (what, topic, acks, records, code) in [
        ("acks of 2", "orders", 2, whole.clone(), 21),
        ("acks of -2", "orders", -2, whole.clone(), 21),
        ("nothing", "orders", -1, Bytes::new(), 87),
        ("magic 0", "orders", -1, changed(16, 0), 87),
        ("magic 1", "orders", 1, changed(16, 1), 87),
        (
            "two batches",
            "orders",
            -1,
            [&whole[..], &whole].concat().into(),
            87,
        ),
        ("half a batch", "orders", -1, whole.slice(..40), 87),
        ("another CRC", "orders", -1, changed(20, whole[20] ^ 1), 2),
        ("a part of a transaction", "orders", -1, changed(22, 16), 53),
        ("an unknown topic", "nowhere", -1, whole.clone(), 3),
        ("a large batch", "small", -1, batch(&[b'x'; 200]), 10),
        ("old records", "timely", -1, timed_batch(&[now - 120_000]), 32),
        (
            "records of tomorrow",
            "timely",
            -1,
            timed_batch(&[now + 120_000]),
            32,
        ),
        ("a whole batch", "orders", 1, whole.clone(), 0),
    ] {
        let found = produce_code(&mut client, topic, acks, records).await;
        assert_eq!(found, code, "{what}");
    }
    // Without acknowledgements nothing is answered, and a failure ends the connection.
    client.send(&produce_request("orders", 0, whole.clone()), 9).await;
    let offset = client
        .call(&produce_request("orders", -1, whole.clone()), 9)
        .await;
    assert_eq!(produced(&offset), (0, 2));
    client
        .send(&produce_request("orders", 0, changed(16, 0)), 9)
        .await;
    client.assert_closed().await;
    let stored = produce(&one, "orders", 0, "x").await;
    assert_eq!(stored, Ok(3), "nothing that was refused is stored");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_sets_the_time_of_records_where_a_topic_asks_for_it() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let config = [
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "1"),
    ];
    create_configured_topic(&one, "appended", &config).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let before = one.node.produce().clock.now_ms();
    // Whatever times the producer has set.
    let request = produce_request("appended", -1, timed_batch(&[5, before + 7_200_000]));
    let response = client.call(&request, 9).await;
    let part = &response.responses[0].partition_responses[0];
    assert_eq!((part.error_code, part.base_offset), (0, 0));
    let time = part.log_append_time_ms;
    assert!(time >= before);
    let records = fetch_records(&mut client, "appended").await;
    let records = DecodedRecords::decode(records, 1 << 20).unwrap();
    let times: Vec<i64> = records
        .into_iter()
        .map(|record| record.unwrap().timestamp)
        .collect();
    assert_eq!(times, [time, time]);
    let found = list_offset(&mut client, "appended", -3, 7).await;
    assert_eq!((found.offset, found.timestamp), (0, time));
    let found = list_offset(&mut client, "appended", time, 7).await;
    assert_eq!((found.offset, found.timestamp), (0, time));
    one.drain().await;
}

async fn fetch_records(client: &mut RawKafkaClient, topic: &str) -> Bytes {
    let request = FetchRequest {
        max_wait_ms: 1_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![FetchTopic {
            topic: topic.to_owned(),
            partitions: vec![FetchPartition {
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    };
    let mut answer = client.call(&request, 12).await;
    let records = answer.responses.remove(0).partitions.remove(0).records;
    records.unwrap().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_whose_first_batch_is_missing_sends_it_again() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let producer = new_producer_id(&mut client).await;
    for (sequence, code) in [
        (1, 45),
        (0, 0),
        (1, 0),
        (1, 0),
        (3, 45),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
    ] {
        let request = produce_request("orders", -1, sequenced_batch(producer, sequence));
        let response = client.call(&request, 9).await;
        assert_eq!(produced(&response).0, code, "{sequence}");
    }
    // Stored so long ago that its offset is not known any more.
    assert_eq!(
        produce_code(&mut client, "orders", -1, sequenced_batch(producer, 0)).await,
        45
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_of_a_fetch_is_answered_also_those_of_unknown_topic_ids() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    for topic in ["first", "last"] {
        create_topic(&one, topic, 2).await;
    }
    let mut client = RawKafkaClient::connect(&one).await;
    for topic in ["first", "last"] {
        assert_eq!(
            produce_code(&mut client, topic, -1, batch(topic.as_bytes())).await,
            0
        );
    }
    let described = client.call(&MetadataRequest::default(), 12).await.topics;
    let id_of = |name: &str| {
        let topic = described.iter().find(|topic| topic.name.as_deref() == Some(name));
        topic.unwrap().topic_id
    };
    let unknown = [Uuid::from_u128(1), Uuid::from_u128(2)];
    let ids = [id_of("first"), unknown[0], unknown[1], id_of("last")];
    let partitions = [0, 1].map(|partition| FetchPartition {
        partition,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    });
    let topics = ids.map(|topic_id| FetchTopic {
        topic_id,
        partitions: partitions.to_vec(),
        ..FetchTopic::default()
    });
    let request = FetchRequest {
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: topics.to_vec(),
        ..FetchRequest::default()
    };
    let answer = client.call(&request, 13).await;
    let mut found = Vec::new();
    for topic in answer.responses {
        for part in topic.partitions {
            let bytes = part.records.map_or(0, |records| records.into_bytes().len());
            found.push((topic.topic_id, part.partition_index, part.error_code, bytes > 0));
        }
    }
    let of_known = |id| [(id, 0, 0, true), (id, 1, 0, false)];
    let of_unknown = |id| [(id, 0, 100, false), (id, 1, 100, false)];
    let expected = [
        of_known(ids[0]),
        of_unknown(ids[1]),
        of_unknown(ids[2]),
        of_known(ids[3]),
    ];
    assert_eq!(found, expected.concat());
    one.drain().await;
}
