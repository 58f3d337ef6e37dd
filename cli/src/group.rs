//! `streamhouse group`: list, describe and delete groups. [`reset`] resets their offsets.

mod reset;

use clap::Subcommand;
use serde_json::json;
use streamhouse_client::admin::{GroupInfo, GroupOffset};

use crate::{
    command_error::CommandResult,
    context::CommandContext,
    output::{TextTable, group_digits, print_result},
    terminal::escape_for_stdout,
    values,
};

/// Manage consumer groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List consumer groups
    List,
    /// Show members, assignments, committed offsets and lag of a group
    Describe {
        /// The group id
        group: String,
    },
    /// Reset the offsets of a group without members; a dry run unless --execute is given
    ResetOffsets(reset::ResetOffsetsArgs),
    /// Delete a group without members, and its committed offsets
    Delete {
        /// The group id
        group: String,
    },
}

/// Runs a `group` command.
pub(crate) async fn run(context: &CommandContext, command: GroupCommand) -> CommandResult {
    match command {
        GroupCommand::List => list_groups(context).await,
        GroupCommand::Describe { group } => describe_group(context, &group).await,
        GroupCommand::ResetOffsets(args) => reset::run(context, args).await,
        GroupCommand::Delete { group } => {
            context.admin().delete_group(&group).await?;
            print_result(
                context.format,
                &json!({ "deleted": true, "group": group }),
                || format!("deleted group {}", escape_for_stdout(&group)),
            )
        }
    }
}

async fn list_groups(context: &CommandContext) -> CommandResult {
    let groups = context.admin().list_groups().await?;
    print_result(context.format, &groups, || {
        let mut table = TextTable::new(["GROUP", "STATE", "MEMBERS", "PROTOCOL"]);
        for group in &groups {
            let members = group.members.to_string();
            table
                .add_row([&group.group_id, &group.state, &members, &group.protocol_type].map(String::as_str));
        }
        table
    })
}

async fn describe_group(context: &CommandContext, group: &str) -> CommandResult {
    let admin = context.admin();
    let info = admin.describe_group(group).await?;
    let offsets = admin.group_offsets(group).await?;
    let lag: i64 = offsets.iter().map(|offset| offset.lag).sum();
    print_result(
        context.format,
        &json!({ "group": info, "offsets": offsets, "lag": lag }),
        || render_group(&info, &offsets, lag),
    )
}

fn render_group(info: &GroupInfo, offsets: &[GroupOffset], lag: i64) -> String {
    let mut progress = TextTable::new([
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "HIGH WATERMARK",
        "LAG",
        "COMMITTED AT",
        "MEMBER",
    ]);
    for offset in offsets {
        let committed = offset.committed.as_ref();
        progress.add_row([
            offset.partition.topic.clone(),
            offset.partition.partition.to_string(),
            committed.map(|at| at.offset.to_string()).unwrap_or_default(),
            offset.high_watermark.to_string(),
            offset.lag.to_string(),
            committed
                .map(|at| values::format_timestamp(at.committed_at_ms))
                .unwrap_or_default(),
            offset.member_id.clone(),
        ]);
    }
    let mut members = TextTable::new(["MEMBER", "CLIENT", "HOST", "PARTITIONS"]);
    for member in &info.members {
        let mut assigned: Vec<String> = member.assignment.iter().map(ToString::to_string).collect();
        assigned.sort();
        members.add_row(
            [
                &member.member_id,
                &member.client_id,
                &member.client_host,
                &assigned.join(" "),
            ]
            .map(String::as_str),
        );
    }
    let protocol = if info.protocol_name.is_empty() {
        "-"
    } else {
        &info.protocol_name
    };
    format!(
        "group {}  state {}  generation {}  assignor {}  coordinator {}\n{} members, {} records behind\n\n{members}\n{progress}",
        escape_for_stdout(&info.group_id),
        info.state,
        info.generation,
        escape_for_stdout(protocol),
        info.coordinator,
        info.members.len(),
        group_digits(u64::try_from(lag).unwrap_or(0)),
    )
}

#[cfg(test)]
mod tests {
    use streamhouse_client::{
        TopicPartition,
        admin::{CommittedOffset, GroupMember},
    };

    use super::*;

    #[test]
    fn the_description_shows_members_and_lag() {
        let partition = TopicPartition::new("orders", 1);
        let mut member = GroupMember::default();
        member.member_id = "m-1".into();
        member.client_id = "cli".into();
        member.client_host = "10.0.0.1".into();
        member.assignment = vec![partition.clone()];
        let mut info = GroupInfo::default();
        info.group_id = "billing".into();
        info.state = "Stable".into();
        info.generation = 3;
        info.protocol_type = "consumer".into();
        info.protocol_name = "cooperative-sticky".into();
        info.leader = "m-1".into();
        info.members = vec![member];
        info.coordinator = "h:50051".into();
        let mut committed = CommittedOffset::default();
        committed.offset = 90;
        let mut offset = GroupOffset::new(partition);
        offset.committed = Some(committed);
        offset.high_watermark = 1500;
        offset.lag = 1410;
        offset.member_id = "m-1".into();
        offset.client_id = "cli".into();
        let text = render_group(&info, &[offset], 1410);
        assert!(text.contains("1 members, 1,410 records behind"), "{text}");
        assert!(text.contains("orders-1"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.starts_with("orders") && line.contains("1410")),
            "{text}"
        );
    }
}
