//! `bench produce`: parallel producers, each with its send loop and its collector.

use std::{sync::Arc, time::Duration};

use streamhouse_client::Producer;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    LoadArgs, ProduceBenchArgs, ProgressTicker, UsageMeter,
    load::{DeliveryCollector, DeliveryTotals, SendPlan, run_send_loop},
    payload::PayloadPool,
    prepare_topic,
    report::{BenchReport, Throughput},
    stats::{BenchLatencies, ProgressCounters},
};
use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    signals::stop_signal,
};

/// Maximum number of chunks queued for the collector.
const MAX_QUEUED_CHUNKS: usize = 1024;

pub(super) async fn run(context: &CommandContext, args: ProduceBenchArgs) -> CommandResult<BenchReport> {
    args.load.validate()?;
    let topic = prepare_topic(context, &args.common.topic, args.load.partitions).await?;
    let mut meter = UsageMeter::new(&args.common.agent_http).await?;
    let progress = Arc::new(ProgressCounters::default());
    let ticker = ProgressTicker::start(progress.clone(), args.load.record_size);
    let timing = RunTiming::from_now(&args.load);
    let stop = stop_signal();
    let running = ProducerTasks::start(
        context,
        &args.common.topic,
        &args.load,
        timing,
        None,
        &progress,
        &stop,
    );
    sleep_until(timing.measure_from).await;
    meter.start().await?;
    let produced = running.finish().await?;
    drop(ticker);
    let (client, agents) = meter.finish().await?;
    let size = args.load.record_size as u64;
    Ok(BenchReport {
        kind: "produce",
        topic: args.common.topic,
        partitions: topic.partitions.len(),
        target_rate: args.load.rate.map(|rate| rate as f64),
        produced: Some(Throughput::new(
            produced.acked,
            produced.acked * size,
            produced.elapsed(timing),
        )),
        consumed: None,
        failed: produced.failed,
        first_error: produced.first_error.as_ref().map(ToString::to_string),
        ack_latency_ms: produced.latencies.percentiles(),
        end_to_end_latency_ms: None,
        poll_latency_ms: None,
        client,
        agents,
    })
}

/// When a run begins, is measured, and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunTiming {
    pub(super) epoch: Instant,
    pub(super) measure_from: Instant,
    pub(super) until: Option<Instant>,
}

impl RunTiming {
    pub(super) fn from_now(load: &LoadArgs) -> Self {
        // A short delay, so that all producers are built and begin together.
        let epoch = Instant::now() + Duration::from_millis(50);
        let measure_from = epoch + load.warmup;
        Self {
            epoch,
            measure_from,
            until: load.duration().map(|duration| measure_from + duration),
        }
    }
}

impl DeliveryTotals {
    /// Returns the time from the first measured send to the last acknowledgement.
    pub(super) fn elapsed(&self, timing: RunTiming) -> Duration {
        self.last_ack.map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(timing.measure_from)
        })
    }

    fn add(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.acked += other.acked;
        self.failed += other.failed;
        self.last_ack = self.last_ack.max(other.last_ack);
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// The producer tasks of a run.
#[derive(Debug)]
pub(super) struct ProducerTasks(JoinSet<CommandResult<DeliveryTotals>>);

impl ProducerTasks {
    /// Starts the tasks, which wait for the epoch.
    pub(super) fn start(
        context: &CommandContext,
        topic: &str,
        load: &LoadArgs,
        timing: RunTiming,
        run: Option<u64>,
        progress: &Arc<ProgressCounters>,
        stop: &CancellationToken,
    ) -> Self {
        let payload = Arc::new(PayloadPool::new(load.record_size, load.compressibility));
        let count = u64::from(load.producers);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let plan = SendPlan {
                epoch: timing.epoch,
                measure_from: timing.measure_from,
                records: load
                    .records
                    .map(|records| records / count + u64::from(number < records % count)),
                until: timing.until,
                rate: load.rate.map(|rate| rate as f64 / count as f64),
                run,
                first: number * 7919,
            };
            let one = ProducerTask {
                context: CommandContext {
                    client: context.client.clone(),
                    format: context.format,
                },
                topic: topic.to_owned(),
                load: load.clone(),
                payload: payload.clone(),
                progress: progress.clone(),
                stop: stop.clone(),
                plan,
            };
            tasks.spawn(one.run());
        }
        Self(tasks)
    }

    /// Waits for all tasks.
    pub(super) async fn finish(mut self) -> CommandResult<DeliveryTotals> {
        let mut total = DeliveryTotals {
            latencies: BenchLatencies::new()?,
            acked: 0,
            failed: 0,
            first_error: None,
            last_ack: None,
        };
        while let Some(joined) = self.0.join_next().await {
            total.add(
                joined
                    .map_err(|error| CommandError::failed(format!("a producer's task ended: {error}")))??,
            );
        }
        Ok(total)
    }
}

/// One producer of a run.
struct ProducerTask {
    context: CommandContext,
    topic: String,
    load: LoadArgs,
    payload: Arc<PayloadPool>,
    progress: Arc<ProgressCounters>,
    stop: CancellationToken,
    plan: SendPlan,
}

impl ProducerTask {
    async fn run(self) -> CommandResult<DeliveryTotals> {
        if self.plan.records == Some(0) {
            // There are more producers than records.
            return Ok(DeliveryCollector::new(self.progress, self.plan.measure_from)?.into_totals());
        }
        let producer: Producer = self.load.build_producer(&self.context).await?;
        let topic = producer.topic(&self.topic).await?;
        let (chunks, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
        let collector = DeliveryCollector::new(self.progress.clone(), self.plan.measure_from)?;
        let collecting = tokio::spawn(collector.run(receiver));
        sleep_until(self.plan.epoch).await;
        let sent = run_send_loop(
            &producer,
            &topic,
            &self.payload,
            &self.plan,
            &self.progress,
            chunks,
            &self.stop,
        )
        .await;
        let flushed = producer.flush().await;
        let collected = collecting
            .await
            .map_err(|error| CommandError::failed(format!("a collector's task ended: {error}")))?;
        sent?;
        flushed?;
        producer.close(Duration::from_secs(10)).await?;
        Ok(collected)
    }
}
