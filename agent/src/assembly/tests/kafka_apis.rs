//! What Kafka clients ask beside records, groups and settings, with the codes of Kafka 4.3.1.

use streamhouse_core::kafka::{
    DescribeLogDirsRequest, DescribeLogDirsRequestedTopic, DescribeProducersRequest,
    DescribeProducersTopicRequest, DescribeTopicPartitionsCursor, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsTopicRequest, ListPartitionReassignmentsRequest,
};

use super::{
    kafka_client::RawKafkaClient,
    kafka_records::{list_offset, new_producer_id, produce_code, sequenced_batch, timed_batch},
    stores::{FaultyStores, QUIET_ARGUMENTS, run_jobs_until_idle},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_lists_what_its_partitions_take() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let two = stores.start_ready_agent("two", &[]).await;
    create_topic(&one, "orders", 4).await;
    for partition in 0..4 {
        let stored = async |agent| produce(agent, "orders", partition, "some bytes").await.is_ok();
        let deadline = Instant::now() + EVENT_TIMEOUT;
        while !stored(&one).await && !stored(&two).await {
            assert!(Instant::now() < deadline, "nobody leads partition {partition}");
        }
    }
    let mut listed = HashMap::new();
    for agent in [&one, &two] {
        let mut client = RawKafkaClient::connect(agent).await;
        for (topics, version) in [
            (None, 1),
            (
                Some(vec![
                    DescribeLogDirsRequestedTopic {
                        topic: "orders".to_owned(),
                        partitions: vec![0, 1, 2, 3, 7],
                    },
                    DescribeLogDirsRequestedTopic {
                        topic: "nowhere".to_owned(),
                        partitions: vec![0],
                    },
                ]),
                5,
            ),
        ] {
            let mut answer = client.call(&DescribeLogDirsRequest { topics }, version).await;
            let directory = answer.results.remove(0);
            assert_eq!((answer.error_code, answer.results.len()), (0, 0));
            for partition in directory.topics.iter().flat_map(|topic| &topic.partitions) {
                let sizes: &mut Vec<i64> = listed.entry(partition.partition_index).or_default();
                sizes.push(partition.partition_size);
            }
        }
    }
    assert_eq!(listed.len(), 4);
    for sizes in listed.values() {
        assert_eq!((sizes.len(), sizes[0]), (2, sizes[1]), "by its leader alone");
        assert!(sizes[0] > 60);
    }
    two.drain().await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_timestamp_is_found_wherever_its_records_are() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &QUIET_ARGUMENTS).await;
    create_topic(&one, "times", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let now = one.node.produce().clock.now_ms();
    let found = async |client: &mut RawKafkaClient| {
        let found = list_offset(client, "times", -3, 7).await;
        (found.error_code, found.offset, found.timestamp - now)
    };
    let empty = list_offset(&mut client, "times", -3, 7).await;
    assert_eq!((empty.offset, empty.timestamp, empty.leader_epoch), (-1, -1, -1));
    for times in [
        [-5000, -1000, -4000],
        [-3000, -3000, -3000],
        [-1000, -1000, -2000],
    ] {
        let records = timed_batch(&times.map(|time| now + time));
        assert_eq!(produce_code(&mut client, "times", -1, records).await, 0);
    }
    assert_eq!(found(&mut client).await, (0, 1, -1000));
    run_jobs_until_idle(&stores, &one.node).await;
    assert_eq!(found(&mut client).await, (0, 1, -1000), "in a segment");
    let records = timed_batch(&[now - 500]);
    assert_eq!(produce_code(&mut client, "times", -1, records).await, 0);
    assert_eq!(found(&mut client).await, (0, 9, -500), "in a WAL object");
    for (before_offset, expected) in [(2, (0, 9, -500)), (10, (0, -1, -1 - now))] {
        let request = v1::DeleteRecordsRequest {
            topic: "times".to_owned(),
            partition: 0,
            before_offset,
        };
        topics::delete_records(&one.node.topics(), request).await.unwrap();
        assert_eq!(found(&mut client).await, expected);
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_timestamp_of_a_deleted_record_does_not_count() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &QUIET_ARGUMENTS).await;
    create_topic(&one, "times", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let now = one.node.produce().clock.now_ms();
    for times in [[-5000, -1000, -4000], [-4500, -3000, -3000]] {
        let records = timed_batch(&times.map(|time| now + time));
        assert_eq!(produce_code(&mut client, "times", -1, records).await, 0);
    }
    let request = v1::DeleteRecordsRequest {
        topic: "times".to_owned(),
        partition: 0,
        before_offset: 2,
    };
    topics::delete_records(&one.node.topics(), request).await.unwrap();
    let found = list_offset(&mut client, "times", -3, 11).await;
    assert_eq!((found.offset, found.timestamp - now), (4, -3000));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_without_tiers_are_answered_as_by_a_broker() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    produce(&one, "orders", 0, "x").await.unwrap();
    for (timestamp, version, code, offset) in [
        (-1, 1, 0, 1),
        (-2, 1, 0, 0),
        (-3, 6, 35, -1),
        (-4, 7, 35, -1),
        (-4, 8, 0, 0),
        (-5, 8, 35, -1),
        (-5, 9, 0, -1),
        (-6, 10, 35, -1),
        (-6, 11, 0, -1),
        (-7, 11, 35, -1),
    ] {
        let found = list_offset(&mut client, "orders", timestamp, version).await;
        assert_eq!((found.error_code, found.offset), (code, offset), "{timestamp}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_described_page_by_page() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    for name in ["a", "b", "c"] {
        create_topic(&one, name, 2).await;
    }
    let mut client = RawKafkaClient::connect(&one).await;
    for topics in [&[][..], &["c", "a", "b", "a"]] {
        let (mut pages, mut cursor) = (Vec::new(), None);
        loop {
            let request = DescribeTopicPartitionsRequest {
                topics: topics.iter().map(|name| wanted(name)).collect(),
                response_partition_limit: 3,
                cursor,
            };
            let page = client.call(&request, 0).await;
            let partitions = page.topics.iter().flat_map(|topic| {
                assert_eq!((topic.error_code, topic.topic_authorized_operations), (0, 3576));
                let indexes = topic.partitions.iter().map(|part| part.partition_index);
                indexes.map(move |index| format!("{}{index}", topic.name.clone().unwrap()))
            });
            pages.push(partitions.collect::<Vec<_>>());
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, [["a0", "a1", "b0"], ["b1", "c0", "c1"]], "{topics:?}");
    }
    let codes = async |client: &mut RawKafkaClient, topics: &[&str], cursor: Option<(&str, i32)>| {
        let request = DescribeTopicPartitionsRequest {
            topics: topics.iter().map(|name| wanted(name)).collect(),
            response_partition_limit: 0,
            cursor: cursor.map(|(topic, partition_index)| DescribeTopicPartitionsCursor {
                topic_name: topic.to_owned(),
                partition_index,
            }),
        };
        let page = client.call(&request, 0).await;
        let codes = page
            .topics
            .iter()
            .map(|topic| (topic.error_code, topic.partitions.len()));
        codes.collect::<Vec<_>>()
    };
    // At least one partition fits.
    assert_eq!(codes(&mut client, &["a"], None).await, [(0, 1)]);
    assert_eq!(codes(&mut client, &["a"], Some(("a", 7))).await, [(0, 0)]);
    assert_eq!(codes(&mut client, &["a"], Some(("a", -1))).await, [(42, 0)]);
    assert_eq!(codes(&mut client, &["a"], Some(("b", 0))).await, [(42, 0)]);
    let unknown = codes(&mut client, &["in/valid", "nowhere"], None).await;
    assert_eq!(unknown, [(17, 0), (3, 0)]);
    one.drain().await;
}

fn wanted(name: &str) -> DescribeTopicPartitionsTopicRequest {
    DescribeTopicPartitionsTopicRequest {
        name: name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_are_listed_and_nothing_is_reassigned() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let producer = new_producer_id(&mut client).await;
    for sequence in 0..3 {
        let records = sequenced_batch(producer, sequence);
        assert_eq!(produce_code(&mut client, "orders", -1, records).await, 0);
    }
    let topic = |name: &str, partition_indexes: &[i32]| DescribeProducersTopicRequest {
        name: name.to_owned(),
        partition_indexes: partition_indexes.to_vec(),
    };
    let request = DescribeProducersRequest {
        topics: vec![
            topic("orders", &[0, 9]),
            topic("nowhere", &[0]),
            topic("in/valid", &[0]),
        ],
    };
    let answer = client.call(&request, 0).await;
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
    assert_eq!(codes, [0, 3, 3, 17]);
    let listed = &answer.topics[0].partitions[0].active_producers;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].producer_id, listed[0].last_sequence), (producer, 2));
    assert_eq!(
        (listed[0].coordinator_epoch, listed[0].current_txn_start_offset),
        (-1, -1)
    );
    let request = ListPartitionReassignmentsRequest::default();
    let reassigned = client.call(&request, 0).await;
    assert_eq!((reassigned.error_code, reassigned.topics), (0, Vec::new()));
    one.drain().await;
}
