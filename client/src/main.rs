//! The command line `streamhouse`: parses, runs one command, prints how it ended, and leaves with its exit code: 0 done,
//! 1 failed, 2 called wrongly.

mod cli;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use crate::cli::{Cli, failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(cli::print_usage(&error)),
    };
    let format = cli.format();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("streamhouse: cannot start: {error}");
            return ExitCode::from(failure::FAILED);
        }
    };
    let outcome = runtime.block_on(cli.run());
    // A read of standard input may still wait for a key press; it is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line(format) {
                eprintln!("{line}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
