//! The commands that the documentation names: the examples, queries on a real run, the documents'
//! commands, an agent started by cargo, and the development stack with its demonstrations.
//!
//! Called by the stage `commands` of the test command. Guarantees: everything that it starts has
//! ended, and every folder that it makes is gone, when this process has ended in any way.

mod stack;

use std::time::Duration;

use anyhow::ensure;
use streamhouse_testkit::{create_temp_folder, http_get};

use crate::agent_run::RunningAgent;
use crate::docs_commands;
use crate::programs::{prepare_cargo, prepare_script, run_cargo, run_shown};
use crate::repository::{CallFolders, FileTree};
use crate::terminal::say;

const LIVE_CHECK_TIMEOUT: Duration = Duration::from_secs(3600);
/// How the documentation starts an agent.
const AGENT: &[&str] = &[
    "run",
    "--release",
    "--features",
    "metrics",
    "--bin",
    "streamhouse-agent",
];

/// Runs all of them.
///
/// # Errors
///
/// Fails with the first command that does.
pub(crate) fn run(folders: &CallFolders) -> anyhow::Result<()> {
    let root = folders.root.as_path();
    let example = ["run", "--release", "-p", "streamhouse-client", "--example"];
    run_cargo(&[&example[..], &["phase_7_complete_demo", "--features", "metrics"]].concat())?;
    run_cargo(&[&example[..], &["e2e_producer_consumer"]].concat())?;
    run_cargo(&[&example[..], &["e2e_offset_tracking"]].concat())?;
    run_shown(
        prepare_script(&root.join("hack/check-live.sh")),
        LIVE_CHECK_TIMEOUT,
    )?;
    say("the commands of the documents");
    run_cargo(&[
        "build",
        "--release",
        "--bin",
        "streamhouse-agent",
        "--bin",
        "streamhouse",
    ])?;
    docs_commands::run(root, &FileTree::read(root)?, &[])?;
    read_agent_pages()?;
    stack::check(folders)
}

/// Starts an agent as the documentation does, and reads its pages.
fn read_agent_pages() -> anyhow::Result<()> {
    say("an agent by cargo run, and its pages");
    run_cargo(&[&["build"], &AGENT[1..]].concat())?;
    let folder = create_temp_folder("streamhouse-agent-")?;
    let agent = prepare_cargo(AGENT).arg("--");
    let agent = RunningAgent::start_dev(agent, &folder.path().join("data"))?;
    for page in ["/health", "/ready", "/metrics"] {
        let answer = http_get(agent.http(), page)?;
        ensure!(
            answer.status == 200,
            "the agent's page {page} answers with {}",
            answer.status
        );
        ensure!(
            page != "/metrics" || answer.body.lines().any(|line| line.starts_with("streamhouse_")),
            "the agent's page {page} has no metrics of StreamHouse"
        );
    }
    agent.drain()
}
