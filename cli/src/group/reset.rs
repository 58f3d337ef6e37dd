//! `streamhouse group reset-offsets`: plans new offsets, prints them, and commits them only with
//! `--execute`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use streamhouse_client::{
    TopicPartition,
    admin::{OffsetAt, OffsetReset},
};

use crate::{
    context::Context,
    failure::{Failure, Outcome},
    output::{Table, emit},
    screen::on_stdout,
    values,
};

/// Arguments of `group reset-offsets`.
#[derive(Debug, Args)]
pub(crate) struct ResetOffsets {
    /// The group id
    group: String,
    /// Topic, or some of its partitions: orders, or orders:0,2; repeatable
    #[arg(long = "topic", required = true, value_name = "TOPIC[:P,…]", value_parser = topic)]
    topics: Vec<Topic>,
    #[command(flatten)]
    target: Target,
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
pub(crate) struct Target {
    /// To the log start (oldest record)
    #[arg(long)]
    to_earliest: bool,
    /// To the log end (next offset)
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or the nearest one that exists
    #[arg(long, value_name = "OFFSET", value_parser = values::offset)]
    to_offset: Option<i64>,
    /// To the first record at or after this time: milliseconds since the Unix epoch, or ISO 8601
    #[arg(long, value_name = "TIME", value_parser = values::timestamp)]
    to_timestamp: Option<i64>,
    /// By this many records relative to the committed offset; negative moves back
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

/// A topic and the selected partitions; all if none is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    name: String,
    partitions: Vec<i32>,
}

fn topic(text: &str) -> Result<Topic, String> {
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
        Ok(partitions) if partitions.iter().all(|partition| *partition >= 0) => Ok(Topic {
            name: name.to_owned(),
            partitions,
        }),
        _ => Err("write partitions as numbers: orders:0,2".to_owned()),
    }
}

/// Offsets of a partition before the reset.
#[derive(Debug, Clone, Copy, Serialize)]
struct Standing {
    committed: Option<i64>,
    earliest: i64,
    latest: i64,
    at_timestamp: Option<i64>,
}

/// One line of the plan.
#[derive(Debug, Serialize)]
struct Planned {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    new: i64,
}

pub(super) async fn run(context: &Context, args: ResetOffsets) -> Outcome {
    let standing = standing(context, &args).await?;
    let mut plan = Vec::with_capacity(standing.len());
    for (partition, standing) in &standing {
        let new = planned(partition, standing, args.target)?;
        plan.push(Planned {
            topic: partition.topic.clone(),
            partition: partition.partition,
            committed: standing.committed,
            new,
        });
    }
    let resets: Vec<OffsetReset> = plan
        .iter()
        .map(|line| OffsetReset {
            partition: TopicPartition::new(&line.topic, line.partition),
            offset: line.new,
        })
        .collect();
    context
        .admin()
        .reset_offsets(&args.group, &resets, !args.execute)
        .await?;
    let result = json!({ "group": args.group, "executed": args.execute, "offsets": plan });
    emit(context.format, &result, || show(&args, &plan))
}

async fn standing(context: &Context, args: &ResetOffsets) -> Outcome<BTreeMap<TopicPartition, Standing>> {
    let admin = context.admin();
    let mut partitions = Vec::new();
    for topic in &args.topics {
        let known = admin.describe_topic(&topic.name).await?.partitions;
        if let Some(missing) = topic
            .partitions
            .iter()
            .find(|p| !known.iter().any(|k| k.partition == **p))
        {
            return Err(Failure::failed(format!(
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
    let query = |at: OffsetAt| partitions.iter().map(|p| (p.clone(), at)).collect::<Vec<_>>();
    let earliest = admin.list_offsets(query(OffsetAt::Earliest)).await?;
    let latest = admin.list_offsets(query(OffsetAt::Latest)).await?;
    let timed = match args.target.to_timestamp {
        Some(ms) => admin.list_offsets(query(OffsetAt::Timestamp(ms))).await?,
        None => BTreeMap::new(),
    };
    let committed = admin.fetch_offsets(&args.group, &partitions).await?;
    let of = |partition: &TopicPartition| Standing {
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
fn planned(partition: &TopicPartition, standing: &Standing, target: Target) -> Outcome<i64> {
    let wanted = if target.to_earliest {
        standing.earliest
    } else if let Some(offset) = target.to_offset {
        offset
    } else if target.to_timestamp.is_some() {
        standing.at_timestamp.unwrap_or(standing.latest)
    } else if let Some(by) = target.shift_by {
        let committed = standing.committed.ok_or_else(|| {
            Failure::failed(format!(
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

fn show(args: &ResetOffsets, plan: &[Planned]) -> String {
    let mut table = Table::new(["TOPIC", "PARTITION", "COMMITTED", "NEW"]);
    for line in plan {
        table.row([
            line.topic.clone(),
            line.partition.to_string(),
            line.committed
                .map(|offset| offset.to_string())
                .unwrap_or_default(),
            line.new.to_string(),
        ]);
    }
    let note = if args.execute {
        format!("reset {} offsets of group {}", plan.len(), on_stdout(&args.group))
    } else {
        "nothing was changed; add --execute to set these offsets".to_owned()
    };
    format!("{table}\n{note}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Target = Target {
        to_earliest: false,
        to_latest: false,
        to_offset: None,
        to_timestamp: None,
        shift_by: None,
    };

    fn plan(target: Target, committed: Option<i64>) -> Outcome<i64> {
        let standing = Standing {
            committed,
            earliest: 10,
            latest: 100,
            at_timestamp: Some(42),
        };
        planned(&TopicPartition::new("t", 0), &standing, target)
    }

    #[test]
    fn every_target_stays_within_what_the_partition_holds() {
        let target = |change: &dyn Fn(&mut Target)| {
            let mut target = NOWHERE;
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
            topic("a"),
            Ok(Topic {
                name: "a".into(),
                partitions: vec![]
            })
        );
        assert_eq!(
            topic("a:0,2"),
            Ok(Topic {
                name: "a".into(),
                partitions: vec![0, 2]
            })
        );
        assert!(topic(":1").is_err() && topic("a:x").is_err() && topic("a:-1").is_err());
    }
}
