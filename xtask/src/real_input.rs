//! Produces and consumes a whole file and checks that the output is equal to the input, byte for
//! byte.
//!
//! Called by `hack/real-input.sh`. Guarantees: everything runs on free ports of 127.0.0.1 in a
//! temporary folder, and nothing is left behind.

mod readback;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use streamhouse_testkit::{ChildProcess, ProcessBuilder, create_temp_folder, wait_until};

use self::readback::ReadBack;
use crate::agent_run::RunningAgent;
use crate::programs::{digest, prepare_program, read_bytes, read_output, release_folder, run_cargo};
use crate::repository::CallFolders;
use crate::terminal::{note, say};
use crate::tools::{self, ToolContext, ToolName};

const TOPIC: &str = "real-input";
const GROUP: &str = "readers";
const PARTITIONS: &str = "6";
const MEMBERS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The file may be large.
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the check with a dictionary, or with the file of the arguments.
///
/// # Errors
///
/// Fails if a program does, or if what comes out is not what went in.
pub(crate) fn run(folders: &CallFolders, arguments: &[&str]) -> anyhow::Result<()> {
    let path = match arguments {
        [] => find_dictionary(&folders.root)?,
        [file] => folders.called_from.join(file),
        _ => bail!("usage: hack/real-input.sh [FILE]"),
    };
    let input = std::fs::read(&path).unwrap_or_default();
    ensure!(
        !input.is_empty(),
        "no such file, or an empty one: {}",
        path.display()
    );
    ensure!(
        input.ends_with(b"\n"),
        "the last line of {} has no line feed, so it cannot be told from one that has: add it",
        path.display()
    );
    say("building the agent and the command line");
    run_cargo(&[
        "build",
        "--release",
        "--bin",
        "streamhouse-agent",
        "--bin",
        "streamhouse",
    ])?;
    let programs = release_folder(&folders.root);
    let folder = create_temp_folder("streamhouse-real-input-")?;
    say("starting an agent with SQLite and a local folder");
    let agent = RunningAgent::start_dev(
        prepare_program(programs.join("streamhouse-agent")),
        &folder.path().join("data"),
    )?;
    let cluster = InputCluster {
        cli: programs.join("streamhouse"),
        bootstrap: agent.grpc().to_owned(),
    };
    check_input(&cluster, &path, &input)?;
    say("draining the agent");
    agent.drain()?;
    note(&format!(
        "{} lines, the same byte for byte",
        readback::count_lines(&input)
    ));
    Ok(())
}

fn find_dictionary(root: &Path) -> anyhow::Result<PathBuf> {
    let exports = tools::install(&ToolContext::open(root)?, &[ToolName::Words])?;
    let variables = exports.to_environment(None)?;
    let words = variables.get("WORDS").context("no dictionary was installed")?;
    Ok(PathBuf::from(words))
}

/// The command line, and the agent that it speaks to.
#[derive(Debug)]
struct InputCluster {
    cli: PathBuf,
    bootstrap: String,
}

impl InputCluster {
    fn cli(&self, arguments: &[&str]) -> ProcessBuilder {
        prepare_program(&self.cli)
            .env("STREAMHOUSE_BOOTSTRAP", &self.bootstrap)
            .args(arguments)
    }

    fn start_member(&self, number: usize) -> anyhow::Result<ChildProcess> {
        let (id, format) = (format!("member-{number}"), "%p %o %v\\n");
        let consume = ["consume", TOPIC, "--group", GROUP, "--from-beginning", "--format"];
        let member = self.cli(&["--client-id", &id]).args(consume).arg(format);
        member.name(id).start()
    }

    /// Waits until the group is described as expected, and shows it.
    fn wait_for_group(&self, what: &str, is_expected: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let mut last = String::new();
        let described = wait_until(what, TIMEOUT, || {
            // The group exists once its first member has joined.
            last = read_output(self.cli(&["group", "describe", GROUP])).unwrap_or_default();
            Ok(is_expected(&last).then_some(()))
        });
        described.with_context(|| last.clone())?;
        print!("{last}");
        Ok(())
    }
}

fn check_input(cluster: &InputCluster, path: &Path, input: &[u8]) -> anyhow::Result<()> {
    let create = ["topic", "create", TOPIC, "--partitions", PARTITIONS];
    print!("{}", read_output(cluster.cli(&create))?);
    say(&format!("starting {MEMBERS} members of the group {GROUP}"));
    let members = (1..=MEMBERS).map(|number| cluster.start_member(number));
    let mut members = members.collect::<anyhow::Result<Vec<ChildProcess>>>()?;
    cluster.wait_for_group("an equal share for each member", has_equal_shares)?;

    let lines = readback::count_lines(input);
    say(&format!(
        "producing {}: {lines} lines, {} bytes",
        path.display(),
        input.len()
    ));
    let produce = cluster
        .cli(&["produce", TOPIC, "--print-offsets", "--file"])
        .arg(path);
    let stored =
        String::from_utf8(read_bytes(produce, PRODUCE_TIMEOUT)?).context("the offsets are not text")?;
    cluster.wait_for_group("the group's catching up", |group| {
        let caught_up = format!("{MEMBERS} members, 0 records behind");
        group.lines().any(|line| line.starts_with(&caught_up))
    })?;

    say("stopping the members");
    for member in &mut members {
        member.terminate()?;
    }
    say("comparing");
    let mut read_back = ReadBack::default();
    for (number, member) in (1..).zip(&mut members) {
        let status = member.wait(TIMEOUT)?;
        ensure!(
            status.success(),
            "a member ended with {status}: {}",
            member.log_tail()
        );
        let share = read_back.add_member(&member.stdout_since(0)?)?;
        note(&format!("member {number} read {share}"));
    }
    compare(&read_back, input, &stored)
}

fn compare(read_back: &ReadBack, input: &[u8], stored: &str) -> anyhow::Result<()> {
    let lines = readback::count_lines(input);
    ensure!(
        read_back.count() == lines,
        "the members read {} records, the file has {lines} lines",
        read_back.count()
    );
    read_back.check_offsets()?;
    let output = read_back.arrange(stored)?;
    ensure!(output == input, "what came out is not what went in");
    note(&format!("in:  {}", digest(input)?));
    note(&format!("out: {}", digest(&output)?));
    Ok(())
}

/// Whether every member has two partitions: the row of each ends with them.
fn has_equal_shares(group: &str) -> bool {
    let is_partition = |word: &str| {
        let number = word.strip_prefix(TOPIC).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let rows = group.lines().filter(|line| {
        let partitions = line
            .split_whitespace()
            .rev()
            .take_while(|word| is_partition(word));
        partitions.count() == 2
    });
    rows.count() == MEMBERS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_when_every_member_has_two_partitions() {
        let row = |first, second| format!("member-1 127.0.0.1 real-input-{first} real-input-{second}\n");
        let group = [row(0, 1), row(2, 3), row(4, 5)].concat();
        assert!(has_equal_shares(&group));
        assert!(!has_equal_shares(&[row(0, 1), row(2, 3)].concat()));
        assert!(!has_equal_shares(
            &group.replace("real-input-5", "real-input-5 real-input-6")
        ));
        assert!(!has_equal_shares("real-input-0 offset 7\n"));
    }
}
