//! The whole pipeline: producer -> batches -> LZ4 -> agent -> object storage -> consumer, with
//! metrics at every step. Three topics of four partitions; 100 messages in 5 batches; a consumer
//! group; then the contents of the stores, read directly, and the metrics of every component.
//!
//! Run with `cargo run --release --features metrics -p streamhouse-client --example
//! phase_7_complete_demo`. Uses the cluster at `STREAMHOUSE_BOOTSTRAP`, or else starts an embedded
//! agent. Nothing is simulated. Exits with 1 if a check fails.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use streamhouse_client::{
    Admin, AutoOffsetReset, Client, Consumer, ErrorCode, Producer, Record, TopicPartition,
    admin::{NewTopic, TopicChange},
    metrics::{MetricsRegistry, MetricsServer, serve},
};
use support::{ExampleCluster, http, measurements, step, table, wait_until};
use tokio::time::Instant;

const TOPICS: [&str; 3] = ["orders", "payments", "shipments"];
const PARTITIONS: i32 = 4;
const BATCHES: usize = 5;
const BATCH: usize = 20;
const GROUP: &str = "phase-7-demo";
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the default maintenance interval and `segment.ms` together.
const SEGMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Time after which records are rolled into a segment, in milliseconds; short for the demo.
const SEGMENT_MS: &str = "1000";

fn main() -> ExitCode {
    support::run(&["--maintenance-interval", "500ms"], demo)
}

async fn demo(cluster: ExampleCluster) -> Result<ExampleCluster> {
    let client = cluster.client()?;
    let admin = client.admin();
    describe_cluster(&admin).await?;
    create_topics(&admin).await?;

    // Each component has its own registry, served over HTTP as in production.
    let (sending, receiving) = (MetricsRegistry::new(), MetricsRegistry::new());
    let served = [
        ("producer", serve("127.0.0.1:0", sending.clone()).await?),
        ("consumer", serve("127.0.0.1:0", receiving.clone()).await?),
    ];
    let run = format!("{:016x}", client.config().entropy.next_u64());
    let producer = client.producer().metrics_registry(sending).build().await?;
    produce(&producer, &run).await?;
    let consumer = consume(&client, receiving, &run).await?;
    high_watermarks(&admin).await?;
    group(&admin).await?;
    segments(&cluster, &admin).await?;
    tables(&cluster).await?;
    metrics(&cluster, &admin, &served).await?;
    finish(producer, consumer).await?;
    for (_, server) in served {
        server.close().await;
    }
    Ok(cluster)
}

async fn describe_cluster(admin: &Admin) -> Result<()> {
    step("The cluster");
    let cluster = admin.describe_cluster().await?;
    println!("   {}: {} agents", cluster.cluster_id, cluster.agents.len());
    println!(
        "   metadata {}, objects {}",
        cluster.metadata_store, cluster.object_store
    );
    Ok(())
}

async fn create_topics(admin: &Admin) -> Result<()> {
    step(format!(
        "Topics: {}, {PARTITIONS} partitions each",
        TOPICS.join(", ")
    ));
    for name in TOPICS {
        let topic = NewTopic::new(name, PARTITIONS).with_config("segment.ms", SEGMENT_MS);
        match admin.create_topic(topic).await {
            Ok(_) => println!("   created {name}"),
            Err(error) if error.code() == ErrorCode::TopicAlreadyExists => {
                let change = TopicChange::new().with_config("segment.ms", SEGMENT_MS);
                admin.alter_topic(name, change).await?;
                println!("   {name} is there already; segment.ms is {SEGMENT_MS} now");
            }
            Err(error) => return Err(error.into()),
        }
        let topic = admin.wait_for_topic(name, STEP_TIMEOUT).await?;
        ensure!(
            topic.partitions.len() >= PARTITIONS as usize,
            "{name} has {} partitions",
            topic.partitions.len()
        );
    }
    Ok(())
}

/// Sends 100 messages in 5 batches: the events of some orders.
async fn produce(producer: &Producer, run: &str) -> Result<()> {
    step(format!(
        "Producing {} messages in {BATCHES} batches",
        BATCHES * BATCH
    ));
    let mut rows = Vec::new();
    for batch in 0..BATCHES {
        let started = Instant::now();
        let mut deliveries = Vec::with_capacity(BATCH);
        for number in batch * BATCH..(batch + 1) * BATCH {
            deliveries.push(producer.send(message(number, run)).await?);
        }
        producer.flush().await?;
        let mut stored: BTreeMap<TopicPartition, (usize, i64)> = BTreeMap::new();
        for delivery in deliveries {
            let place = delivery.await.context("a message was not stored")?;
            let entry = stored
                .entry(TopicPartition::new(&*place.topic, place.partition))
                .or_default();
            *entry = (entry.0 + 1, place.offset);
        }
        let places: Vec<_> = stored
            .iter()
            .map(|(place, (count, last))| format!("{place}@{last} ({count})"))
            .collect();
        let took = format!("{:.1} ms", started.elapsed().as_secs_f64() * 1000.0);
        rows.push(vec![
            (batch + 1).to_string(),
            BATCH.to_string(),
            took,
            places.join(" "),
        ]);
    }
    table(
        &[
            "BATCH",
            "MESSAGES",
            "ACKED IN",
            "LAST OFFSET OF EACH PARTITION (MESSAGES)",
        ],
        &rows,
    );
    let stats = producer.metrics();
    ensure!(
        stats.records_sent == (BATCHES * BATCH) as u64,
        "{} messages were acknowledged",
        stats.records_sent
    );
    println!(
        "   {} messages acknowledged, {} bytes in {} batches (LZ4)",
        stats.records_sent, stats.bytes_sent, stats.batches_sent
    );
    Ok(())
}

fn message(number: usize, run: &str) -> Record {
    let (topic, order) = (TOPICS[number % TOPICS.len()], number / TOPICS.len());
    let value = match topic {
        "orders" => format!(
            "{{\"order\":{order},\"item\":\"tea\",\"pounds\":{}}}",
            order % 7 + 1
        ),
        "payments" => format!("{{\"order\":{order},\"pence\":{}}}", (order % 7 + 1) * 325),
        _ => format!("{{\"order\":{order},\"carrier\":\"post\"}}"),
    };
    Record::new(topic, value)
        .with_key(format!("customer-{}", order % 16))
        .with_header("run", run.to_owned())
        .with_header("number", number.to_string())
}

/// Reads all of this run's messages as a group, and prints the lag meanwhile.
async fn consume(client: &Client, registry: MetricsRegistry, run: &str) -> Result<Consumer> {
    step(format!("Consuming as the group {GROUP}"));
    let builder = client
        .consumer()
        .group(GROUP)
        .topics(TOPICS)
        .auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = builder
        .max_poll_records(25)
        .metrics_registry(registry)
        .build()
        .await?;
    let mut read = BTreeSet::new();
    let mut polls = 0;
    let deadline = Instant::now() + STEP_TIMEOUT;
    while read.len() < BATCHES * BATCH {
        ensure!(
            Instant::now() < deadline,
            "only {} messages came in {STEP_TIMEOUT:?}",
            read.len()
        );
        let records = consumer.poll(Duration::from_secs(1)).await?;
        if records.is_empty() {
            continue;
        }
        polls += 1;
        for record in &records {
            let header = |name| {
                record
                    .headers()
                    .find_map(|(key, value)| (key == name).then_some(value?))
            };
            if header("run") != Some(run.as_bytes()) {
                continue;
            }
            let number: usize = std::str::from_utf8(header("number").unwrap_or_default())?.parse()?;
            ensure!(read.insert(number), "message {number} came twice");
            ensure!(
                record.value == message(number, run).value.as_deref(),
                "message {number} is not what was sent"
            );
        }
        println!(
            "   poll {polls}: {} messages, {} of this run so far",
            records.len(),
            read.len()
        );
        show_lag(&consumer, &format!("after poll {polls}"));
    }
    consumer.commit().await?;
    println!(
        "   all {} messages, each once, as they were sent; committed",
        read.len()
    );
    Ok(consumer)
}

fn show_lag(consumer: &Consumer, when: &str) {
    let lags = consumer.lags();
    let records: i64 = lags.values().map(|lag| lag.records).sum();
    let seconds = lags.values().map(|lag| lag.seconds).fold(0.0, f64::max);
    println!(
        "      lag {when}: {records} records, {seconds:.3} s, in {} partitions",
        lags.len()
    );
}

async fn high_watermarks(admin: &Admin) -> Result<()> {
    step("High watermarks");
    let mut rows = Vec::new();
    let mut total = 0;
    for name in TOPICS {
        let topic = admin.describe_topic(name).await?;
        let marks: Vec<_> = topic
            .partitions
            .iter()
            .map(|p| format!("{}:{}", p.partition, p.high_watermark))
            .collect();
        let sum: i64 = topic.partitions.iter().map(|p| p.high_watermark).sum();
        total += sum;
        let leaders: BTreeSet<_> = topic.partitions.iter().map(|p| p.leader.as_str()).collect();
        let leaders: Vec<_> = leaders.into_iter().collect();
        rows.push(vec![
            name.to_owned(),
            sum.to_string(),
            marks.join("  "),
            leaders.join(" "),
        ]);
    }
    table(&["TOPIC", "RECORDS", "PARTITION:HIGH WATERMARK", "LED BY"], &rows);
    ensure!(
        total >= (BATCHES * BATCH) as i64,
        "only {total} records below the high watermarks"
    );
    Ok(())
}

async fn group(admin: &Admin) -> Result<()> {
    step("The group's offsets");
    let info = admin.describe_group(GROUP).await?;
    println!(
        "   {}: {}, {} member, assignor {}",
        GROUP,
        info.state,
        info.members.len(),
        info.protocol_name
    );
    let offsets = admin.group_offsets(GROUP).await?;
    let rows: Vec<Vec<String>> = offsets
        .iter()
        .map(|offset| {
            let committed = offset
                .committed
                .as_ref()
                .map_or("-".to_owned(), |at| at.offset.to_string());
            vec![
                offset.partition.to_string(),
                committed,
                offset.high_watermark.to_string(),
                offset.lag.to_string(),
            ]
        })
        .collect();
    table(&["PARTITION", "COMMITTED", "HIGH WATERMARK", "LAG"], &rows);
    let lag: i64 = offsets.iter().map(|offset| offset.lag).sum();
    ensure!(lag == 0, "the group is {lag} records behind");
    Ok(())
}

/// Waits until every partition has a segment, and lists the segments in the object store.
async fn segments(cluster: &ExampleCluster, admin: &Admin) -> Result<()> {
    step("Segments in the object store");
    let mut wanted = BTreeSet::new();
    for name in TOPICS {
        let topic = admin.describe_topic(name).await?;
        let filled = topic
            .partitions
            .iter()
            .filter(|p| p.high_watermark > p.log_start_offset);
        wanted.extend(filled.map(|p| (name, p.partition.to_string())));
    }
    let objects = wait_until(
        "the background job that rolls segments",
        SEGMENT_TIMEOUT,
        || async {
            let mut found = Vec::new();
            for name in TOPICS {
                let listed = cluster.query_stores(&["objects", "--prefix", name]).await?;
                let listed = listed.as_array().context("objects is not a list")?;
                let segments = listed.iter().filter(|object| place(object).0 == name);
                found.extend(segments.cloned());
            }
            let is_there = |(name, partition): &(&str, String)| {
                let wanted = (*name, partition.as_str());
                found.iter().any(|object| place(object) == wanted)
            };
            Ok(wanted.iter().all(is_there).then_some(found))
        },
    )
    .await?;
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|o| vec![key(o).to_owned(), o["size"].to_string()])
        .collect();
    table(&["KEY", "BYTES"], &rows);
    let malformed = objects
        .iter()
        .find(|o| !key(o).ends_with(".dat") || o["size"].as_u64().is_none_or(|size| size == 0));
    ensure!(malformed.is_none(), "{malformed:?} is not a segment");
    Ok(())
}

fn key(object: &Value) -> &str {
    object["key"].as_str().unwrap_or_default()
}

/// Returns the topic and partition in a segment's key. If the topic's name was used before, its
/// folder has a suffix: `orders@2/0/segment_0000000000.dat`.
fn place(object: &Value) -> (&str, &str) {
    let mut parts = key(object).split('/');
    let folder = parts.next().unwrap_or_default();
    let topic = folder.split_once('@').map_or(folder, |(topic, _)| topic);
    (topic, parts.next().unwrap_or_default())
}

/// Prints the tables of the metadata store, with their number of rows and first row.
async fn tables(cluster: &ExampleCluster) -> Result<()> {
    step("Tables of the metadata store");
    let tables = cluster.query_stores(&["tables"]).await?;
    let tables = tables.as_array().context("tables is not a list")?;
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|table| {
            let first = table["sample"]
                .as_array()
                .and_then(|rows| rows.first())
                .map(ToString::to_string);
            let mut first = first.unwrap_or_default();
            if first.chars().count() > 120 {
                first = first.chars().take(119).chain(['…']).collect();
            }
            vec![
                table["table"].as_str().unwrap_or_default().to_owned(),
                table["rows"].to_string(),
                first,
            ]
        })
        .collect();
    self::table(&["TABLE", "ROWS", "FIRST ROW"], &rows);
    for (name, at_least) in [
        ("topics", 3),
        ("partitions", 12),
        ("agents", 1),
        ("consumer_groups", 1),
        ("consumer_offsets", 1),
    ] {
        let found = tables
            .iter()
            .find(|table| table["table"] == name)
            .and_then(|table| table["rows"].as_u64());
        ensure!(
            found.is_some_and(|rows| rows >= at_least),
            "the table {name} has {found:?} rows, not {at_least}"
        );
    }
    Ok(())
}

/// Prints the metrics of each component, read as Prometheus does.
async fn metrics(cluster: &ExampleCluster, admin: &Admin, served: &[(&str, MetricsServer)]) -> Result<()> {
    for (name, server) in served {
        let address = server.address().to_string();
        step(format!("Metrics of the {name}: http://{address}/metrics"));
        let text = http::get(&address, "/metrics").await?;
        let names = measurements::NAMES
            .iter()
            .filter(|metric| metric.starts_with(name));
        measurements::show(&text, names.map(|name| format!("streamhouse_{name}")).collect())?;
    }
    for address in cluster.http_addresses(admin).await? {
        step(format!("Metrics of the agent: http://{address}/metrics"));
        let text = http::get(&address, "/metrics").await?;
        measurements::show(&text, measurements::nonzero(&text, "streamhouse_agent_")?)?;
    }
    Ok(())
}

async fn finish(producer: Producer, mut consumer: Consumer) -> Result<()> {
    step("The end");
    show_lag(&consumer, "now");
    let lag: i64 = consumer.lags().values().map(|lag| lag.records).sum();
    ensure!(lag == 0, "the consumer is {lag} records behind");
    producer.close(STEP_TIMEOUT).await?;
    consumer.close().await?;
    println!("   producer and consumer closed; nothing was simulated");
    Ok(())
}
