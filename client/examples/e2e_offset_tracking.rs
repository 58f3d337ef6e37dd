//! Offsets of a consumer group: reads a part, commits and ends; a second consumer continues exactly
//! there; checks the lag in records and seconds; after a crash without a commit, uncommitted
//! records are read again; a reset moves back by time.
//!
//! Run with `cargo run --release -p streamhouse-client --example e2e_offset_tracking`. Uses the
//! cluster at `STREAMHOUSE_BOOTSTRAP`, or else starts an embedded agent. Exits with 1 if a check
//! fails.

mod support;

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use streamhouse_client::{
    AutoOffsetReset, Client, Consumer, Record, TopicPartition,
    admin::{NewTopic, OffsetReset, OffsetSpec},
};
use support::{ExampleCluster, step};
use tokio::time::Instant;

const RECORDS: i64 = 1_000;
const FIRST_PART: i64 = 300;
const SECOND_PART: i64 = 450;
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Distance between the timestamps of two records.
const SPACING_MS: i64 = 10;

fn main() -> ExitCode {
    support::run(&[], example)
}

async fn example(cluster: ExampleCluster) -> Result<ExampleCluster> {
    let client = cluster.client()?;
    let run = client.config().entropy.next_u64();
    let topic = format!("e2e-offset-tracking-{run:016x}");
    let job = OffsetTracking {
        partition: TopicPartition::new(&topic, 0),
        group: format!("{topic}-job"),
        client,
    };
    job.client.admin().create_topic(NewTopic::new(&topic, 1)).await?;
    job.client.admin().wait_for_topic(&topic, STEP_TIMEOUT).await?;

    step(format!(
        "producing {RECORDS} records to {topic}, one for each {SPACING_MS} ms of the last seconds"
    ));
    let oldest = job.client.config().clock.now_ms() - RECORDS * SPACING_MS;
    job.produce(oldest).await?;

    step(format!("reading {FIRST_PART} records, committing, ending"));
    let mut consumer = job.consumer().await?;
    job.read(&mut consumer, 0, FIRST_PART).await?;
    consumer
        .commit_offsets([(job.partition.clone(), FIRST_PART)])
        .await?;
    consumer.close().await?;
    job.expect_progress(FIRST_PART).await?;

    step("starting again: it goes on where the group has committed");
    let mut consumer = job.consumer().await?;
    job.read(&mut consumer, FIRST_PART, SECOND_PART).await?;
    job.expect_lag(&consumer, oldest)?;
    // It read records without a commit, and ends as in a crash: without leaving the group.
    drop(consumer);
    job.expect_progress(FIRST_PART).await?;

    step("after the crash: what was not committed is read again, nothing is left out");
    let mut consumer = job.consumer().await?;
    job.read(&mut consumer, FIRST_PART, RECORDS).await?;
    consumer.commit().await?;
    consumer.close().await?;
    job.expect_progress(RECORDS).await?;

    step("resetting the group by time");
    job.reset_to(oldest + 600 * SPACING_MS, 600).await?;
    let mut consumer = job.consumer().await?;
    job.read(&mut consumer, 600, RECORDS).await?;
    consumer.commit().await?;
    consumer.close().await?;
    job.expect_progress(RECORDS).await?;

    job.client.admin().delete_group(&job.group).await?;
    job.client.admin().delete_topic(&topic).await?;
    println!("\neverything as claimed");
    Ok(cluster)
}

struct OffsetTracking {
    client: Client,
    group: String,
    partition: TopicPartition,
}

impl OffsetTracking {
    async fn produce(&self, oldest: i64) -> Result<()> {
        let producer = self.client.producer().build().await?;
        let mut deliveries = Vec::new();
        for number in 0..RECORDS {
            let record = Record::new(&self.partition.topic, format!("record {number}"));
            deliveries.push(
                producer
                    .send(record.with_timestamp(oldest + number * SPACING_MS))
                    .await?,
            );
        }
        for (number, delivery) in (0..RECORDS).zip(deliveries) {
            let stored = delivery.await?;
            ensure!(
                stored.offset == number,
                "record {number} was stored at {}",
                stored.offset
            );
        }
        Ok(producer.close(STEP_TIMEOUT).await?)
    }

    /// Builds a member with manual commits and a short session time-out, so that a crash is
    /// detected soon.
    async fn consumer(&self) -> Result<Consumer> {
        let builder = self
            .client
            .consumer()
            .group(&self.group)
            .topics([&self.partition.topic])
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .auto_commit(None)
            .session_timeout(Duration::from_secs(6))
            .heartbeat(Duration::from_secs(1))
            .max_poll_records(50);
        Ok(builder.build().await?)
    }

    /// Reads the records `from..to`, and checks that exactly these are returned.
    async fn read(&self, consumer: &mut Consumer, from: i64, to: i64) -> Result<()> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let mut read = BTreeSet::new();
        let mut next = from;
        while next < to {
            ensure!(
                Instant::now() < deadline,
                "stuck at offset {next} for {STEP_TIMEOUT:?}"
            );
            for record in &consumer.poll(Duration::from_millis(200)).await? {
                ensure!(
                    record.offset == next,
                    "offset {} came where {next} belongs",
                    record.offset
                );
                let expected = format!("record {next}");
                ensure!(
                    record.value == Some(expected.as_bytes()),
                    "offset {next} holds another record"
                );
                read.insert(record.offset);
                next += 1;
            }
        }
        ensure!(read.len() as i64 == next - from, "a record came twice");
        println!("   read the offsets {from} to {}", next - 1);
        Ok(())
    }

    /// Checks the group's progress as the cluster reports it to any tool.
    async fn expect_progress(&self, committed: i64) -> Result<()> {
        let offsets = self.client.admin().group_offsets(&self.group).await?;
        ensure!(
            offsets.len() == 1,
            "the group has offsets for {} partitions",
            offsets.len()
        );
        let found = offsets[0].committed.as_ref().map(|at| at.offset);
        ensure!(
            found == Some(committed),
            "the group has committed {found:?}, not {committed}"
        );
        ensure!(
            offsets[0].high_watermark == RECORDS,
            "the high watermark is {}",
            offsets[0].high_watermark
        );
        ensure!(
            offsets[0].lag == RECORDS - committed,
            "the lag is {} records",
            offsets[0].lag
        );
        println!(
            "   committed {committed}, high watermark {RECORDS}, lag {} records",
            offsets[0].lag
        );
        Ok(())
    }

    /// Checks the consumer's own lag: records to the end, and the age of the next record.
    fn expect_lag(&self, consumer: &Consumer, oldest: i64) -> Result<()> {
        let Some(lag) = consumer.lag(&self.partition) else {
            anyhow::bail!("the consumer knows no lag")
        };
        println!(
            "   the consumer is {} records and {:.1} s behind",
            lag.records, lag.seconds
        );
        let read = RECORDS - lag.records;
        ensure!(
            (SECOND_PART..RECORDS).contains(&read),
            "it says it has read {read} records"
        );
        let age = (self.client.config().clock.now_ms() - (oldest + read * SPACING_MS)) as f64 / 1000.0;
        // Tolerance: a poll's worth of records, and the time between the two clock readings.
        ensure!(
            (lag.seconds - age).abs() < 5.0,
            "it says {:.1} s, the next record is {age:.1} s old",
            lag.seconds
        );
        Ok(())
    }

    /// Resets the group's offset to the first record at or after `time`, once the crashed member
    /// has been removed.
    async fn reset_to(&self, time: i64, expected: i64) -> Result<()> {
        let admin = self.client.admin();
        let found = admin
            .list_offsets([(self.partition.clone(), OffsetSpec::Timestamp(time))])
            .await?;
        let offset = found.get(&self.partition).map(|at| at.offset);
        ensure!(
            offset == Some(expected),
            "the first record at that time is {offset:?}, not {expected}"
        );
        let reset = [OffsetReset::new(self.partition.clone(), expected)];
        support::wait_until("the group to be empty", STEP_TIMEOUT, || async {
            match admin.reset_offsets(&self.group, &reset, false).await {
                Ok(()) => Ok(Some(())),
                Err(error) if error.code() == streamhouse_client::ErrorCode::NonEmptyGroup => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        self.expect_progress(expected).await
    }
}
