//! `streamhouse user`: list users, give them passwords, delete them.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use streamhouse_client::admin::{ScramMechanism, UserListing};

use crate::{
    command_error::CommandResult,
    context::CommandContext,
    output::{TextTable, print_result},
    password,
    terminal::escape_for_stdout,
};

/// Manage users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List the users that have a password
    List,
    /// Create a user, or change its password
    Put {
        /// The user's name
        name: String,
        /// File with the new password; - for standard input (default: asked for, or standard input)
        #[arg(long, value_name = "FILE")]
        new_password_file: Option<PathBuf>,
        /// Mechanism by which the user can authenticate, besides PLAIN; repeat for several
        /// (default: all)
        #[arg(long, value_enum, ignore_case = true)]
        mechanism: Vec<MechanismChoice>,
    },
    /// Delete a user; its ACLs stay
    Delete {
        /// The user's name
        name: String,
    },
}

/// A mechanism of SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MechanismChoice {
    /// SCRAM-SHA-256
    #[value(name = "SCRAM-SHA-256")]
    Sha256,
    /// SCRAM-SHA-512
    #[value(name = "SCRAM-SHA-512")]
    Sha512,
}

impl From<MechanismChoice> for ScramMechanism {
    fn from(choice: MechanismChoice) -> Self {
        match choice {
            MechanismChoice::Sha256 => Self::Sha256,
            MechanismChoice::Sha512 => Self::Sha512,
        }
    }
}

/// Runs a `user` command.
pub(crate) async fn run(context: &CommandContext, command: UserCommand) -> CommandResult {
    match command {
        UserCommand::List => {
            let users = context.admin().list_users().await?;
            print_result(context.format, &users, || render_users(&users))
        }
        UserCommand::Put {
            name,
            new_password_file,
            mechanism,
        } => {
            let password = password::new_password(&name, new_password_file.as_deref())?;
            let mechanisms = selected_mechanisms(&mechanism);
            context.admin().put_user(&name, &password, &mechanisms).await?;
            print_result(context.format, &json!({ "stored": true, "user": name }), || {
                format!("stored user {}", escape_for_stdout(&name))
            })
        }
        UserCommand::Delete { name } => {
            context.admin().delete_user(&name).await?;
            print_result(context.format, &json!({ "deleted": true, "user": name }), || {
                format!("deleted user {}", escape_for_stdout(&name))
            })
        }
    }
}

/// Returns each mechanism that was given, once; all without one.
fn selected_mechanisms(given: &[MechanismChoice]) -> Vec<ScramMechanism> {
    let given: Vec<ScramMechanism> = given.iter().copied().map(Into::into).collect();
    let all = ScramMechanism::ALL.into_iter();
    all.filter(|mechanism| given.is_empty() || given.contains(mechanism))
        .collect()
}

fn render_users(users: &[UserListing]) -> TextTable {
    let mut table = TextTable::new(["USER", "MECHANISMS"]);
    for user in users {
        let names = user
            .credentials
            .iter()
            .map(|credential| credential.mechanism.as_str());
        table.add_row([user.name.clone(), names.collect::<Vec<_>>().join(", ")]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mechanism_is_stored_once() {
        use MechanismChoice::{Sha256, Sha512};
        let all = ScramMechanism::ALL.to_vec();
        assert_eq!(selected_mechanisms(&[]), all);
        assert_eq!(selected_mechanisms(&[Sha512]), [ScramMechanism::Sha512]);
        assert_eq!(selected_mechanisms(&[Sha512, Sha256, Sha512]), all);
    }
}
