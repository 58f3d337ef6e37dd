//! One running stage: its process, what it says, how long it takes.
//!
//! Guarantees: whatever the stage starts in its process group has ended when this process has, in
//! whatever way.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use streamhouse_testkit::{ChildProcess, ProcessBuilder};

use super::plan::StageSpec;
use super::summary::{self, StageResult};

/// Sources what the commands are made of, and then says how much of the processors' time they took.
const SCRIPT: &str = r#"exec 2>&1
. hack/lib.sh
set +e
TIMEFORMAT='xtask-cpu %U %S'
time ( eval "$COMMAND_OF_STAGE" )"#;

/// A stage that was started.
#[derive(Debug)]
pub(crate) struct RunningStage {
    pub(crate) name: &'static str,
    process: ChildProcess,
    begin: Instant,
    output: Vec<u8>,
    printed: usize,
    /// Whether its output is printed while it runs.
    pub(crate) live: bool,
}

impl RunningStage {
    /// Starts a stage with these variables and arguments.
    pub(crate) fn start(
        root: &Path,
        spec: &StageSpec,
        environment: &BTreeMap<String, String>,
        arguments: &[String],
    ) -> anyhow::Result<RunningStage> {
        let (program, before): (&str, &[&str]) = if spec.nice {
            ("nice", &["-n", "19", "bash"])
        } else {
            ("bash", &[])
        };
        let mut spawn = ProcessBuilder::new(program)
            .name(spec.name)
            .args(before)
            .args(["-c", SCRIPT, &root.join("hack/test.sh").to_string_lossy()])
            .args(arguments)
            // Scripts tidy up when they are asked to end.
            .last_signal("TERM")
            .env("COMMAND_OF_STAGE", spec.command);
        for (name, value) in environment {
            spawn = spawn.env(name, value);
        }
        Ok(RunningStage {
            name: spec.name,
            process: spawn.start()?,
            begin: summary::now(),
            output: Vec::new(),
            printed: 0,
            live: false,
        })
    }

    /// Reads what is new, prints it if it is to be printed, and gives the result once the stage has
    /// ended.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<StageResult>> {
        // Asked first: what it wrote before its end is then read below.
        let status = self.process.try_wait()?;
        let new = self.process.stdout_since(self.output.len().try_into()?)?;
        self.output.extend(new);
        if self.live {
            self.print(status.is_some());
        }
        let Some(status) = status else { return Ok(None) };
        let text = String::from_utf8_lossy(&self.output).into_owned();
        Ok(Some(StageResult {
            name: self.name,
            passed: status.success(),
            time: self.elapsed(),
            processors: summary::processors(&text),
            output: text,
        }))
    }

    /// Prints whole lines only, so that two stages never share one; at the end, everything.
    pub(crate) fn print(&mut self, to_the_end: bool) {
        let new = &self.output[self.printed..];
        let length = if to_the_end {
            new.len()
        } else {
            new.iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |last| last + 1)
        };
        let text = String::from_utf8_lossy(&new[..length]);
        let lines: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("xtask-cpu "))
            .collect();
        print!("{lines}");
        // A reader that has gone away is no reason to end the tests.
        let _ = std::io::stdout().flush();
        self.printed += length;
    }

    pub(crate) fn elapsed(&self) -> Duration {
        summary::now().saturating_duration_since(self.begin)
    }
}
