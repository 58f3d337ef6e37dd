//! Produces keyed records with headers, reads them with a group of two consumers, and checks that
//! every record is returned once, byte for byte, in the order of its key, with its key, headers and
//! timestamp.
//!
//! Run with `cargo run --release -p streamhouse-client --example e2e_producer_consumer`. Uses the
//! cluster at `STREAMHOUSE_BOOTSTRAP`, or else starts an embedded agent. Exits with 1 if a check
//! fails.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use streamhouse_client::{
    AutoOffsetReset, Client, Consumer, OwnedRecord, Record, RecordMetadata, admin::NewTopic,
};
use support::{ExampleCluster, step};
use tokio::time::Instant;

const PARTITIONS: i32 = 4;
const RECORDS: usize = 10_000;
const KEYS: usize = 50;
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    support::run(&[], example)
}

async fn example(cluster: ExampleCluster) -> Result<ExampleCluster> {
    let client = cluster.client()?;
    // A unique name, so that the example can run again on the same cluster.
    let run = client.config().entropy.next_u64();
    let topic = format!("e2e-producer-consumer-{run:016x}");
    client
        .admin()
        .create_topic(NewTopic::new(&topic, PARTITIONS))
        .await?;
    client.admin().wait_for_topic(&topic, STEP_TIMEOUT).await?;

    step(format!("producing {RECORDS} records with {KEYS} keys to {topic}"));
    let sent = records(&topic, client.config().clock.now_ms());
    let stored = produce(&client, &sent).await?;

    step("consuming them with a group of two");
    let read = consume(&client, &topic, &format!("{topic}-readers")).await?;

    step("comparing");
    compare(&sent, &stored, &read)?;
    println!("   every record once, in order, byte for byte");
    client.admin().delete_group(&format!("{topic}-readers")).await?;
    client.admin().delete_topic(&topic).await?;
    Ok(cluster)
}

/// Keys, values and headers of every kind: text, non-text bytes, empty, null.
fn records(topic: &str, now_ms: i64) -> Vec<Record> {
    (0..RECORDS)
        .map(|number| {
            let key = format!("customer-{}", number % KEYS);
            let timestamp = now_ms + i64::try_from(number).unwrap_or(0);
            let record = match number % 10 {
                8 => Record::tombstone(topic, key),
                9 => Record::new(topic, Vec::new()).with_key(key),
                _ => {
                    let mut value = format!("order {number} ").into_bytes();
                    value.extend((0..=255_u8).cycle().skip(number % 256).take(number % 300));
                    Record::new(topic, value).with_key(key)
                }
            };
            record
                .with_timestamp(timestamp)
                .with_header("number", number.to_string())
                .with_header("empty", Vec::new())
        })
        .collect()
}

async fn produce(client: &Client, records: &[Record]) -> Result<Vec<RecordMetadata>> {
    let producer = client.producer().build().await?;
    let started = Instant::now();
    let mut deliveries = Vec::with_capacity(records.len());
    for record in records {
        deliveries.push(producer.send(record.clone()).await?);
    }
    let mut stored = Vec::with_capacity(records.len());
    for delivery in deliveries {
        stored.push(delivery.await.context("a record was not stored")?);
    }
    producer.close(STEP_TIMEOUT).await?;
    let stats = producer.metrics();
    println!(
        "   {} records acknowledged in {:.0?}, {} batches, {} bytes compressed",
        stats.records_sent,
        started.elapsed(),
        stats.batches_sent,
        stats.bytes_sent
    );
    Ok(stored)
}

/// Reads with two members until all records were returned.
async fn consume(client: &Client, topic: &str, group: &str) -> Result<Vec<OwnedRecord>> {
    let member = || {
        let builder = client
            .consumer()
            .group(group)
            .topics([topic])
            .auto_offset_reset(AutoOffsetReset::Earliest);
        async { builder.build().await }
    };
    let (mut first, mut second) = (member().await?, member().await?);
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut read: Vec<OwnedRecord> = Vec::with_capacity(RECORDS);
    let both_have_partitions =
        |a: &Consumer, b: &Consumer| a.assignment().len() == 2 && b.assignment().len() == 2;
    while read.len() < RECORDS || !both_have_partitions(&first, &second) {
        ensure!(
            Instant::now() < deadline,
            "only {} of {RECORDS} records after {STEP_TIMEOUT:?}",
            read.len()
        );
        let wait = Duration::from_millis(100);
        let (a, b) = tokio::join!(first.poll(wait), second.poll(wait));
        read.extend(a?.iter().chain(b?.iter()).map(|record| record.to_owned()));
    }
    for (name, member) in [("first", &first), ("second", &second)] {
        let partitions: Vec<String> = member
            .assignment()
            .iter()
            .map(|p| p.partition.to_string())
            .collect();
        println!(
            "   the {name} member reads the partitions {}",
            partitions.join(" and ")
        );
    }
    println!("   {} records read", read.len());
    first.close().await?;
    second.close().await?;
    let lag: i64 = client
        .admin()
        .group_offsets(group)
        .await?
        .iter()
        .map(|offset| offset.lag)
        .sum();
    ensure!(
        lag == 0,
        "the group is {lag} records behind after it read everything"
    );
    Ok(read)
}

fn compare(sent: &[Record], stored: &[RecordMetadata], read: &[OwnedRecord]) -> Result<()> {
    ensure!(
        read.len() == sent.len(),
        "{} records sent, {} read",
        sent.len(),
        read.len()
    );
    let by_place: BTreeMap<(i32, i64), &OwnedRecord> =
        read.iter().map(|r| ((r.partition, r.offset), r)).collect();
    ensure!(by_place.len() == read.len(), "a record was read twice");
    for (record, place) in sent.iter().zip(stored) {
        let found = by_place
            .get(&(place.partition, place.offset))
            .context("an acknowledged record was not read")?;
        ensure!(found.key == record.key, "the key at {place:?} differs");
        ensure!(found.value == record.value, "the value at {place:?} differs");
        ensure!(
            Some(found.timestamp) == record.timestamp,
            "the timestamp at {place:?} differs"
        );
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.key.clone(), h.value.clone()))
            .collect();
        ensure!(found.headers == headers, "the headers at {place:?} differ");
    }
    in_order(sent, stored)
}

/// Checks that records of one key are in one partition, in the order sent, and that offsets have no
/// gaps.
fn in_order(sent: &[Record], stored: &[RecordMetadata]) -> Result<()> {
    let mut last: BTreeMap<&[u8], &RecordMetadata> = BTreeMap::new();
    for (record, place) in sent.iter().zip(stored) {
        let key = record.key.as_deref().unwrap_or_default();
        if let Some(before) = last.insert(key, place) {
            ensure!(
                before.partition == place.partition,
                "the key {key:?} went to two partitions"
            );
            ensure!(
                before.offset < place.offset,
                "the order of the key {key:?} is broken"
            );
        }
    }
    let offsets: BTreeSet<(i32, i64)> = stored
        .iter()
        .map(|place| (place.partition, place.offset))
        .collect();
    for partition in 0..PARTITIONS {
        let of: Vec<i64> = offsets
            .iter()
            .filter(|(p, _)| *p == partition)
            .map(|(_, offset)| *offset)
            .collect();
        ensure!(
            of.iter().copied().eq(0..of.len() as i64),
            "partition {partition} has a gap: {of:?}"
        );
    }
    Ok(())
}
