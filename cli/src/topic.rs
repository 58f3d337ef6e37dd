//! `streamhouse topic`: create, list, describe, alter and delete topics, delete records, show
//! offsets.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;
use streamhouse_client::{
    ErrorCode, TopicPartition,
    admin::{NewTopic, OffsetSpec, TopicChange, TopicInfo},
};

use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::{TextTable, group_digits, human_bytes, print_result},
    terminal::escape_for_stdout,
    values,
};

/// Manage topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic
    Create(CreateTopicArgs),
    /// List topics
    List {
        /// Include the cluster's internal topics
        #[arg(long)]
        internal: bool,
    },
    /// Show the settings and partitions of a topic
    Describe {
        /// The topic name
        name: String,
    },
    /// Change settings, or add partitions
    Alter(AlterTopicArgs),
    /// Delete a topic and its records
    Delete {
        /// The topic name
        name: String,
        /// Succeed if the topic does not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Delete the oldest records of a partition
    DeleteRecords {
        /// The topic name
        name: String,
        /// The partition
        #[arg(short, long, value_parser = values::parse_partition)]
        partition: i32,
        /// Delete the records before this offset; -1 deletes all records
        #[arg(long, allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..))]
        before_offset: i64,
    },
    /// Show the earliest and latest offsets of a topic
    Offsets {
        /// The topic name
        name: String,
        /// Also show the offset of the first record at or after this time: milliseconds since the
        /// Unix epoch, or ISO 8601
        #[arg(long, value_name = "TIME", value_parser = values::parse_timestamp)]
        at_timestamp: Option<i64>,
    },
}

/// Arguments of `topic create`.
#[derive(Debug, Args)]
pub(crate) struct CreateTopicArgs {
    /// The topic name
    name: String,
    /// Number of partitions
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Topic setting, such as retention.ms=86400000; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::parse_key_value)]
    config: Vec<(String, String)>,
    /// Succeed if the topic already exists
    #[arg(long)]
    if_not_exists: bool,
    /// Validate the request without creating the topic
    #[arg(long)]
    validate_only: bool,
}

/// Arguments of `topic alter`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "change")]
pub(crate) struct TopicChangeArgs {
    /// New number of partitions, which can only grow
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Topic setting to set, such as retention.ms=86400000; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::parse_key_value)]
    config: Vec<(String, String)>,
    /// Topic setting to reset to its default; repeatable
    #[arg(long, value_name = "KEY")]
    reset: Vec<String>,
}

/// Arguments of `topic alter`.
#[derive(Debug, Args)]
pub(crate) struct AlterTopicArgs {
    /// The topic name
    name: String,
    #[command(flatten)]
    change: TopicChangeArgs,
    /// Validate the request without changing the topic
    #[arg(long)]
    validate_only: bool,
}

/// Runs a `topic` command.
pub(crate) async fn run(context: &CommandContext, command: TopicCommand) -> CommandResult {
    match command {
        TopicCommand::Create(args) => create_topic(context, args).await,
        TopicCommand::List { internal } => list_topics(context, internal).await,
        TopicCommand::Describe { name } => {
            let topic = context.admin().describe_topic(&name).await?;
            print_result(context.format, &topic, || render_topic(&topic))
        }
        TopicCommand::Alter(args) => alter_topic(context, args).await,
        TopicCommand::Delete { name, if_exists } => delete_topic(context, &name, if_exists).await,
        TopicCommand::DeleteRecords {
            name,
            partition,
            before_offset,
        } => {
            let before = (before_offset >= 0).then_some(before_offset);
            let start = context
                .admin()
                .delete_records(&TopicPartition::new(&name, partition), before)
                .await?;
            print_result(
                context.format,
                &json!({ "topic": name, "partition": partition, "log_start_offset": start }),
                || {
                    format!(
                        "{}-{partition} now begins at offset {start}",
                        escape_for_stdout(&name)
                    )
                },
            )
        }
        TopicCommand::Offsets { name, at_timestamp } => show_offsets(context, &name, at_timestamp).await,
    }
}

async fn create_topic(context: &CommandContext, args: CreateTopicArgs) -> CommandResult {
    let mut topic = NewTopic::new(&args.name, args.partitions).with_validate_only(args.validate_only);
    topic.config = collect_unique(args.config)?;
    let (info, created) = match context.admin().create_topic(topic).await {
        Ok(info) => (info, !args.validate_only),
        Err(error) if args.if_not_exists && error.code() == ErrorCode::TopicAlreadyExists => {
            (context.admin().describe_topic(&args.name).await?, false)
        }
        Err(error) => return Err(error.into()),
    };
    print_result(
        context.format,
        &json!({ "created": created, "topic": info }),
        || {
            let (name, partitions) = (escape_for_stdout(&args.name), info.partitions.len());
            match (created, args.validate_only) {
                (true, _) => format!("created topic {name} with {partitions} partitions"),
                (false, true) => format!("topic {name} can be created"),
                (false, false) => format!("topic {name} exists with {partitions} partitions"),
            }
        },
    )
}

async fn list_topics(context: &CommandContext, internal: bool) -> CommandResult {
    let topics = context.admin().list_topics(internal).await?;
    print_result(context.format, &topics, || {
        let mut table = TextTable::new(["TOPIC", "PARTITIONS", "ID"]);
        for topic in &topics {
            table.add_row([
                topic.name.clone(),
                topic.partitions.to_string(),
                topic.topic_id.clone(),
            ]);
        }
        table
    })
}

async fn alter_topic(context: &CommandContext, args: AlterTopicArgs) -> CommandResult {
    let mut change = TopicChange::new().with_validate_only(args.validate_only);
    change.partitions = args.change.partitions;
    change.set = collect_unique(args.change.config)?;
    change.reset = args.change.reset;
    if let Some(key) = change.reset.iter().find(|key| change.set.contains_key(*key)) {
        return Err(CommandError::usage(format!(
            "{key} is both set and reset; choose one"
        )));
    }
    let topic = context.admin().alter_topic(&args.name, change).await?;
    print_result(context.format, &topic, || {
        if args.validate_only {
            format!(
                "topic {} can be altered as requested",
                escape_for_stdout(&args.name)
            )
        } else {
            render_topic(&topic)
        }
    })
}

async fn delete_topic(context: &CommandContext, name: &str, if_exists: bool) -> CommandResult {
    let deleted = match context.admin().delete_topic(name).await {
        Ok(()) => true,
        Err(error) if if_exists && error.code() == ErrorCode::UnknownTopicOrPartition => false,
        Err(error) => return Err(error.into()),
    };
    print_result(
        context.format,
        &json!({ "deleted": deleted, "topic": name }),
        || {
            if deleted {
                format!("deleted topic {}", escape_for_stdout(name))
            } else {
                format!("there is no topic {}", escape_for_stdout(name))
            }
        },
    )
}

async fn show_offsets(context: &CommandContext, name: &str, at: Option<i64>) -> CommandResult {
    let admin = context.admin();
    let topic = admin.describe_topic(name).await?;
    let partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| TopicPartition::new(name, p.partition))
        .collect();
    let found = match at {
        Some(at) => {
            admin
                .list_offsets(partitions.into_iter().map(|p| (p, OffsetSpec::Timestamp(at))))
                .await?
        }
        None => BTreeMap::new(),
    };
    let found_in = |partition: i32| found.get(&TopicPartition::new(name, partition));
    let rows: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| {
            json!({
                "partition": p.partition,
                "earliest": p.log_start_offset,
                "latest": p.high_watermark,
                "at_timestamp": found_in(p.partition),
            })
        })
        .collect();
    print_result(
        context.format,
        &json!({ "topic": name, "partitions": rows }),
        || {
            let mut table = TextTable::new(["PARTITION", "EARLIEST", "LATEST", "RECORDS", "AT TIMESTAMP"]);
            for p in &topic.partitions {
                let records = p.high_watermark - p.log_start_offset;
                let at = found_in(p.partition)
                    .map(|found| found.offset.to_string())
                    .unwrap_or_default();
                let numbers = [
                    i64::from(p.partition),
                    p.log_start_offset,
                    p.high_watermark,
                    records,
                ];
                table.add_row(numbers.iter().map(ToString::to_string).chain([at]));
            }
            table
        },
    )
}

/// Collects settings by name; rejects duplicates.
fn collect_unique(config: Vec<(String, String)>) -> CommandResult<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in config {
        if map.contains_key(&key) {
            return Err(CommandError::usage(format!(
                "--config {key} is given twice; give it once"
            )));
        }
        map.insert(key, value);
    }
    Ok(map)
}

fn render_topic(topic: &TopicInfo) -> String {
    let records: i64 = topic
        .partitions
        .iter()
        .map(|p| p.high_watermark - p.log_start_offset)
        .sum();
    let size: i64 = topic.partitions.iter().map(|p| p.size_bytes).sum();
    let mut partitions = TextTable::new(["PARTITION", "LEADER", "EPOCH", "EARLIEST", "LATEST", "SIZE"]);
    for p in &topic.partitions {
        partitions.add_row([
            p.partition.to_string(),
            p.leader.clone(),
            p.leader_epoch.to_string(),
            p.log_start_offset.to_string(),
            p.high_watermark.to_string(),
            human_bytes(u64::try_from(p.size_bytes).unwrap_or(0)),
        ]);
    }
    let mut settings = TextTable::new(["SETTING", "VALUE", "FROM"]);
    for (key, value) in &topic.config {
        let from = if topic.overridden.contains(key) {
            "topic"
        } else {
            "default"
        };
        settings.add_row([key.as_str(), value.as_str(), from]);
    }
    format!(
        "topic {}  id {}  created {}\n{} records in {} partitions, {}\n\n{partitions}\n{settings}",
        escape_for_stdout(&topic.name),
        topic.topic_id,
        values::format_timestamp(topic.created_at_ms),
        group_digits(u64::try_from(records).unwrap_or(0)),
        topic.partitions.len(),
        human_bytes(u64::try_from(size).unwrap_or(0)),
    )
}

#[cfg(test)]
mod tests {
    use streamhouse_client::admin::PartitionInfo;

    use super::*;

    #[test]
    fn a_setting_given_twice_is_refused() {
        let pair = |key: &str| (key.to_owned(), "1".to_owned());
        assert_eq!(collect_unique(vec![pair("a"), pair("b")]).unwrap().len(), 2);
        assert!(matches!(
            collect_unique(vec![pair("a"), pair("a")]),
            Err(CommandError::Usage(_))
        ));
    }

    #[test]
    fn a_description_shows_partitions_and_where_settings_come_from() {
        let mut partition = PartitionInfo::default();
        partition.leader = "a-1".into();
        partition.leader_address = "h:1".into();
        partition.leader_epoch = 2;
        partition.log_start_offset = 10;
        partition.high_watermark = 1210;
        partition.size_bytes = 2048;
        let mut topic = TopicInfo::default();
        topic.name = "orders".into();
        topic.topic_id = "t1".into();
        topic.config = [
            ("retention.ms".into(), "1000".into()),
            ("segment.ms".into(), "5".into()),
        ]
        .into();
        topic.overridden = vec!["segment.ms".into()];
        topic.partitions = vec![partition];
        let text = render_topic(&topic);
        assert!(text.contains("1,200 records in 1 partitions, 2.0 KiB"), "{text}");
        assert!(text.contains("a-1"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.starts_with("segment.ms") && line.ends_with("topic")),
            "{text}"
        );
        assert!(
            text.lines()
                .any(|line| line.starts_with("retention.ms") && line.ends_with("default")),
            "{text}"
        );
    }
}
