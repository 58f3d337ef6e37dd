//! The path of records through two agents, PostgreSQL and MinIO, and back to consumers.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use streamhouse_client::{AutoOffsetReset, Consumer, Producer, Record, TopicPartition, admin::NewTopic};
use streamhouse_testkit::CliRunner;
use streamhouse_tests::{DeliveryLedger, TestCluster};
use tokio::sync::{mpsc, watch};

type TestResult = anyhow::Result<()>;
type ValuesByKey = BTreeMap<String, Vec<String>>;

const ORDERS: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_is_consumed_by_a_group_once_and_in_order() -> TestResult {
    let cluster = TestCluster::start(2, &[])?;
    let topic = cluster.create_topic("orders", 6).await?;
    let leaders: HashSet<&String> = topic
        .partitions
        .iter()
        .map(|partition| &partition.leader)
        .collect();
    assert_eq!(
        leaders.len(),
        2,
        "both agents lead some of the partitions: {leaders:?}"
    );

    let sent = produce_orders(&cluster).await?;
    let (records, mut received) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let mut members = Vec::new();
    for _ in 0..3 {
        let member = Consumer::builder()
            .bootstrap(cluster.bootstrap())
            .group("billing")
            .topics(["orders"]);
        let member = member
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .build()
            .await?;
        members.push(tokio::spawn(read_until_stopped(
            member,
            records.clone(),
            stopped.clone(),
        )));
    }
    let mut got = ValuesByKey::new();
    let mut places = HashSet::new();
    while places.len() < ORDERS {
        let next = tokio::time::timeout(Duration::from_secs(60), received.recv()).await?;
        let (partition, offset, key, value) = next.expect("the members still poll");
        if places.insert((partition, offset)) {
            got.entry(key).or_default().push(value);
        }
    }
    assert_eq!(got, sent, "every key's records, in the order sent");
    stop.send(true)?;
    for member in members {
        member.await??;
    }
    let offsets = cluster.admin()?.group_offsets("billing").await?;
    assert_eq!(offsets.len(), 6);
    Ok(())
}

/// Sends the orders of fifty customers and waits until all are acknowledged.
async fn produce_orders(cluster: &TestCluster) -> anyhow::Result<ValuesByKey> {
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    let mut sent = ValuesByKey::new();
    let mut deliveries = Vec::new();
    for number in 0..ORDERS {
        let (key, value) = (format!("customer-{}", number % 50), format!("order-{number:06}"));
        let record = Record::new("orders", value.clone()).with_key(key.clone());
        deliveries.push(producer.send(record).await?);
        sent.entry(key).or_default().push(value);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(sent)
}

/// Runs one member of the group: forwards what it reads until it is stopped, then commits and
/// leaves.
async fn read_until_stopped(
    mut member: Consumer,
    records: mpsc::UnboundedSender<(i32, i64, String, String)>,
    stopped: watch::Receiver<bool>,
) -> TestResult {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    while !*stopped.borrow() {
        for record in &member.poll(Duration::from_millis(200)).await? {
            let _ = records.send((
                record.partition,
                record.offset,
                text(record.key),
                text(record.value),
            ));
        }
    }
    member.commit().await?;
    member.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_replace_wal_objects_and_hold_the_same_records() -> TestResult {
    let settings = [
        ("STREAMHOUSE_MAINTENANCE_INTERVAL", "200ms"),
        ("STREAMHOUSE_OBJECT_GRACE", "1s"),
    ];
    let cluster = TestCluster::start(2, &settings)?;
    cluster
        .create_topic_with(NewTopic::new("events", 3).with_config("segment.ms", "500"))
        .await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "events", 3);
    let load = ledger.produce(2000).await?;
    load.wait_for_acked(5000).await?;
    load.finish().await?;
    let before = ledger.check().await?;

    let names =
        streamhouse_testkit::wait_until("segments, and no WAL object", Duration::from_secs(60), || {
            let names = cluster.record_objects()?;
            let done = names.iter().any(|name| name.starts_with("events/"))
                && !names.iter().any(|name| name.starts_with("_wal/"));
            Ok(done.then_some(names))
        })?;
    for name in &names {
        let mut parts = name.split('/');
        assert_eq!(parts.next(), Some("events"), "{names:?}");
        assert!(
            parts
                .next()
                .is_some_and(|partition| partition.parse::<i32>().is_ok()),
            "{name}"
        );
        let offset = parts
            .next()
            .and_then(|file| file.strip_prefix("segment_")?.strip_suffix(".dat"));
        assert!(
            offset.is_some_and(|offset| offset.len() >= 10 && offset.parse::<i64>().is_ok()),
            "{name}"
        );
    }
    assert_eq!(
        ledger.check().await?,
        before,
        "an offset always has the same bytes"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_and_delete_records_move_the_log_start_and_free_the_objects() -> TestResult {
    let settings = [
        ("STREAMHOUSE_MAINTENANCE_INTERVAL", "200ms"),
        ("STREAMHOUSE_OBJECT_GRACE", "1s"),
    ];
    let cluster = TestCluster::start(1, &settings)?;
    let admin = cluster.admin()?;
    cluster.create_topic("short", 1).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "short", 1);
    let load = ledger.produce(1000).await?;
    load.wait_for_acked(1000).await?;
    let sent = load.finish().await? as i64;

    let partition = TopicPartition::new("short", 0);
    assert_eq!(admin.delete_records(&partition, Some(400)).await?, 400);
    let log = ledger.read().await?;
    assert_eq!(log[&0].first().map(|(offset, _)| *offset), Some(400));
    assert_eq!(log[&0].len() as i64, sent - 400);

    let change = streamhouse_client::admin::TopicChange::new().with_config("retention.ms", "100");
    admin.alter_topic("short", change).await?;
    let wait = Duration::from_secs(60);
    tokio::time::timeout(wait, async {
        while admin.describe_topic("short").await?.partitions[0].log_start_offset < sent {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    streamhouse_testkit::wait_until("no object with records", wait, || {
        Ok(cluster.record_objects()?.is_empty().then_some(()))
    })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topics_name_is_free_at_once_and_its_reader_reads_the_new_topic() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    let admin = cluster.admin()?;
    let first = cluster.create_topic("again", 2).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "again", 2);
    let load = ledger.produce(500).await?;
    load.wait_for_acked(200).await?;
    load.finish().await?;
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    producer.send(Record::new("again", "old")).await?.await?;
    let consumer = Consumer::builder().bootstrap(cluster.bootstrap());
    let partitions = (0..2).map(|partition| TopicPartition::new("again", partition));
    let mut reader = consumer
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .assign(partitions)
        .build()
        .await?;
    while reader.poll(Duration::from_millis(200)).await?.is_empty() {}
    let cli = CliRunner::new(cluster.bootstrap());
    cli.run(["topic", "delete", "again"])?.ensure_success()?;
    cli.run(["topic", "create", "again", "--partitions", "2"])?
        .ensure_success()?;
    let second = admin.describe_topic("again").await?;
    assert_ne!(first.topic_id, second.topic_id);
    assert!(
        second
            .partitions
            .iter()
            .all(|partition| partition.high_watermark == 0)
    );
    // New records go to the new topic, and its reader, whose position was that of the old topic,
    // receives them.
    let sent = producer.send(Record::new("again", "new")).await?.await?;
    assert_eq!(sent.offset, 0);
    let read = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let records = reader.poll(Duration::from_millis(200)).await?;
            let values = records
                .iter()
                .map(|record| (record.offset, record.value.map(<[u8]>::to_vec)));
            let values: Vec<_> = values.collect();
            if values.contains(&(0, Some(b"new".to_vec()))) {
                break Ok::<_, streamhouse_client::Error>(());
            }
        }
    });
    read.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_timestamp_in_the_tail_and_in_segments() -> TestResult {
    let cluster = TestCluster::start(1, &[("STREAMHOUSE_MAINTENANCE_INTERVAL", "200ms")])?;
    // The timestamps are old, so retention is disabled.
    let topic = NewTopic::new("times", 1)
        .with_config("segment.ms", "500")
        .with_config("retention.ms", "-1");
    cluster.create_topic_with(topic).await?;
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    let base = 1_700_000_000_000;
    for number in 0..1000 {
        let record = Record::new("times", format!("{number}"))
            .with_timestamp(base + number * 10)
            .with_partition(0);
        drop(producer.send(record).await?);
    }
    producer.close(Duration::from_secs(30)).await?;
    let partition = TopicPartition::new("times", 0);
    let consumer = Consumer::builder()
        .bootstrap(cluster.bootstrap())
        .assign([partition.clone()])
        .build()
        .await?;
    for round in ["the tail", "a segment"] {
        for (timestamp, offset) in [(0, 0), (base, 0), (base + 4995, 500), (base + 9990, 999)] {
            let found = consumer
                .offsets_for_times([(partition.clone(), timestamp)])
                .await?;
            assert_eq!(
                found.get(&partition).map(|found| found.offset),
                Some(offset),
                "{timestamp} in {round}"
            );
        }
        streamhouse_testkit::wait_until("a segment", Duration::from_secs(30), || {
            let names = cluster.minio().objects(&cluster.bucket)?;
            Ok(names
                .iter()
                .any(|name| name.starts_with("times/0/segment_"))
                .then_some(()))
        })?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_an_offset_as_soon_as_it_is_known() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    cluster.create_topic("slow", 1).await?;
    // One record per second: the file takes minutes.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pipeline.rs");
    let mut producer = cluster.cli().spawn([
        "produce",
        "slow",
        "--file",
        file,
        "--rate",
        "1",
        "--print-offsets",
    ])?;
    streamhouse_testkit::wait_until("the first offset", Duration::from_secs(60), || {
        Ok(producer.stdout().starts_with("slow-0@0\n").then_some(()))
    })?;
    assert!(producer.is_running());
    producer.signal("TERM")?;
    let status = producer.wait(Duration::from_secs(60))?;
    assert_eq!(
        status.code(),
        Some(1),
        "the rest was not sent: {}",
        producer.stderr()
    );
    assert!(producer.stderr().contains("interrupted"), "{}", producer.stderr());
    Ok(())
}
