//! `streamhouse completions`: prints a completion script for a shell.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{command_error::CommandResult, command_line::Cli};

/// Runs `completions`.
pub(crate) fn run(shell: Shell) -> CommandResult {
    io::stdout().lock().write_all(&generate_script(shell))?;
    Ok(())
}

fn generate_script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "streamhouse", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_the_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(generate_script(*shell)).unwrap();
            assert!(script.contains("reset-offsets"), "{shell}");
        }
    }
}
