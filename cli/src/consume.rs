//! `streamhouse consume`: prints records, as a member of a group or from selected partitions.
//!
//! A record counts as consumed once it is written to stdout. Offsets are committed only after that,
//! so records that a closed pipe or `--max-messages` left unwritten are not committed.

mod end;
mod format;
mod group_join;
mod sink;

use std::{collections::BTreeMap, io, time::Duration};

use clap::Args;
use streamhouse_client::{AutoOffsetReset, Consumer, ConsumerRecords, TopicPartition};
use tokio_util::sync::CancellationToken;

use self::{
    end::ConsumeEnd,
    format::{RecordFormat, parse_format},
    group_join::GroupJoinWatch,
    sink::RecordSink,
};
use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::OutputFormat,
    signals::stop_signal,
    terminal, values,
};

/// How long a poll waits, and so how soon a signal is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum interval of heartbeats.
const MAX_HEARTBEAT: Duration = Duration::from_secs(3);
/// How long a poll waits with `--exit-at-end`.
const POLL_TIMEOUT_TO_END: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Without --group it reads all partitions, or the selected ones, from the log end. In a group it resumes at the committed offsets.
With --exit-at-end it ends at the high watermarks as of its start; members of a group end together, once the group has
committed up to these.

Formats: raw is the value and a line feed; json is one object per line (bytes that are not UTF-8 as base64); any other is a
template with %t topic, %p partition, %o offset, %T timestamp, %k key, %K key length, %v value, %V value length, %h headers, %%,
and the escapes \\n \\t \\r \\0 \\\\ \\xHH. On a terminal, control characters in records are shown as \\xHH (except line feeds
and tabs in values); a pipe or file receives every byte unchanged.

Examples:
  streamhouse consume orders --from-beginning --exit-at-end > orders.txt
  streamhouse consume orders --group billing --from-beginning
  streamhouse consume orders --at-timestamp 2026-01-31T08:00:00Z -f '%T %k %v\\n'
  streamhouse consume orders --partition 2 --offset 1000 --max-messages 10 -f json";

/// Arguments of `consume`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConsumeArgs {
    /// Topics to consume
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Join this consumer group, and commit offsets
    #[arg(short, long)]
    group: Option<String>,
    /// Start at the log start; in a group only where no offset is committed
    #[arg(short = 'b', long, conflicts_with_all = ["at_timestamp", "offset"])]
    from_beginning: bool,
    /// Start at the first record at or after this time: milliseconds since the Unix epoch, or ISO
    /// 8601
    #[arg(long, value_name = "TIME", value_parser = values::parse_timestamp, conflicts_with_all = ["group", "offset"])]
    at_timestamp: Option<i64>,
    /// Start at this offset
    #[arg(
        long,
        requires = "partitions",
        conflicts_with = "group",
        value_parser = values::parse_offset
    )]
    offset: Option<i64>,
    /// Consume only this partition; repeatable
    #[arg(
        short,
        long = "partition",
        conflicts_with = "group",
        value_name = "PARTITION",
        value_parser = values::parse_partition
    )]
    partitions: Vec<i32>,
    /// Time without a heartbeat after which the group removes this consumer, within the agents'
    /// bounds (default: 45s)
    #[arg(long, value_name = "DURATION", requires = "group", value_parser = values::parse_positive_duration)]
    session_timeout: Option<Duration>,
    /// Output format: raw, json, or a template (default: raw, or json with -o json)
    #[arg(short, long, value_parser = parse_format)]
    format: Option<RecordFormat>,
    /// Text to print for a null key or value
    #[arg(long, value_name = "STRING", default_value = "", hide_default_value = true)]
    null_value: String,
    /// Exit at the log end as of the start
    #[arg(short = 'e', long)]
    exit_at_end: bool,
    /// Exit after this many records
    #[arg(short = 'n', long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    max_messages: Option<u64>,
}

/// Runs `consume`.
pub(crate) async fn run(context: &CommandContext, args: ConsumeArgs) -> CommandResult {
    let partitions = resolve_partitions(context, &args).await?;
    let mut consumer = build_consumer(context, &args, &partitions).await?;
    let stop = stop_signal();
    let format = args.format.clone().unwrap_or(match context.format {
        OutputFormat::Json => RecordFormat::Json,
        OutputFormat::Table => RecordFormat::Raw,
    });
    let null = args.null_value.clone().into_bytes();
    let mut sink = RecordSink::new(io::stdout(), format, null, terminal::is_stdout_terminal());
    let end = if args.exit_at_end {
        Some(ConsumeEnd::at_high_watermarks(&consumer, &partitions, args.group.is_some()).await?)
    } else {
        None
    };
    let joining = args.group.as_deref().map(|group| {
        let allowed = context.client.config().api_timeout;
        GroupJoinWatch::new(group, context.format, allowed)
    });
    let limits = ConsumeLimits {
        end,
        max: args.max_messages,
        joining,
    };
    let written = copy_records(&mut consumer, &mut sink, limits, &stop).await;
    // In every case, commit what was written and leave the group, so that its other members need
    // not wait.
    let closed = consumer.close().await;
    written?;
    Ok(closed?)
}

/// Returns the partitions to read, after checking that they exist.
async fn resolve_partitions(
    context: &CommandContext,
    args: &ConsumeArgs,
) -> CommandResult<Vec<TopicPartition>> {
    if !args.partitions.is_empty() && args.topics.len() > 1 {
        return Err(CommandError::usage(
            "--partition needs a single topic; run one command for each topic",
        ));
    }
    let mut all = Vec::new();
    for topic in &args.topics {
        let known = context.admin().describe_topic(topic).await?.partitions;
        if let Some(missing) = args
            .partitions
            .iter()
            .find(|p| !known.iter().any(|k| k.partition == **p))
        {
            let message = format!(
                "topic {topic} has {} partitions, so no partition {missing}; name another",
                known.len()
            );
            return Err(CommandError::failed(message));
        }
        let wanted = known
            .iter()
            .filter(|k| args.partitions.is_empty() || args.partitions.contains(&k.partition));
        all.extend(wanted.map(|k| TopicPartition::new(topic, k.partition)));
    }
    Ok(all)
}

async fn build_consumer(
    context: &CommandContext,
    args: &ConsumeArgs,
    partitions: &[TopicPartition],
) -> CommandResult<Consumer> {
    let reset = if args.from_beginning {
        AutoOffsetReset::Earliest
    } else {
        AutoOffsetReset::Latest
    };
    let builder = context.client.consumer().auto_offset_reset(reset);
    if let Some(group) = &args.group {
        let mut builder = builder.group(group).topics(&args.topics);
        if let Some(timeout) = args.session_timeout {
            // Several heartbeats fit into a session, so that losing one does not end it.
            let heartbeat = MAX_HEARTBEAT.min(timeout / 3);
            builder = builder.session_timeout(timeout).heartbeat(heartbeat);
        }
        return Ok(builder.build().await?);
    }
    let builder = builder.auto_commit(None);
    if args.partitions.is_empty() && args.at_timestamp.is_none() && !args.exit_at_end {
        // A subscription also covers partitions added later.
        return Ok(builder.topics(&args.topics).build().await?);
    }
    let consumer = builder.assign(partitions.to_vec()).build().await?;
    if let Some(offset) = args.offset {
        check_range(&consumer, partitions, offset).await?;
        partitions
            .iter()
            .try_for_each(|partition| consumer.seek(partition, offset))?;
    } else if let Some(time) = args.at_timestamp {
        consumer.seek_to_timestamp(partitions, time)?;
    }
    Ok(consumer)
}

/// Checks that an explicit offset exists: resetting it to the nearest one would be a surprise.
async fn check_range(consumer: &Consumer, partitions: &[TopicPartition], offset: i64) -> CommandResult {
    let starts = consumer.beginning_offsets(partitions).await?;
    let ends = consumer.end_offsets(partitions).await?;
    for partition in partitions {
        let at = |of: &BTreeMap<TopicPartition, i64>| of.get(partition).copied().unwrap_or(0);
        let (start, end) = (at(&starts), at(&ends));
        if offset < start || offset > end {
            return Err(CommandError::failed(format!(
                "{partition} has offsets {start} to {end}, but not {offset}; choose one of these"
            )));
        }
    }
    Ok(())
}

/// When to stop.
struct ConsumeLimits {
    end: Option<ConsumeEnd>,
    max: Option<u64>,
    joining: Option<GroupJoinWatch>,
}

/// Polls and writes until the end, the maximum number of records, or a signal.
async fn copy_records<W: io::Write>(
    consumer: &mut Consumer,
    sink: &mut RecordSink<W>,
    limits: ConsumeLimits,
    stop: &CancellationToken,
) -> CommandResult {
    let ConsumeLimits {
        mut end,
        max,
        mut joining,
    } = limits;
    let patience = if end.is_some() {
        POLL_TIMEOUT_TO_END
    } else {
        POLL_TIMEOUT
    };
    let mut left = max.unwrap_or(u64::MAX);
    while !stop.is_cancelled() && left > 0 {
        let records = consumer.poll(patience).await?;
        left -= write_records(consumer, sink, &records, left)?;
        if let Some(joining) = &mut joining {
            joining.check(consumer)?;
        }
        if let Some(end) = &mut end
            && end.is_reached(consumer).await?
        {
            break;
        }
    }
    Ok(())
}

/// Writes at most `most` records. Unwritten records are returned to the consumer by seeking back.
fn write_records<W: io::Write>(
    consumer: &Consumer,
    sink: &mut RecordSink<W>,
    records: &ConsumerRecords,
    most: u64,
) -> CommandResult<u64> {
    if records.is_empty() {
        return Ok(0);
    }
    let most_here = usize::try_from(most).unwrap_or(usize::MAX);
    // A slow reader of the output must not block the heartbeat task.
    let written = tokio::task::block_in_place(|| sink.write_all(records.iter().take(most_here)));
    let kept = match &written {
        Ok(()) if records.len() <= most_here => return Ok(records.len() as u64),
        Ok(()) => most_here,
        Err(_) => 0,
    };
    for (partition, offset) in sink::first_offsets(records.iter().skip(kept)) {
        consumer.seek(&partition, offset)?;
    }
    written?;
    Ok(most)
}
