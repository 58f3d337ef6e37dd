//! `streamhouse bench`: throughput, latency and cost of producing, consuming, and the way from end to end.
//!
//! Every run is bounded by `--records` or `--duration` and ends by itself; SIGINT ends it early, with a report of what was
//! measured until then.

mod consume;
mod e2e;
mod load;
mod payload;
mod produce;
mod report;
mod stats;
mod usage;

use std::{io::IsTerminal, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use streamhouse_client::{
    ErrorCode, Producer,
    admin::{NewTopic, TopicInfo},
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

use self::{
    report::Report,
    stats::{Progress, progress_line},
    usage::{Agent, Agents, Process},
};
use crate::{
    context::Context,
    failure::{Failure, Outcome},
    output::emit,
    produce::Codec,
    values,
};

/// Longest record the bench sends.
const MAX_RECORD: usize = 4 << 20;

/// Measure throughput, latency and cost.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Send records, measure until they are acknowledged
    Produce(ProduceBench),
    /// Read what a topic holds, as fast as possible
    Consume(ConsumeBench),
    /// Send at a rate and read at once, measure from (intended) send to poll
    E2e(E2eBench),
}

/// What every bench takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The topic
    #[arg(short, long, default_value = "bench")]
    topic: String,
    /// Read CPU, memory, and object-store requests of this agent from its /metrics before and after; repeatable
    #[arg(long, value_name = "URL")]
    agent_http: Vec<String>,
}

/// What a bench that sends takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Partitions of the topic, if it has to be created
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// End after so many measured records
    #[arg(short = 'n', long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// End after so long; 10s without --records
    #[arg(short, long, value_name = "DURATION", value_parser = values::positive_duration)]
    duration: Option<Duration>,
    /// Run so long before measuring
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    warmup: Duration,
    /// Bytes of a record's value; there is no key
    #[arg(short = 's', long, value_name = "BYTES", default_value = "100", value_parser = values::bytes)]
    record_size: usize,
    /// Records a second, of all producers together
    #[arg(short, long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Producers, each with its own batches and connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    /// Share of each record that is the same in all of them, from 0 to 1; the rest are random bytes. With 0.5 LZ4 halves them
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = share)]
    compressibility: f64,
    /// Of batches
    #[arg(long, value_enum, default_value = "lz4")]
    compression: Codec,
    /// How long a batch waits for more records
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    linger: Option<Duration>,
    /// Bytes at which a batch is full
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    batch_size: Option<usize>,
    /// The largest request, and so the largest record, compressed
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    max_request_size: Option<usize>,
    /// Bytes that may wait or be on their way, in each producer
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    buffer_memory: Option<usize>,
    /// Requests on the way to one agent, of each producer
    #[arg(long, value_name = "REQUESTS")]
    max_in_flight: Option<usize>,
}

const PRODUCE_EXAMPLES: &str = "\
Records are values of --record-size bytes: the first part random, the rest the same text in all (see --compressibility).
With --rate the schedule is open and latencies count from when a record was meant to be sent, so a stall counts for every
record it delays; without it latencies include the time a record waits in the producer's full buffer. MB are 1,000,000
bytes, uncompressed.

Examples:
  streamhouse bench produce --partitions 4 --records 5000000
  streamhouse bench produce --rate 200000 --duration 30s --warmup 5s --linger 5ms --agent-http http://localhost:8080";

/// Arguments of `bench produce`.
#[derive(Debug, Args)]
#[command(after_help = PRODUCE_EXAMPLES)]
pub(crate) struct ProduceBench {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: Load,
}

/// Arguments of `bench consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeBench {
    #[command(flatten)]
    common: Common,
    /// End after so many records; all that the topic holds without
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// End after so long at the latest
    #[arg(short, long, value_name = "DURATION", default_value = "5m", value_parser = values::positive_duration)]
    duration: Duration,
    /// Consumers; they share the partitions evenly, or as members of --group
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
    /// Read as a group, from where it has committed, and commit
    #[arg(short, long)]
    group: Option<String>,
}

/// Arguments of `bench e2e`.
#[derive(Debug, Args)]
pub(crate) struct E2eBench {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: Load,
    /// Consumers; they share the partitions evenly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
}

/// Runs a `bench` command.
pub(crate) async fn run(context: &Context, command: BenchCommand) -> Outcome {
    let report = match command {
        BenchCommand::Produce(args) => produce::run(context, args).await?,
        BenchCommand::Consume(args) => consume::run(context, args).await?,
        BenchCommand::E2e(args) => e2e::run(context, args).await?,
    };
    emit(context.format, &report, || &report)?;
    outcome(&report)
}

/// A run that lost or failed records is a failure, whatever its speed.
fn outcome(report: &Report) -> Outcome {
    if report.failed == 0 {
        return Ok(());
    }
    let why = report.first_error.as_deref().unwrap_or("the cause is unknown");
    Err(Failure::failed(format!(
        "{} records failed; the first: {why}",
        report.failed
    )))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a share from 0 to 1".to_owned()),
    }
}

impl Load {
    /// What clap cannot check.
    fn validate(&self) -> Outcome {
        if self.record_size == 0 || self.record_size > MAX_RECORD {
            return Err(Failure::usage("--record-size is 1 byte to 4 MiB"));
        }
        if self.record_size > 1 << 20 && self.batch_size.is_none() {
            return Err(Failure::usage(
                "records over 1 MiB need a --batch-size that holds one",
            ));
        }
        Ok(())
    }

    fn duration(&self) -> Option<Duration> {
        self.duration
            .or(self.records.is_none().then_some(Duration::from_secs(10)))
    }

    async fn producer(&self, context: &Context) -> Outcome<Producer> {
        // Each has connections of its own, as another process would.
        let settings = context.client.settings().clone();
        let mut builder = Producer::builder()
            .settings(settings)
            .compression(self.compression.into());
        if let Some(linger) = self.linger {
            builder = builder.linger(linger);
        }
        if let Some(bytes) = self.batch_size {
            builder = builder.batch_size(bytes);
        }
        if let Some(bytes) = self.max_request_size {
            builder = builder.max_request_size(bytes);
        }
        if let Some(bytes) = self.buffer_memory {
            builder = builder.buffer_memory(bytes);
        }
        if let Some(requests) = self.max_in_flight {
            builder = builder.max_in_flight(requests);
        }
        Ok(builder.build().await?)
    }
}

/// The topic, created when it is not there, once every partition has a leader.
async fn prepare_topic(context: &Context, name: &str, partitions: i32) -> Outcome<TopicInfo> {
    let admin = context.admin();
    match admin.create_topic(NewTopic::new(name, partitions)).await {
        Ok(_) => {}
        Err(error) if error.code() == ErrorCode::TopicAlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    Ok(admin
        .wait_for_topic(name, context.client.settings().api_timeout)
        .await?)
}

/// What a run has cost since it began to be measured.
#[derive(Debug)]
struct Meter {
    agents: Agents,
    before: Option<(Process, Vec<Agent>)>,
}

impl Meter {
    /// Reads the agents once, so that a wrong address is found before the run.
    async fn new(urls: &[String]) -> Outcome<Self> {
        let agents = Agents::new(urls);
        agents.snapshot().await?;
        Ok(Self { agents, before: None })
    }

    async fn start(&mut self) -> Outcome {
        let agents = self.agents.snapshot().await?;
        self.before = Some((Process::now(), agents));
        Ok(())
    }

    async fn finish(self) -> Outcome<(Process, Vec<Agent>)> {
        let (process, after) = (Process::now(), self.agents.snapshot().await?);
        let (process_before, before) = self.before.unwrap_or_default();
        Ok((process.since(process_before), usage::difference(&before, &after)))
    }
}

/// A line on stderr each second until dropped.
#[derive(Debug)]
struct Ticker(JoinHandle<()>);

impl Ticker {
    fn start(progress: Arc<Progress>, record_size: usize) -> Self {
        let overwrite = std::io::stderr().is_terminal();
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks.tick().await;
            let mut before = progress.snapshot();
            for second in 1_u64.. {
                ticks.tick().await;
                let now = progress.snapshot();
                let line = progress_line(second, before, now, record_size);
                if overwrite {
                    eprint!("\r{line}\x1b[K")
                } else {
                    eprintln!("{line}")
                }
                before = now;
            }
        }))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.abort();
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_none_and_all() {
        assert_eq!(share("0.25"), Ok(0.25));
        assert!(
            share("1.5").is_err()
                && share("-0.1").is_err()
                && share("half").is_err()
                && share("NaN").is_err()
        );
    }
}
