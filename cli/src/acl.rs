//! `streamhouse acl`: list, add and delete access control lists, and explain what they decide. With
//! the words of `kafka-acls`.

mod selection;

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::json;
use streamhouse_client::admin::{
    AccessDecision, AclBinding, AclHost, AclOperation, AclPermission, KafkaPrincipal,
};

use self::selection::{AclResource, AclResourcePatterns, AclSelection};
use crate::{
    command_error::{CommandError, CommandResult},
    context::CommandContext,
    output::{TextTable, print_result},
    terminal::escape_for_stdout,
};

/// Manage access control lists.
#[derive(Debug, Subcommand)]
pub(crate) enum AclCommand {
    /// List ACLs; all without an option
    List(AclSelection),
    /// Allow or deny operations on resources; what is denied wins
    Add(AddAclArgs),
    /// Delete the ACLs that the options select
    Delete {
        #[command(flatten)]
        selection: AclSelection,
        /// Show what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
    /// Show whether a principal may do something, and which ACL decides
    Explain(ExplainAclArgs),
}

/// Arguments of `acl add`.
#[derive(Debug, Args)]
pub(crate) struct AddAclArgs {
    /// Principal that may do it, such as User:alice, or User:* for everybody; repeat for several
    #[arg(long, value_name = "PRINCIPAL", required_unless_present = "deny_principal")]
    allow_principal: Vec<KafkaPrincipal>,
    /// Principal that may not do it, whatever else allows it; repeat for several
    #[arg(long, value_name = "PRINCIPAL")]
    deny_principal: Vec<KafkaPrincipal>,
    /// Operation, such as Read, Write, Describe or All; repeat for several
    #[arg(long, required = true)]
    operation: Vec<AclOperation>,
    /// IP address that the client has; repeat for several (default: any)
    #[arg(long, value_name = "ADDRESS")]
    host: Vec<AclHost>,
    #[command(flatten)]
    resources: AclResourcePatterns,
}

/// Arguments of `acl explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainAclArgs {
    /// The principal, such as User:alice
    principal: KafkaPrincipal,
    /// The operation, such as Read
    operation: AclOperation,
    /// The client's IP address (default: one that only ACLs for every host are for)
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    #[command(flatten)]
    resource: AclResource,
}

/// Runs an `acl` command.
pub(crate) async fn run(context: &CommandContext, command: AclCommand) -> CommandResult {
    match command {
        AclCommand::List(selection) => {
            let mut acls = Vec::new();
            for filter in selection.filters() {
                acls.extend(context.admin().list_acls(&filter).await?);
            }
            acls.sort();
            acls.dedup();
            print_result(context.format, &acls, || render_acls(&acls))
        }
        AclCommand::Add(args) => add_acls(context, &args).await,
        AclCommand::Delete { selection, dry_run } => delete_acls(context, &selection, dry_run).await,
        AclCommand::Explain(args) => explain(context, &args).await,
    }
}

async fn add_acls(context: &CommandContext, args: &AddAclArgs) -> CommandResult {
    let acls = args.bindings()?;
    let created = context.admin().create_acls(&acls).await?;
    print_result(
        context.format,
        &json!({ "created": created, "acls": acls }),
        || {
            format!(
                "{created} of {} ACLs are new\n\n{}",
                acls.len(),
                render_acls(&acls)
            )
        },
    )
}

async fn delete_acls(context: &CommandContext, selection: &AclSelection, dry_run: bool) -> CommandResult {
    if selection.selects_everything() {
        return Err(CommandError::usage(
            "acl delete needs an option that says which ACLs: --principal, --topic, --group, --cluster, …",
        ));
    }
    let mut deleted = Vec::new();
    for filter in selection.filters() {
        deleted.extend(context.admin().delete_acls(&filter, dry_run).await?);
    }
    deleted.sort();
    deleted.dedup();
    print_result(
        context.format,
        &json!({ "deleted": deleted, "dry_run": dry_run }),
        || {
            let done = if dry_run { "would be deleted" } else { "deleted" };
            format!("{} ACLs {done}\n\n{}", deleted.len(), render_acls(&deleted))
        },
    )
}

async fn explain(context: &CommandContext, args: &ExplainAclArgs) -> CommandResult {
    let (admin, resource) = (context.admin(), args.resource.named());
    let asked = admin.explain_access(&args.principal, args.host, args.operation, resource);
    let answer: AccessDecision = asked.await?;
    print_result(context.format, &answer, || {
        escape_for_stdout(&answer.decision).into_owned()
    })
}

impl AddAclArgs {
    /// Returns every combination of principals, operations, hosts and resources.
    fn bindings(&self) -> CommandResult<Vec<AclBinding>> {
        let resources = self.resources.named();
        if resources.is_empty() {
            return Err(CommandError::usage(
                "acl add needs a resource: --topic, --group, --cluster or --transactional-id",
            ));
        }
        let hosts = if self.host.is_empty() {
            vec![AclHost::Any]
        } else {
            self.host.clone()
        };
        let allowed = self
            .allow_principal
            .iter()
            .map(|principal| (principal, AclPermission::Allow));
        let denied = self
            .deny_principal
            .iter()
            .map(|principal| (principal, AclPermission::Deny));
        let mut bindings = Vec::new();
        for (principal, permission) in allowed.chain(denied) {
            for (resource_type, name) in &resources {
                for &operation in &self.operation {
                    for &host in &hosts {
                        bindings.push(AclBinding {
                            resource_type: *resource_type,
                            name: name.clone(),
                            pattern: self.resources.pattern(),
                            principal: principal.clone(),
                            host,
                            operation,
                            permission,
                        });
                    }
                }
            }
        }
        for binding in &bindings {
            let checked = binding.validate();
            checked.map_err(|problem| CommandError::usage(problem.to_string()))?;
        }
        Ok(bindings)
    }
}

fn render_acls(acls: &[AclBinding]) -> TextTable {
    let mut table = TextTable::new([
        "PRINCIPAL",
        "PERMISSION",
        "OPERATION",
        "RESOURCE",
        "NAME",
        "PATTERN",
        "HOST",
    ]);
    for acl in acls {
        table.add_row([
            acl.principal.to_string(),
            acl.permission.to_string(),
            acl.operation.to_string(),
            acl.resource_type.to_string(),
            acl.name.clone(),
            acl.pattern.to_string(),
            acl.host.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestLine {
        #[command(flatten)]
        args: AddAclArgs,
    }

    fn bindings(args: &str) -> CommandResult<Vec<AclBinding>> {
        let args = std::iter::once("add").chain(args.split_whitespace());
        TestLine::try_parse_from(args).unwrap().args.bindings()
    }

    #[test]
    fn each_combination_is_an_acl() {
        let all = bindings(
            "--allow-principal User:alice --deny-principal User:bob --operation read --operation Write \
             --topic orders --topic audit --host 10.0.0.1 --host 10.0.0.2 --prefixed",
        )
        .unwrap();
        assert_eq!(all.len(), 16);
        assert_eq!(
            all[0].to_string(),
            bindings(
                "--allow-principal User:alice --operation Read --topic orders --host 10.0.0.1 --prefixed"
            )
            .unwrap()[0]
                .to_string()
        );
    }

    #[test]
    fn an_acl_needs_a_resource_that_the_operation_is_for() {
        for args in [
            "--allow-principal User:alice --operation Read",
            "--allow-principal User:alice --operation Write --group billing",
        ] {
            assert!(matches!(bindings(args), Err(CommandError::Usage(_))), "{args}");
        }
        let cluster = bindings("--allow-principal User:alice --operation Alter --cluster").unwrap();
        assert_eq!(cluster[0].name, "kafka-cluster");
    }
}
