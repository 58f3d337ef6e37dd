//! `streamhouse bench`: benchmarks of producing, consuming, and end-to-end latency, with their
//! cost.
//!
//! Every run is bounded by `--records` or `--duration`. SIGINT ends it early with a report of
//! the measurements so far.

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
    report::BenchReport,
    stats::{ProgressCounters, progress_line},
    usage::{AgentUsage, AgentUsageReader, ClientUsage},
};
use crate::{
    codec::CodecArg,
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::print_result,
    values,
};

/// Largest record that a benchmark sends.
const MAX_RECORD: usize = 4 << 20;

/// Measure throughput, latency and cost.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Produce records and measure their acknowledgement latency
    Produce(ProduceBenchArgs),
    /// Consume the records of a topic as fast as possible
    Consume(ConsumeBenchArgs),
    /// Produce at a rate and consume at once, measuring the latency from the (intended) send to the
    /// poll
    E2e(E2eBenchArgs),
}

/// Options of every benchmark.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// The topic name
    #[arg(short, long, default_value = "bench")]
    topic: String,
    /// Read CPU, memory and object-store requests from the /metrics of this agent, before and
    /// after; repeatable
    #[arg(long, value_name = "URL")]
    agent_http: Vec<String>,
}

/// Options of benchmarks that produce.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Partitions of the topic, if it is created
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// End after this many measured records
    #[arg(short = 'n', long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// End after this time (default: 10s, without --records)
    #[arg(short, long, value_name = "DURATION", value_parser = values::parse_positive_duration)]
    duration: Option<Duration>,
    /// Warm-up time before measuring
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::parse_duration)]
    warmup: Duration,
    /// Size of a record's value in bytes; records have no key
    #[arg(short = 's', long, value_name = "BYTES", default_value = "100", value_parser = values::parse_bytes)]
    record_size: usize,
    /// Records per second, for all producers together
    #[arg(short, long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Number of producers, each with its own batches and connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    producers: u32,
    /// Share of each record that is the same in all records, from 0 to 1; the rest is random. At
    /// 0.5, LZ4 halves the size
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = parse_share)]
    compressibility: f64,
    /// Batch compression codec
    #[arg(long, value_enum, default_value = "lz4")]
    compression: CodecArg,
    /// How long a batch waits for more records
    #[arg(long, value_name = "DURATION", value_parser = values::parse_duration)]
    linger: Option<Duration>,
    /// Batch size in bytes, uncompressed
    #[arg(long, value_name = "BYTES", value_parser = values::parse_bytes)]
    batch_size: Option<usize>,
    /// Largest request, and so the largest compressed record
    #[arg(long, value_name = "BYTES", value_parser = values::parse_bytes)]
    max_request_size: Option<usize>,
    /// Maximum number of bytes buffered or in flight, per producer
    #[arg(long, value_name = "BYTES", value_parser = values::parse_bytes)]
    buffer_memory: Option<usize>,
    /// Maximum number of requests in flight to one agent, per producer
    #[arg(long, value_name = "REQUESTS")]
    max_in_flight: Option<usize>,
}

const PRODUCE_EXAMPLES: &str = "\
Records are values of --record-size bytes: random bytes, then the same text in all records (see --compressibility).
With --rate the load is open-loop: latencies count from the intended send time, so a stall counts for every
record it delays. Without --rate, latencies include the wait for space in the producer's buffer. 1 MB is 1,000,000
bytes, uncompressed.

Examples:
  streamhouse bench produce --partitions 4 --records 5000000
  streamhouse bench produce --rate 200000 --duration 30s --warmup 5s --linger 5ms --agent-http http://localhost:8080";

/// Arguments of `bench produce`.
#[derive(Debug, Args)]
#[command(after_help = PRODUCE_EXAMPLES)]
pub(crate) struct ProduceBenchArgs {
    #[command(flatten)]
    common: BenchArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Arguments of `bench consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeBenchArgs {
    #[command(flatten)]
    common: BenchArgs,
    /// End after this many records (default: all records of the topic)
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// End after this time at the latest
    #[arg(short, long, value_name = "DURATION", default_value = "5m", value_parser = values::parse_positive_duration)]
    duration: Duration,
    /// Number of consumers, which share the partitions evenly, or as members of --group
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
    /// Consume as this group, from its committed offsets, and commit
    #[arg(short, long)]
    group: Option<String>,
}

/// Arguments of `bench e2e`.
#[derive(Debug, Args)]
pub(crate) struct E2eBenchArgs {
    #[command(flatten)]
    common: BenchArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Number of consumers, which share the partitions evenly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    consumers: u32,
}

/// Runs a `bench` command.
pub(crate) async fn run(context: &CommandContext, command: BenchCommand) -> CommandResult {
    let report = match command {
        BenchCommand::Produce(args) => produce::run(context, args).await?,
        BenchCommand::Consume(args) => consume::run(context, args).await?,
        BenchCommand::E2e(args) => e2e::run(context, args).await?,
    };
    print_result(context.format, &report, || &report)?;
    check_failed_records(&report)
}

/// Fails if any record was lost or failed, whatever the throughput.
fn check_failed_records(report: &BenchReport) -> CommandResult {
    if report.failed == 0 {
        return Ok(());
    }
    let why = report.first_error.as_deref().unwrap_or("the cause is unknown");
    Err(CommandError::failed(format!(
        "{} records failed; the first: {why}",
        report.failed
    )))
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1".to_owned()),
    }
}

impl LoadArgs {
    /// Validates what clap cannot check.
    fn validate(&self) -> CommandResult {
        if self.record_size == 0 || self.record_size > MAX_RECORD {
            return Err(CommandError::usage("--record-size must be 1 byte to 4 MiB"));
        }
        if self.record_size > 1 << 20 && self.batch_size.is_none() {
            return Err(CommandError::usage(
                "records larger than 1 MiB need a --batch-size that holds one",
            ));
        }
        Ok(())
    }

    fn duration(&self) -> Option<Duration> {
        self.duration
            .or(self.records.is_none().then_some(Duration::from_secs(10)))
    }

    async fn build_producer(&self, context: &CommandContext) -> CommandResult<Producer> {
        // Each producer has connections of its own, like a separate process.
        let settings = context.client.config().clone();
        let mut builder = Producer::builder()
            .client_config(settings)
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

/// Creates the topic if it does not exist, and waits until every partition has a leader.
async fn prepare_topic(context: &CommandContext, name: &str, partitions: i32) -> CommandResult<TopicInfo> {
    let admin = context.admin();
    match admin.create_topic(NewTopic::new(name, partitions)).await {
        Ok(_) => {}
        Err(error) if error.code() == ErrorCode::TopicAlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    Ok(admin
        .wait_for_topic(name, context.client.config().api_timeout)
        .await?)
}

/// Measures the resources used since the start of the measurement.
#[derive(Debug)]
struct UsageMeter {
    agents: AgentUsageReader,
    before: Option<(ClientUsage, Vec<AgentUsage>)>,
}

impl UsageMeter {
    /// Reads the agents' metrics once, so that a wrong address is found before the run.
    async fn new(urls: &[String]) -> CommandResult<Self> {
        let agents = AgentUsageReader::new(urls);
        agents.snapshot().await?;
        Ok(Self { agents, before: None })
    }

    async fn start(&mut self) -> CommandResult {
        let agents = self.agents.snapshot().await?;
        self.before = Some((ClientUsage::now(), agents));
        Ok(())
    }

    async fn finish(self) -> CommandResult<(ClientUsage, Vec<AgentUsage>)> {
        let (process, after) = (ClientUsage::now(), self.agents.snapshot().await?);
        let (process_before, before) = self.before.unwrap_or_default();
        Ok((
            process.since(process_before),
            usage::usage_difference(&before, &after),
        ))
    }
}

/// Prints a progress line to stderr every second until it is dropped.
#[derive(Debug)]
struct ProgressTicker(JoinHandle<()>);

impl ProgressTicker {
    fn start(progress: Arc<ProgressCounters>, record_size: usize) -> Self {
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

impl Drop for ProgressTicker {
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
        assert_eq!(parse_share("0.25"), Ok(0.25));
        assert!(
            parse_share("1.5").is_err()
                && parse_share("-0.1").is_err()
                && parse_share("half").is_err()
                && parse_share("NaN").is_err()
        );
    }
}
