//! Runs the `streamhouse` command line as a user would.

use std::ffi::OsStr;
use std::process::ExitStatus;
use std::time::Duration;

use crate::{ChildProcess, ProcessBuilder, programs};

/// How long a command of the command line may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// The result of a finished program.
#[derive(Debug, Clone)]
pub struct ProgramOutput {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output as bytes.
    pub stdout: Vec<u8>,
    /// Standard error as text.
    pub stderr: String,
}

impl ProgramOutput {
    pub(crate) fn from_process(process: &ChildProcess, status: ExitStatus) -> ProgramOutput {
        ProgramOutput {
            status,
            stdout: process.stdout_bytes(),
            stderr: process.stderr(),
        }
    }

    /// Returns standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns this output if the program succeeded.
    ///
    /// # Errors
    ///
    /// Fails with the program's output otherwise.
    pub fn ensure_success(self) -> anyhow::Result<ProgramOutput> {
        anyhow::ensure!(
            self.status.success(),
            "it ended with {}\n{}\n{}",
            self.status,
            self.stdout_text(),
            self.stderr
        );
        Ok(self)
    }
}

/// The command line with the bootstrap address of one cluster.
#[derive(Debug, Clone)]
pub struct CliRunner {
    bootstrap: String,
    envs: Vec<(String, String)>,
}

impl CliRunner {
    /// Creates a command line with this bootstrap address in its environment.
    pub fn new(bootstrap: impl Into<String>) -> CliRunner {
        CliRunner {
            bootstrap: bootstrap.into(),
            envs: Vec::new(),
        }
    }

    /// Sets an environment variable. The test's own environment is not inherited.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> CliRunner {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Runs a command to its end, for at most two minutes, without standard input.
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<ProgramOutput> {
        self.command(args)?.run(COMMAND_TIMEOUT)
    }

    /// Runs a command to its end, for at most two minutes, with `input` as standard input.
    pub fn run_with_input(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: impl Into<Vec<u8>>,
    ) -> anyhow::Result<ProgramOutput> {
        self.command(args)?.input(input).run(COMMAND_TIMEOUT)
    }

    /// Starts a command without waiting for its end.
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<ChildProcess> {
        self.command(args)?.start()
    }

    fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<ProcessBuilder> {
        let spawn = ProcessBuilder::new(programs::built_binary("streamhouse")?).clean_env();
        let spawn = spawn.env("STREAMHOUSE_BOOTSTRAP", &self.bootstrap).args(args);
        Ok(self
            .envs
            .iter()
            .fold(spawn, |spawn, (key, value)| spawn.env(key, value)))
    }
}

impl ProcessBuilder {
    /// Runs the program to its end. Its exit status is not checked.
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started or runs longer than `limit`.
    pub fn run(self, limit: Duration) -> anyhow::Result<ProgramOutput> {
        let mut process = self.start()?;
        let status = process.wait(limit)?;
        Ok(ProgramOutput::from_process(&process, status))
    }
}
