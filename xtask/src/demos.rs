//! Demonstrations on the development stack.
//!
//! Called by `hack/demo-e2e.sh` and `hack/demo-observability.sh`. Guarantees: what a demonstration
//! starts has ended with it; the stack stays up.

mod e2e;
mod observability;

use anyhow::{bail, ensure};

use crate::agent_run::RunningAgent;
use crate::dev_stack::{DevStack, PortName};
use crate::repository::CallFolders;
use crate::terminal::note;

/// Runs the demonstration of this name.
///
/// # Errors
///
/// Fails if a step does.
pub(crate) fn run(folders: &CallFolders, arguments: &[&str]) -> anyhow::Result<()> {
    let [name, more @ ..] = arguments else {
        bail!("demo needs e2e or observability; see cargo xtask")
    };
    ensure!(more.is_empty(), "hack/demo-{name}.sh takes no arguments");
    match *name {
        "e2e" => e2e::run(folders),
        "observability" => observability::run(folders),
        _ => bail!("no demo {name}: write e2e or observability"),
    }
}

/// Starts an agent on the stack and waits until it is ready.
fn start_agent(stack: &DevStack) -> anyhow::Result<RunningAgent> {
    stack.require_free_port(PortName::AgentHttp, "the agent for HTTP")?;
    stack.require_free_port(PortName::AgentGrpc, "the agent for gRPC")?;
    let agent = RunningAgent::start(stack.program("streamhouse-agent")?)?;
    note(&format!(
        "agent ready: gRPC 127.0.0.1:{}, HTTP 127.0.0.1:{}",
        stack.port(PortName::AgentGrpc),
        stack.port(PortName::AgentHttp)
    ));
    Ok(agent)
}
