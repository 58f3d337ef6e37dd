//! `bench consume`: reads the records of a topic with consumers that share its partitions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use streamhouse_client::{AutoOffsetReset, Consumer, TopicPartition, admin::TopicInfo};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ConsumeBenchArgs, ProgressTicker, UsageMeter,
    report::{BenchReport, Throughput},
    stats::{BenchLatencies, ProgressCounters},
};
use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    signals::stop_signal,
};

/// How long a poll waits, and so how soon the end is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) async fn run(context: &CommandContext, args: ConsumeBenchArgs) -> CommandResult<BenchReport> {
    let admin = context.admin();
    let topic = admin.describe_topic(&args.common.topic).await?;
    let goal = count_records_to_read(context, &args, &topic).await?;
    let mut meter = UsageMeter::new(&args.common.agent_http).await?;
    let progress = Arc::new(ProgressCounters::default());
    let reading = Arc::new(SharedReadState {
        left: AtomicU64::new(goal),
        end: CancellationToken::new(),
    });
    let consumers = build_consumers(context, &args, &topic).await?;
    meter.start().await?;
    let average = average_record_size(&topic);
    let ticker = ProgressTicker::start(progress.clone(), average);
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for consumer in consumers {
        tasks.spawn(read_records(
            consumer,
            reading.clone(),
            progress.clone(),
            args.group.is_some(),
        ));
    }
    let stop = stop_signal();
    tokio::select! {
        () = reading.end.cancelled() => {}
        () = stop.cancelled() => {}
        () = tokio::time::sleep(args.duration) => {}
    }
    reading.end.cancel();
    let mut total = ConsumerOutcome {
        polls: BenchLatencies::new()?,
        records: 0,
        bytes: 0,
        last: None,
    };
    while let Some(joined) = tasks.join_next().await {
        let one =
            joined.map_err(|error| CommandError::failed(format!("a consumer's task ended: {error}")))??;
        total.polls.merge(&one.polls);
        total.records += one.records;
        total.bytes += one.bytes;
        total.last = total.last.max(one.last);
    }
    drop(ticker);
    let (client, agents) = meter.finish().await?;
    let elapsed = total.last.map_or(Duration::ZERO, |last| last - started);
    Ok(BenchReport {
        kind: "consume",
        topic: args.common.topic,
        partitions: topic.partitions.len(),
        target_rate: None,
        produced: None,
        consumed: Some(Throughput::new(total.records, total.bytes, elapsed)),
        failed: 0,
        first_error: None,
        ack_latency_ms: None,
        end_to_end_latency_ms: None,
        poll_latency_ms: total.polls.percentiles(),
        client,
        agents,
    })
}

/// Returns how many records to read: those available, at most `--records`.
async fn count_records_to_read(
    context: &CommandContext,
    args: &ConsumeBenchArgs,
    topic: &TopicInfo,
) -> CommandResult<u64> {
    let committed = match &args.group {
        Some(group) => {
            context
                .admin()
                .fetch_offsets(group, &topic_partitions(topic))
                .await?
        }
        None => BTreeMap::new(),
    };
    let held: i64 = topic
        .partitions
        .iter()
        .map(|p| {
            let at = committed.get(&TopicPartition::new(&topic.name, p.partition));
            let start = at.map_or(p.log_start_offset, |at| at.offset.max(p.log_start_offset));
            (p.high_watermark - start).max(0)
        })
        .sum();
    let held = u64::try_from(held).unwrap_or(0);
    if held == 0 {
        let message = format!(
            "topic {} has no records to read; run bench produce first",
            topic.name
        );
        return Err(CommandError::failed(message));
    }
    Ok(args.records.map_or(held, |records| records.min(held)))
}

fn topic_partitions(topic: &TopicInfo) -> Vec<TopicPartition> {
    topic
        .partitions
        .iter()
        .map(|p| TopicPartition::new(&topic.name, p.partition))
        .collect()
}

/// Returns the average stored bytes per record, for the progress line only.
fn average_record_size(topic: &TopicInfo) -> usize {
    let records: i64 = topic
        .partitions
        .iter()
        .map(|p| p.high_watermark - p.log_start_offset)
        .sum();
    let bytes: i64 = topic.partitions.iter().map(|p| p.size_bytes).sum();
    usize::try_from(bytes / records.max(1)).unwrap_or(0)
}

async fn build_consumers(
    context: &CommandContext,
    args: &ConsumeBenchArgs,
    topic: &TopicInfo,
) -> CommandResult<Vec<Consumer>> {
    let count = args.consumers as usize;
    let mut consumers = Vec::with_capacity(count);
    for number in 0..count {
        let settings = context.client.config().clone();
        let builder = Consumer::builder()
            .client_config(settings)
            .auto_offset_reset(AutoOffsetReset::Earliest);
        let builder = match &args.group {
            Some(group) => builder.group(group).topics([&topic.name]),
            None => {
                let share = topic_partitions(topic).into_iter().skip(number).step_by(count);
                builder.auto_commit(None).assign(share)
            }
        };
        consumers.push(builder.build().await?);
    }
    Ok(consumers)
}

/// State shared by the consumers of a run.
#[derive(Debug)]
struct SharedReadState {
    left: AtomicU64,
    end: CancellationToken,
}

impl SharedReadState {
    /// Counts records read and ends the run after the last one.
    fn count_records(&self, records: u64) {
        let subtract = |left: u64| Some(left.saturating_sub(records));
        if let Ok(before) = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract)
            && before <= records
        {
            self.end.cancel();
        }
    }
}

/// The result of one consumer.
struct ConsumerOutcome {
    polls: BenchLatencies,
    records: u64,
    bytes: u64,
    last: Option<Instant>,
}

async fn read_records(
    mut consumer: Consumer,
    reading: Arc<SharedReadState>,
    progress: Arc<ProgressCounters>,
    commits: bool,
) -> CommandResult<ConsumerOutcome> {
    let mut done = ConsumerOutcome {
        polls: BenchLatencies::new()?,
        records: 0,
        bytes: 0,
        last: None,
    };
    while !reading.end.is_cancelled() {
        let asked = Instant::now();
        let records = consumer.poll(POLL_TIMEOUT).await?;
        if records.is_empty() {
            continue;
        }
        let answered = Instant::now();
        done.polls.record(answered - asked, 1);
        let size = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
        // Every record is accessed, as an application would.
        done.bytes += records
            .iter()
            .map(|record| size(record.key) + size(record.value))
            .sum::<u64>();
        let count = records.len() as u64;
        done.records += count;
        done.last = Some(answered);
        ProgressCounters::add(&progress.received, count);
        reading.count_records(count);
    }
    if commits {
        consumer.commit().await?;
    }
    consumer.close().await?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_ends_the_run() {
        let reading = SharedReadState {
            left: AtomicU64::new(10),
            end: CancellationToken::new(),
        };
        reading.count_records(9);
        assert!(!reading.end.is_cancelled());
        reading.count_records(5);
        assert!(reading.end.is_cancelled());
    }
}
