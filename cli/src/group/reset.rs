//! `streamhouse group reset-offsets`: plans new offsets, prints them, and commits them only with
//! `--execute`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streamhouse_client::{
    TopicPartition,
    admin::{OffsetReset, OffsetSpec},
};

use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::{TextTable, print_result},
    terminal::escape_for_stdout,
    values,
};

/// Arguments of `group reset-offsets`.
#[derive(Debug, Args)]
pub(crate) struct ResetOffsetsArgs {
    /// The group id
    group: String,
    /// Topic, or some of its partitions: orders, or orders:0,2; repeatable
    #[arg(long = "topic", required = true, value_name = "TOPIC[:P,…]", value_parser = parse_topic_selection)]
    topics: Vec<TopicSelection>,
    #[command(flatten)]
    target: ResetTarget,
    /// Only print the new offsets (the default)
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Set the offsets
    #[arg(long)]
    execute: bool,
}

/// The position to reset to.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = false, id = "target")]
pub(crate) struct ResetTarget {
    /// To the log start (oldest record)
    #[arg(long)]
    to_earliest: bool,
    /// To the log end (next offset)
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or the nearest one that exists
    #[arg(long, value_name = "OFFSET", value_parser = values::parse_offset)]
    to_offset: Option<i64>,
    /// To the first record at or after this time: milliseconds since the Unix epoch, or ISO 8601
    #[arg(long, value_name = "TIME", value_parser = values::parse_timestamp)]
    to_timestamp: Option<i64>,
    /// By this many records relative to the committed offset; negative moves back
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

/// A topic and the selected partitions; all if none is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSelection {
    name: String,
    partitions: Vec<i32>,
}

fn parse_topic_selection(text: &str) -> Result<TopicSelection, String> {
    let (name, list) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("write a topic, or topic:0,2".to_owned());
    }
    let partitions: Result<Vec<i32>, _> = list
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect();
    match partitions {
        Ok(partitions) if partitions.iter().all(|partition| *partition >= 0) => Ok(TopicSelection {
            name: name.to_owned(),
            partitions,
        }),
        _ => Err("write partitions as numbers: orders:0,2".to_owned()),
    }
}

/// Offsets of a partition before the reset.
#[derive(Debug, Clone, Copy, Serialize)]
struct PartitionOffsets {
    committed: Option<i64>,
    earliest: i64,
    latest: i64,
    at_timestamp: Option<i64>,
}

/// One line of the plan.
#[derive(Debug, Serialize)]
struct PlannedReset {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    new: i64,
}

pub(super) async fn run(context: &CommandContext, args: ResetOffsetsArgs) -> CommandResult {
    let standing = fetch_partition_offsets(context, &args).await?;
    let mut plan = Vec::with_capacity(standing.len());
    for (partition, standing) in &standing {
        let new = plan_offset(partition, standing, args.target)?;
        plan.push(PlannedReset {
            topic: partition.topic.clone(),
            partition: partition.partition,
            committed: standing.committed,
            new,
        });
    }
    let resets: Vec<OffsetReset> = plan
        .iter()
        .map(|line| OffsetReset::new(TopicPartition::new(&line.topic, line.partition), line.new))
        .collect();
    context
        .admin()
        .reset_offsets(&args.group, &resets, !args.execute)
        .await?;
    let result = json!({ "group": args.group, "executed": args.execute, "offsets": plan });
    print_result(context.format, &result, || render_plan(&args, &plan))
}

async fn fetch_partition_offsets(
    context: &CommandContext,
    args: &ResetOffsetsArgs,
) -> CommandResult<BTreeMap<TopicPartition, PartitionOffsets>> {
    let admin = context.admin();
    let mut partitions = Vec::new();
    for topic in &args.topics {
        let known = admin.describe_topic(&topic.name).await?.partitions;
        if let Some(missing) = topic
            .partitions
            .iter()
            .find(|p| !known.iter().any(|k| k.partition == **p))
        {
            return Err(CommandError::failed(format!(
                "topic {} has {} partitions, so no partition {missing}; name another",
                topic.name,
                known.len()
            )));
        }
        let wanted = known
            .iter()
            .filter(|k| topic.partitions.is_empty() || topic.partitions.contains(&k.partition));
        partitions.extend(wanted.map(|k| TopicPartition::new(&topic.name, k.partition)));
    }
    let query = |at: OffsetSpec| partitions.iter().map(|p| (p.clone(), at)).collect::<Vec<_>>();
    let earliest = admin.list_offsets(query(OffsetSpec::Earliest)).await?;
    let latest = admin.list_offsets(query(OffsetSpec::Latest)).await?;
    let timed = match args.target.to_timestamp {
        Some(ms) => admin.list_offsets(query(OffsetSpec::Timestamp(ms))).await?,
        None => BTreeMap::new(),
    };
    let committed = admin.fetch_offsets(&args.group, &partitions).await?;
    let of = |partition: &TopicPartition| PartitionOffsets {
        committed: committed.get(partition).map(|at| at.offset),
        earliest: earliest.get(partition).map_or(0, |at| at.offset),
        latest: latest.get(partition).map_or(0, |at| at.offset),
        at_timestamp: timed.get(partition).map(|at| at.offset),
    };
    Ok(partitions
        .iter()
        .map(|partition| (partition.clone(), of(partition)))
        .collect())
}

/// Returns the new offset, clamped to the offsets that the partition holds.
fn plan_offset(
    partition: &TopicPartition,
    standing: &PartitionOffsets,
    target: ResetTarget,
) -> CommandResult<i64> {
    let wanted = if target.to_earliest {
        standing.earliest
    } else if let Some(offset) = target.to_offset {
        offset
    } else if target.to_timestamp.is_some() {
        standing.at_timestamp.unwrap_or(standing.latest)
    } else if let Some(by) = target.shift_by {
        let committed = standing.committed.ok_or_else(|| {
            CommandError::failed(format!(
                "the group has committed nothing for {partition}, so there is nothing to shift; use --to-earliest, \
                 --to-latest or --to-offset"
            ))
        })?;
        committed.saturating_add(by)
    } else {
        standing.latest
    };
    Ok(wanted.clamp(standing.earliest, standing.latest.max(standing.earliest)))
}

fn render_plan(args: &ResetOffsetsArgs, plan: &[PlannedReset]) -> String {
    let mut table = TextTable::new(["TOPIC", "PARTITION", "COMMITTED", "NEW"]);
    for line in plan {
        table.add_row([
            line.topic.clone(),
            line.partition.to_string(),
            line.committed
                .map(|offset| offset.to_string())
                .unwrap_or_default(),
            line.new.to_string(),
        ]);
    }
    let note = if args.execute {
        format!(
            "reset {} offsets of group {}",
            plan.len(),
            escape_for_stdout(&args.group)
        )
    } else {
        "nothing was changed; add --execute to set these offsets".to_owned()
    };
    format!("{table}\n{note}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TARGET: ResetTarget = ResetTarget {
        to_earliest: false,
        to_latest: false,
        to_offset: None,
        to_timestamp: None,
        shift_by: None,
    };

    fn plan(target: ResetTarget, committed: Option<i64>) -> CommandResult<i64> {
        let standing = PartitionOffsets {
            committed,
            earliest: 10,
            latest: 100,
            at_timestamp: Some(42),
        };
        plan_offset(&TopicPartition::new("t", 0), &standing, target)
    }

    #[test]
    fn every_target_stays_within_what_the_partition_holds() {
        let target = |change: &dyn Fn(&mut ResetTarget)| {
            let mut target = NO_TARGET;
            change(&mut target);
            target
        };
        assert_eq!(plan(target(&|t| t.to_earliest = true), None), Ok(10));
        assert_eq!(plan(target(&|t| t.to_latest = true), None), Ok(100));
        assert_eq!(plan(target(&|t| t.to_offset = Some(50)), None), Ok(50));
        assert_eq!(plan(target(&|t| t.to_offset = Some(5)), None), Ok(10));
        assert_eq!(plan(target(&|t| t.to_offset = Some(500)), None), Ok(100));
        assert_eq!(plan(target(&|t| t.to_timestamp = Some(1)), None), Ok(42));
        assert_eq!(plan(target(&|t| t.shift_by = Some(-5)), Some(50)), Ok(45));
        assert_eq!(plan(target(&|t| t.shift_by = Some(i64::MAX)), Some(50)), Ok(100));
        assert!(plan(target(&|t| t.shift_by = Some(1)), None).is_err());
    }

    #[test]
    fn topics_may_name_partitions() {
        assert_eq!(
            parse_topic_selection("a"),
            Ok(TopicSelection {
                name: "a".into(),
                partitions: vec![]
            })
        );
        assert_eq!(
            parse_topic_selection("a:0,2"),
            Ok(TopicSelection {
                name: "a".into(),
                partitions: vec![0, 2]
            })
        );
        assert!(
            parse_topic_selection(":1").is_err()
                && parse_topic_selection("a:x").is_err()
                && parse_topic_selection("a:-1").is_err()
        );
    }
}
