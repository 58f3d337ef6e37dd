//! [`ExampleCluster`]: the cluster at `STREAMHOUSE_BOOTSTRAP`, or else an embedded agent (SQLite
//! and a local folder, no servers) as a child process that ends with the example.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use streamhouse_client::{Admin, Client};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Time limit for an agent to start, or to drain and exit.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster that an example runs on.
#[derive(Debug)]
pub struct ExampleCluster {
    /// Bootstrap addresses for clients.
    pub bootstrap: String,
    embedded: Option<EmbeddedAgent>,
}

#[derive(Debug)]
struct EmbeddedAgent {
    agent: Child,
    http: String,
    data: TempDir,
    /// Kept open, because the agent writes its addresses there.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl ExampleCluster {
    /// Connects to the cluster in the environment, or starts an embedded agent with these flags.
    pub async fn connect_or_start(agent_flags: &[&str]) -> Result<Self> {
        if let Some(bootstrap) = env::var("STREAMHOUSE_BOOTSTRAP")
            .ok()
            .filter(|address| !address.is_empty())
        {
            println!("using the cluster at {bootstrap} (STREAMHOUSE_BOOTSTRAP)");
            return Ok(Self {
                bootstrap,
                embedded: None,
            });
        }
        let data = tempfile::tempdir().context("cannot make a temporary folder")?;
        let log = data.path().join("agent.log");
        let started = start(data.path(), &log, agent_flags);
        let (agent, stdout, bootstrap, http) = match timeout(AGENT_TIMEOUT, started).await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(error.context(tail(&log))),
            Err(_) => bail!("the agent was not ready after {AGENT_TIMEOUT:?}: {}", tail(&log)),
        };
        println!(
            "embedded agent ready: grpc {bootstrap}, http {http}, data {}",
            data.path().display()
        );
        Ok(Self {
            bootstrap,
            embedded: Some(EmbeddedAgent {
                agent,
                http,
                data,
                _stdout: stdout,
            }),
        })
    }

    /// Creates a client of the cluster.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.bootstrap)?)
    }

    /// Returns the address of each agent's `/metrics`.
    pub async fn http_addresses(&self, admin: &Admin) -> Result<Vec<String>> {
        if let Some(embedded) = &self.embedded {
            return Ok(vec![embedded.http.clone()]);
        }
        let cluster = admin.describe_cluster().await?;
        Ok(cluster
            .agents
            .into_iter()
            .map(|agent| agent.http_address)
            .filter(|address| !address.is_empty())
            .collect())
    }

    /// Reads the stores directly, with the agent's program instead of the running agent: `tables`
    /// or `objects --prefix …`. Uses the settings of the embedded agent, or those of the
    /// environment.
    pub async fn query_stores(&self, question: &[&str]) -> Result<Value> {
        let mut command = Command::new(agent_program().await?);
        command.args(question);
        if let Some(embedded) = &self.embedded {
            remove_settings(&mut command);
            command.arg("--dev").arg("--data-dir").arg(embedded.data.path());
        }
        command
            .args(["-o", "json"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(AGENT_TIMEOUT, command.output())
            .await
            .context("it did not end")??;
        let what = format!("streamhouse-agent {}", question.join(" "));
        ensure!(
            output.status.success(),
            "{what}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout).with_context(|| format!("{what} did not print json"))
    }

    /// Stops an embedded agent with SIGTERM: it drains and exits with 0.
    pub async fn stop(mut self) -> Result<()> {
        let Some(embedded) = &mut self.embedded else {
            return Ok(());
        };
        let pid = embedded.agent.id().context("the agent has ended by itself")?;
        let asked = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        ensure!(asked.success(), "cannot send SIGTERM to the agent");
        let ended = timeout(AGENT_TIMEOUT, embedded.agent.wait())
            .await
            .context("the agent did not drain")??;
        ensure!(
            ended.success(),
            "the agent ended with {ended}: {}",
            tail(&embedded.data.path().join("agent.log"))
        );
        println!("\nthe embedded agent drained and ended");
        Ok(())
    }
}

type StartedAgent = (Child, Lines<BufReader<ChildStdout>>, String, String);

async fn start(data: &Path, log: &Path, flags: &[&str]) -> Result<StartedAgent> {
    let mut command = Command::new(agent_program().await?);
    remove_settings(&mut command);
    command
        .arg("--dev")
        .arg("--data-dir")
        .arg(data)
        .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
        .args(["--kafka-listen", "127.0.0.1:0"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log)?)
        .kill_on_drop(true);
    let mut agent = command.spawn().context("cannot start the agent")?;
    let stdout = agent.stdout.take().context("the agent has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut addresses = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(rest) = line.strip_prefix("listening ") {
            let field = |name: &str| {
                rest.split_whitespace()
                    .find_map(|part| part.strip_prefix(name))
                    .map(str::to_owned)
            };
            addresses = field("grpc=").zip(field("http="));
        }
        if line.trim() == "ready" {
            let (grpc, http) = addresses.context("the agent did not say where it listens")?;
            return Ok((agent, lines, grpc, http));
        }
    }
    bail!("the agent ended before it was ready")
}

/// Removes the environment's settings for another cluster from an embedded agent's command.
fn remove_settings(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STREAMHOUSE_")) {
        command.env_remove(name);
    }
}

/// Returns the path of the agent's program next to this example, building it if necessary.
async fn agent_program() -> Result<PathBuf> {
    let example = env::current_exe()?;
    let profile = example
        .parent()
        .and_then(Path::parent)
        .context("the example does not stand in a target folder")?;
    let program = profile.join(format!("streamhouse-agent{}", env::consts::EXE_SUFFIX));
    if program.exists() {
        return Ok(program);
    }
    println!("building the agent, once: cargo build -p streamhouse-agent");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "-p", "streamhouse-agent", "--bin", "streamhouse-agent"]);
    if profile.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = profile.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    let built = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .status()
        .await;
    ensure!(
        built.context("cannot run cargo")?.success(),
        "the agent could not be built"
    );
    ensure!(program.exists(), "cargo built no {}", program.display());
    Ok(program)
}

/// Returns the last lines of the agent's log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!(
        "the agent's log ends with:\n{}",
        lines[lines.len().saturating_sub(20)..].join("\n")
    )
}
