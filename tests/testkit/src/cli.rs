//! The `streamhouse` command line, run as a user would.

use std::ffi::OsStr;
use std::process::ExitStatus;
use std::time::Duration;

use crate::{Process, Spawn, programs};

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Its standard error as text.
    pub stderr: String,
}

impl Output {
    pub(crate) fn of(process: &Process, status: ExitStatus) -> Output {
        Output {
            status,
            stdout: process.stdout_bytes(),
            stderr: process.stderr(),
        }
    }

    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// This output, or an error that shows what the program said if it failed.
    pub fn ok(self) -> anyhow::Result<Output> {
        anyhow::ensure!(
            self.status.success(),
            "it ended with {}\n{}\n{}",
            self.status,
            self.text(),
            self.stderr
        );
        Ok(self)
    }
}

/// The command line against one cluster.
#[derive(Debug, Clone)]
pub struct Cli {
    bootstrap: String,
    envs: Vec<(String, String)>,
}

impl Cli {
    /// The command line with this bootstrap address in its environment.
    pub fn new(bootstrap: impl Into<String>) -> Cli {
        Cli {
            bootstrap: bootstrap.into(),
            envs: Vec::new(),
        }
    }

    /// One more variable in its environment; the test's own is not passed on.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Cli {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Runs it to its end, two minutes at most, with nothing on its standard input.
    pub fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Output> {
        finish(self.command(args)?)
    }

    /// Runs it to its end, two minutes at most, with `input` on its standard input.
    pub fn run_with_input(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: impl Into<Vec<u8>>,
    ) -> anyhow::Result<Output> {
        finish(self.command(args)?.input(input))
    }

    /// Starts it and does not wait.
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Process> {
        self.command(args)?.start()
    }

    fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Spawn> {
        let spawn = Spawn::new(programs::built_binary("streamhouse")?).clean_env();
        let spawn = spawn.env("STREAMHOUSE_BOOTSTRAP", &self.bootstrap).args(args);
        Ok(self
            .envs
            .iter()
            .fold(spawn, |spawn, (key, value)| spawn.env(key, value)))
    }
}

fn finish(spawn: Spawn) -> anyhow::Result<Output> {
    let mut process = spawn.start()?;
    let status = process.wait(Duration::from_secs(120))?;
    Ok(Output::of(&process, status))
}
