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
    Load, Meter, ProduceBench, Ticker,
    load::{Collected, Collector, Plan, send},
    payload::Payload,
    prepare_topic,
    report::{Report, Throughput},
    stats::{Latencies, Progress},
};
use crate::{
    context::Context,
    failure::{Failure, Outcome},
    signals::stop_signal,
};

/// Maximum number of chunks queued for the collector.
const CHUNKS: usize = 1024;

pub(super) async fn run(context: &Context, args: ProduceBench) -> Outcome<Report> {
    args.load.validate()?;
    let topic = prepare_topic(context, &args.common.topic, args.load.partitions).await?;
    let mut meter = Meter::new(&args.common.agent_http).await?;
    let progress = Arc::new(Progress::default());
    let ticker = Ticker::start(progress.clone(), args.load.record_size);
    let timing = Timing::from_now(&args.load);
    let stop = stop_signal();
    let running = Producers::start(
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
    Ok(Report {
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
pub(super) struct Timing {
    pub(super) epoch: Instant,
    pub(super) measure_from: Instant,
    pub(super) until: Option<Instant>,
}

impl Timing {
    pub(super) fn from_now(load: &Load) -> Self {
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

impl Collected {
    /// Returns the time from the first measured send to the last acknowledgement.
    pub(super) fn elapsed(&self, timing: Timing) -> Duration {
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
pub(super) struct Producers(JoinSet<Outcome<Collected>>);

impl Producers {
    /// Starts the tasks, which wait for the epoch.
    pub(super) fn start(
        context: &Context,
        topic: &str,
        load: &Load,
        timing: Timing,
        run: Option<u64>,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Self {
        let payload = Arc::new(Payload::new(load.record_size, load.compressibility));
        let count = u64::from(load.producers);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let plan = Plan {
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
            let one = One {
                context: Context {
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
    pub(super) async fn finish(mut self) -> Outcome<Collected> {
        let mut total = Collected {
            latencies: Latencies::new()?,
            acked: 0,
            failed: 0,
            first_error: None,
            last_ack: None,
        };
        while let Some(joined) = self.0.join_next().await {
            total.add(joined.map_err(|error| Failure::failed(format!("a producer's task ended: {error}")))??);
        }
        Ok(total)
    }
}

/// One producer of a run.
struct One {
    context: Context,
    topic: String,
    load: Load,
    payload: Arc<Payload>,
    progress: Arc<Progress>,
    stop: CancellationToken,
    plan: Plan,
}

impl One {
    async fn run(self) -> Outcome<Collected> {
        if self.plan.records == Some(0) {
            // There are more producers than records.
            return Ok(Collector::new(self.progress, self.plan.measure_from)?.into_collected());
        }
        let producer: Producer = self.load.producer(&self.context).await?;
        let topic = producer.topic(&self.topic).await?;
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        let collector = Collector::new(self.progress.clone(), self.plan.measure_from)?;
        let collecting = tokio::spawn(collector.run(receiver));
        sleep_until(self.plan.epoch).await;
        let sent = send(
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
            .map_err(|error| Failure::failed(format!("a collector's task ended: {error}")))?;
        sent?;
        flushed?;
        producer.close(Duration::from_secs(10)).await?;
        Ok(collected)
    }
}
