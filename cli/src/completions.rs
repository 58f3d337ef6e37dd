//! `streamhouse completions`: prints a completion script for a shell.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;

use crate::command_error::CommandResult;

/// Runs `completions` for this command line.
pub(crate) fn run(command_line: Command, shell: Shell) -> CommandResult {
    io::stdout()
        .lock()
        .write_all(&generate_script(command_line, shell))?;
    Ok(())
}

/// Returns the completion script of this command line.
pub(crate) fn generate_script(mut command_line: Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line, "streamhouse", &mut script);
    script
}
