//! An agent that a command runs: it is ready when its value exists, and drains at the end.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use streamhouse_testkit::{ChildProcess, ProcessBuilder, http_get};

use crate::programs::wait_while_running;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// A running agent.
#[derive(Debug)]
pub(crate) struct RunningAgent {
    process: ChildProcess,
    addresses: AgentAddresses,
}

/// What an agent prints once it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AgentAddresses {
    grpc: String,
    http: SocketAddr,
}

impl RunningAgent {
    /// Starts an agent and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Fails with the end of its log if it ends or is not ready within a minute.
    pub(crate) fn start(agent: ProcessBuilder) -> anyhow::Result<RunningAgent> {
        let mut process = agent.start()?;
        let addresses = wait_while_running("the agent's start", &mut process, |process| {
            Ok(find_addresses(&process.stdout()))
        })?;
        wait_while_running("the agent's readiness", &mut process, |_| {
            let answer = http_get(addresses.http, "/ready");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        Ok(RunningAgent { process, addresses })
    }

    /// Starts an agent on free ports, with SQLite and its objects in `folder`.
    ///
    /// # Errors
    ///
    /// As [`RunningAgent::start`].
    pub(crate) fn start_dev(agent: ProcessBuilder, folder: &Path) -> anyhow::Result<RunningAgent> {
        let listen = ["--grpc-listen", "--http-listen", "--kafka-listen"];
        let listen = listen.iter().flat_map(|listen| [*listen, "127.0.0.1:0"]);
        RunningAgent::start(agent.args(["--dev", "--data-dir"]).arg(folder).args(listen))
    }

    /// Returns the address for clients.
    pub(crate) fn grpc(&self) -> &str {
        &self.addresses.grpc
    }

    /// Returns the address of its pages.
    pub(crate) fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Terminates the agent, which must drain and end with success.
    ///
    /// # Errors
    ///
    /// Fails with the end of its log if it does not.
    pub(crate) fn drain(mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(DRAIN_TIMEOUT)?;
        ensure!(
            status.success(),
            "the agent did not drain: {}",
            self.process.log_tail()
        );
        Ok(())
    }
}

/// Finds the addresses in the line `listening … grpc=ADDRESS http=ADDRESS`.
fn find_addresses(output: &str) -> Option<AgentAddresses> {
    let line = output.lines().find(|line| line.starts_with("listening "))?;
    let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
    Some(AgentAddresses {
        grpc: value("grpc=")?.to_owned(),
        http: value("http=")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_line_that_begins_with_listening() {
        let found = find_addresses("INFO listening soon\nlistening grpc=127.0.0.1:1 http=127.0.0.1:2\n");
        let expected = AgentAddresses {
            grpc: "127.0.0.1:1".to_owned(),
            http: SocketAddr::from(([127, 0, 0, 1], 2)),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(find_addresses("listening grpc=127.0.0.1:1\n"), None);
    }

    #[test]
    fn an_agent_that_ends_before_it_is_ready_fails_with_its_log() {
        let agent = ProcessBuilder::new("sh").args(["-c", "echo the cause; exit 1"]);
        let error = format!("{:#}", RunningAgent::start(agent).unwrap_err());
        assert!(error.contains("the cause"), "{error}");
    }
}
