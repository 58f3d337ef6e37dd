//! `bench e2e`: producers and consumers in one process with one clock. Each record carries its
//! intended send time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use streamhouse_client::{Consumer, TopicPartition, admin::TopicInfo};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    E2eBenchArgs, ProgressTicker, UsageMeter,
    load::can_be_stamped,
    payload::read_stamp,
    prepare_topic,
    produce::{ProducerTasks, RunTiming},
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

pub(super) async fn run(context: &CommandContext, args: E2eBenchArgs) -> CommandResult<BenchReport> {
    args.load.validate()?;
    if !can_be_stamped(args.load.record_size) {
        return Err(CommandError::usage(
            "an end-to-end record carries a stamp of 16 bytes; raise --record-size",
        ));
    }
    let topic = prepare_topic(context, &args.common.topic, args.load.partitions).await?;
    let mut meter = UsageMeter::new(&args.common.agent_http).await?;
    let consumers = build_consumers_at_end(context, &args, &topic).await?;
    let progress = Arc::new(ProgressCounters::default());
    let ticker = ProgressTicker::start(progress.clone(), args.load.record_size);
    let run = context.client.config().entropy.next_u64();
    let timing = RunTiming::from_now(&args.load);
    let shared = Arc::new(E2eRunState {
        run,
        timing,
        received: AtomicU64::new(0),
        end: CancellationToken::new(),
    });
    let mut reading = JoinSet::new();
    for consumer in consumers {
        reading.spawn(read_records(consumer, shared.clone(), progress.clone()));
    }
    let stop = stop_signal();
    let producers = ProducerTasks::start(
        context,
        &args.common.topic,
        &args.load,
        timing,
        Some(run),
        &progress,
        &stop,
    );
    sleep_until(timing.measure_from).await;
    meter.start().await?;
    let produced = producers.finish().await;
    if let Ok(produced) = &produced {
        wait_until_received(&shared, produced.acked, context.client.config().api_timeout).await;
    }
    shared.end.cancel();
    let read = E2eConsumerOutcome::join_all(reading).await?;
    let produced = produced?;
    drop(ticker);
    let (client, agents) = meter.finish().await?;
    let received = shared.received.load(Ordering::Relaxed);
    let size = args.load.record_size as u64;
    Ok(BenchReport {
        kind: "e2e",
        topic: args.common.topic,
        partitions: topic.partitions.len(),
        target_rate: args.load.rate.map(|rate| rate as f64),
        produced: Some(Throughput::new(
            produced.acked,
            produced.acked * size,
            produced.elapsed(timing),
        )),
        consumed: Some(Throughput::new(received, received * size, read.elapsed(timing))),
        failed: produced.failed + produced.acked.abs_diff(received),
        first_error: first_error(produced.first_error.as_ref(), produced.acked, received),
        ack_latency_ms: produced.latencies.percentiles(),
        end_to_end_latency_ms: read.latencies.percentiles(),
        poll_latency_ms: None,
        client,
        agents,
    })
}

/// Returns the error to report. A record that was lost or duplicated takes precedence over one that
/// failed.
fn first_error(error: Option<&streamhouse_client::Error>, acked: u64, received: u64) -> Option<String> {
    match received.cmp(&acked) {
        std::cmp::Ordering::Less => Some(format!(
            "{} acknowledged records did not arrive in time",
            acked - received
        )),
        std::cmp::Ordering::Greater => Some(format!(
            "{} records arrived that were not acknowledged",
            received - acked
        )),
        std::cmp::Ordering::Equal => error.map(ToString::to_string),
    }
}

/// Creates consumers positioned at the log ends, so that they receive everything sent from now on.
async fn build_consumers_at_end(
    context: &CommandContext,
    args: &E2eBenchArgs,
    topic: &TopicInfo,
) -> CommandResult<Vec<Consumer>> {
    let count = args.consumers as usize;
    let mut consumers = Vec::with_capacity(count);
    for number in 0..count {
        let share: Vec<_> = topic.partitions.iter().skip(number).step_by(count).collect();
        let partitions: Vec<_> = share
            .iter()
            .map(|p| TopicPartition::new(&topic.name, p.partition))
            .collect();
        let settings = context.client.config().clone();
        let builder = Consumer::builder()
            .client_config(settings)
            .auto_commit(None)
            .assign(partitions.clone());
        let consumer = builder.build().await?;
        for (partition, end) in consumer.end_offsets(&partitions).await? {
            consumer.seek(&partition, end)?;
        }
        consumers.push(consumer);
    }
    Ok(consumers)
}

/// State shared by the tasks of a run.
#[derive(Debug)]
struct E2eRunState {
    run: u64,
    timing: RunTiming,
    /// Measured records received.
    received: AtomicU64,
    end: CancellationToken,
}

/// Waits until `records` have arrived, at most for `patience`.
async fn wait_until_received(shared: &E2eRunState, records: u64, patience: Duration) {
    let deadline = Instant::now() + patience;
    while shared.received.load(Ordering::Relaxed) < records && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The result of one consumer.
struct E2eConsumerOutcome {
    latencies: BenchLatencies,
    last: Option<Instant>,
}

impl E2eConsumerOutcome {
    async fn join_all(mut reading: JoinSet<CommandResult<Self>>) -> CommandResult<Self> {
        let mut total = Self {
            latencies: BenchLatencies::new()?,
            last: None,
        };
        while let Some(joined) = reading.join_next().await {
            let one = joined
                .map_err(|error| CommandError::failed(format!("a consumer's task ended: {error}")))??;
            total.latencies.merge(&one.latencies);
            total.last = total.last.max(one.last);
        }
        Ok(total)
    }

    /// Returns the time from the first measured send to the arrival of the last measured record.
    fn elapsed(&self, timing: RunTiming) -> Duration {
        self.last.map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(timing.measure_from)
        })
    }
}

async fn read_records(
    mut consumer: Consumer,
    shared: Arc<E2eRunState>,
    progress: Arc<ProgressCounters>,
) -> CommandResult<E2eConsumerOutcome> {
    let mut done = E2eConsumerOutcome {
        latencies: BenchLatencies::new()?,
        last: None,
    };
    let measure_from = as_micros(shared.timing.measure_from - shared.timing.epoch);
    while !shared.end.is_cancelled() {
        let records = consumer.poll(POLL_TIMEOUT).await?;
        let polled = Instant::now();
        let now = as_micros(polled.saturating_duration_since(shared.timing.epoch));
        let mut measured = 0;
        let stamps = records
            .iter()
            .filter_map(|record| read_stamp(record.value?, shared.run));
        for stamp in stamps.filter(|stamp| *stamp >= measure_from) {
            done.latencies
                .record(Duration::from_micros(now.saturating_sub(stamp)), 1);
            measured += 1;
        }
        if measured > 0 {
            done.last = Some(polled);
            shared.received.fetch_add(measured, Ordering::Relaxed);
        }
        ProgressCounters::add(&progress.received, records.len() as u64);
    }
    consumer.close().await?;
    Ok(done)
}

fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_record_is_named_before_a_failed_one() {
        let error = streamhouse_client::Error::Closed;
        assert_eq!(first_error(None, 5, 5), None);
        assert_eq!(first_error(Some(&error), 5, 5), Some(error.to_string()));
        assert_eq!(
            first_error(Some(&error), 5, 3).as_deref(),
            Some("2 acknowledged records did not arrive in time")
        );
        assert_eq!(
            first_error(None, 3, 5).as_deref(),
            Some("2 records arrived that were not acknowledged")
        );
    }
}
