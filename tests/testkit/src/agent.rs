//! A real agent: the built binary as a process of its own, on free ports.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::{MinIo, Port, Process, Response, Spawn, http_get, programs, wait};

/// Settings of an agent to be started.
#[derive(Debug, Clone, Default)]
pub struct AgentBuilder {
    name: Option<String>,
    args: Vec<String>,
    envs: Vec<(String, String)>,
}

impl AgentBuilder {
    /// The name used in messages.
    pub fn name(mut self, name: impl Into<String>) -> AgentBuilder {
        self.name = Some(name.into());
        self
    }

    /// One more argument of the command line.
    pub fn arg(mut self, arg: impl Into<String>) -> AgentBuilder {
        self.args.push(arg.into());
        self
    }

    /// A setting by its environment variable; the test's own environment is not passed on.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> AgentBuilder {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// The settings so far, as variables.
    pub fn variables(&self) -> &[(String, String)] {
        &self.envs
    }

    /// The metadata store, such as a URL from [`crate::Postgres::create_database`].
    pub fn metadata(self, url: &str) -> AgentBuilder {
        self.env("STREAMHOUSE_METADATA_URL", url)
    }

    /// The embedded default, with its data below `folder`: SQLite and a local directory.
    pub fn dev(self, folder: &Path) -> AgentBuilder {
        self.env("STREAMHOUSE_DEV", "true")
            .env("STREAMHOUSE_DATA_DIR", folder.display().to_string())
    }

    /// A bucket of a MinIO as the object store.
    pub fn minio(self, server: &MinIo, bucket: &str) -> AgentBuilder {
        self.env("STREAMHOUSE_OBJECT_STORE", format!("s3://{bucket}"))
            .env("STREAMHOUSE_S3_ENDPOINT", server.endpoint())
            .env("STREAMHOUSE_S3_PATH_STYLE", "true")
            .env("STREAMHOUSE_S3_REGION", server.region())
            .env("AWS_ACCESS_KEY_ID", server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", server.secret_key())
    }

    /// Starts the agent and waits until it listens. It need not be ready yet: see [`Agent::wait_ready`].
    pub fn spawn(self) -> anyhow::Result<Agent> {
        let (grpc, http) = (Port::reserve()?, Port::reserve()?);
        let mut agent = Agent {
            process: self.start(&grpc, &http)?,
            builder: self,
            grpc,
            http,
        };
        agent.wait_listening()?;
        Ok(agent)
    }

    /// Runs the agent until it ends by itself, for settings it should refuse and for commands such as `migrate`.
    pub fn run(self, limit: Duration) -> anyhow::Result<crate::Output> {
        let mut process = self.process(&[])?.start()?;
        let status = process.wait(limit)?;
        Ok(crate::Output::of(&process, status))
    }

    /// Starts a command such as `purge`, and does not wait.
    pub fn start_command(self) -> anyhow::Result<Process> {
        self.process(&[])?.start()
    }

    fn start(&self, grpc: &Port, http: &Port) -> anyhow::Result<Process> {
        let (id, grpc, http) = (format!("agent-{}", grpc.number()), grpc.address(), http.address());
        // Agents on one host need ids of their own; a test's own --agent-id comes later and wins.
        let listen = [
            format!("--agent-id={id}"),
            format!("--grpc-listen={grpc}"),
            format!("--http-listen={http}"),
            format!("--advertised-grpc-address={grpc}"),
            format!("--advertised-http-address={http}"),
        ];
        self.process(&listen)?.start()
    }

    fn process(&self, args: &[String]) -> anyhow::Result<Spawn> {
        let binary = programs::built_binary("streamhouse-agent")?;
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| "streamhouse-agent".to_owned());
        let spawn = Spawn::new(binary)
            .name(name)
            .clean_env()
            .args(args)
            .args(&self.args);
        Ok(self
            .envs
            .iter()
            .fold(spawn, |spawn, (key, value)| spawn.env(key, value)))
    }
}

/// A running (or ended) agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    builder: AgentBuilder,
    grpc: Port,
    http: Port,
}

impl Agent {
    /// Settings of a new agent.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// Where it serves gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// The gRPC address as `127.0.0.1:port`, as clients take it.
    pub fn bootstrap(&self) -> String {
        self.grpc().to_string()
    }

    /// Where it serves health and metrics.
    pub fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// The process, for signals and logs.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Gets a path such as `/metrics` from the agent.
    pub fn http_get(&self, path: &str) -> anyhow::Result<Response> {
        http_get(self.http(), path)
    }

    /// Waits until `GET /ready` says 200; an error with the end of the log if the agent ends or that takes over a minute.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let address = self.http();
        let process = &mut self.process;
        let ready = wait::until("the agent's readiness", wait::PATIENCE, || {
            anyhow::ensure!(process.is_running(), "the agent ended before it was ready");
            Ok(http_get(address, "/ready")
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        });
        ready.with_context(|| self.process.log_tail())
    }

    /// The value of a metric without labels, or the sum over all its labels.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.http_get("/metrics")?.body;
        let values = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values: Vec<f64> = values
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        anyhow::ensure!(!values.is_empty(), "the agent has no metric {name}");
        Ok(values.iter().sum())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.kill9()
    }

    /// SIGTERM, and waits for the drain to end with success.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(wait::PATIENCE)?;
        anyhow::ensure!(
            status.success(),
            "the drain ended with {status}: {}",
            self.process.log_tail()
        );
        Ok(())
    }

    /// Starts again after the end of the process, with the same settings and addresses.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.process.is_running(), "the agent runs already");
        self.process = self.builder.start(&self.grpc, &self.http)?;
        self.wait_listening()
    }

    /// The agent says `listening grpc=<address> http=<address>` on its standard output once both ports are bound.
    fn wait_listening(&mut self) -> anyhow::Result<()> {
        let process = &mut self.process;
        let listening = wait::until(
            "the agent's line \"listening grpc=... http=...\"",
            wait::PATIENCE,
            || {
                let said = process
                    .stdout()
                    .lines()
                    .any(|line| line.starts_with("listening "));
                anyhow::ensure!(said || process.is_running(), "the agent ended before it listened");
                Ok(said.then_some(()))
            },
        );
        listening.with_context(|| self.process.log_tail())
    }
}
