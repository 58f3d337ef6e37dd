//! Kafka clients on real agents: kafka-python produces, reads in groups and manages topics; records
//! pass between it and this project's own client unchanged.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use streamhouse_client::{AutoOffsetReset, Consumer, Producer, Record};
use streamhouse_core::time::system_clock;
use streamhouse_tests::{
    TestCluster,
    scripts::{finish_script, start_script},
};

type TestResult = anyhow::Result<()>;

const RECORDS: usize = 3_000;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the timestamp of the first record: an hour ago, so that no record is old enough to be
/// deleted.
fn first_timestamp() -> i64 {
    system_clock().now_ms() - 3_600_000
}

/// Runs a command of the script and returns what it prints.
fn kafka_client(cluster: &TestCluster, command: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let bootstrap = cluster.kafka_bootstrap();
    let arguments = [&[command, bootstrap.as_str()], arguments].concat();
    let mut client = start_script("tests/kafka_clients.py", command, &arguments)?;
    finish_script(&mut client, CLIENT_TIMEOUT)
}

/// Returns the numbers in the values of records, in order of the records.
fn numbers(records: &Value) -> anyhow::Result<Vec<usize>> {
    let records = records.as_array().context("a list of records")?;
    let number = |record: &Value| {
        let value = record["value"].as_str().context("a value")?;
        Ok(value.trim_start_matches("value-").parse()?)
    };
    records.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_client_reads_what_it_has_produced_once_and_as_it_was() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    for codec in ["none", "lz4", "gzip"] {
        cluster.create_topic(codec, 3).await?;
        let count = RECORDS.to_string();
        let first = first_timestamp();
        let places = kafka_client(&cluster, "produce", &[codec, &count, codec, &first.to_string()])?;
        let places = places.as_array().context("a list of places")?;
        assert_eq!(places.len(), RECORDS);
        let records = kafka_client(&cluster, "consume", &[codec, "readers", &count])?;
        let mut found = numbers(&records)?;
        found.sort_unstable();
        assert_eq!(found, (0..RECORDS).collect::<Vec<_>>(), "{codec}");
        for record in records.as_array().into_iter().flatten() {
            let number: usize = record["value"].as_str().context("a value")?[6..].parse()?;
            assert_eq!(record["key"], format!("key-{number}"));
            assert_eq!(record["timestamp"], first + number as i64);
            assert_eq!(record["headers"][0][1], number.to_string());
            let place = &places[number];
            assert_eq!((&record["partition"], &record["offset"]), (&place[0], &place[1]));
        }
        // The group has committed: there is nothing more to read.
        let offsets = cluster.admin()?.group_offsets("readers").await?;
        let of_topic = offsets.iter().filter(|offset| offset.partition.topic == codec);
        let committed: i64 = of_topic
            .filter_map(|offset| Some(offset.committed.as_ref()?.offset))
            .sum();
        assert_eq!(committed, RECORDS as i64);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_pass_between_both_protocols() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("both", 2).await?;
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    for number in 0..RECORDS {
        let record = Record::new("both", format!("value-{number}"))
            .with_key(format!("key-{number}"))
            .with_header("number", number.to_string());
        drop(producer.send(record).await?);
    }
    producer.close(Duration::from_secs(60)).await?;
    let count = RECORDS.to_string();
    let records = kafka_client(&cluster, "consume", &["both", "kafka-readers", &count])?;
    let mut found = numbers(&records)?;
    found.sort_unstable();
    assert_eq!(found, (0..RECORDS).collect::<Vec<_>>());

    let first = first_timestamp().to_string();
    kafka_client(&cluster, "produce", &["both", &count, "lz4", &first])?;
    let mut consumer = Consumer::builder()
        .bootstrap(cluster.bootstrap())
        .group("grpc-readers")
        .topics(["both"])
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    let mut read = 0;
    let reading = async {
        while read < 2 * RECORDS {
            for record in consumer.poll(Duration::from_millis(500)).await?.iter() {
                assert!(record.key.is_some_and(|key| key.starts_with(b"key-")));
                read += 1;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await??;
    assert_eq!(read, 2 * RECORDS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_position_and_timestamp() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    cluster.create_topic("times", 1).await?;
    let first = first_timestamp();
    kafka_client(
        &cluster,
        "produce",
        &["times", "1000", "none", &first.to_string()],
    )?;
    let wanted = (first + 500).to_string();
    let found = kafka_client(&cluster, "offsets", &["times", &wanted])?;
    assert_eq!((&found["beginning"], &found["end"]), (&0.into(), &1000.into()));
    assert_eq!(found["at"], serde_json::json!([500, first + 500]));
    let late = kafka_client(&cluster, "offsets", &["times", &(first + 5_000).to_string()])?;
    assert_eq!(late["at"], Value::Null);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_client_manages_topics() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    let done = kafka_client(&cluster, "admin", &["managed"])?;
    assert_eq!((&done["partitions"], &done["left"]), (&4.into(), &false.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_client_inspects_and_alters_a_topic() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("inspected", 3).await?;
    let found = kafka_client(&cluster, "inspect", &["inspected", "readers"])?;
    assert_eq!(
        found,
        serde_json::json!({
            "greatest": [1, -1000],
            "sized": [0],
            "page": [1, 1],
            "last_sequences": [2],
            "policy": "delete,compact",
            "deleted": ["NoError"],
            "reassigned": 0,
        })
    );
    Ok(())
}
