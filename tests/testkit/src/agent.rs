//! Runs the built agent binary as a separate process on free ports.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::{ChildProcess, HttpResponse, MinIo, ProcessBuilder, ReservedPort, http_get, programs, wait};

/// Builder of an [`AgentProcess`]: its settings and arguments.
#[derive(Debug, Clone, Default)]
pub struct AgentProcessBuilder {
    name: Option<String>,
    args: Vec<String>,
    envs: Vec<(String, String)>,
}

impl AgentProcessBuilder {
    /// Sets the name used in messages.
    pub fn name(mut self, name: impl Into<String>) -> AgentProcessBuilder {
        self.name = Some(name.into());
        self
    }

    /// Adds a command-line argument.
    pub fn arg(mut self, arg: impl Into<String>) -> AgentProcessBuilder {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable, such as a setting. The test's own environment is not
    /// inherited.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> AgentProcessBuilder {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Returns the environment variables set so far.
    pub fn variables(&self) -> &[(String, String)] {
        &self.envs
    }

    /// Sets the metadata store, such as a URL from [`crate::Postgres::create_database`].
    pub fn metadata(self, url: &str) -> AgentProcessBuilder {
        self.env("STREAMHOUSE_METADATA_URL", url)
    }

    /// Enables development mode, with its data below `folder`: SQLite and a local directory.
    pub fn dev(self, folder: &Path) -> AgentProcessBuilder {
        self.env("STREAMHOUSE_DEV", "true")
            .env("STREAMHOUSE_DATA_DIR", folder.display().to_string())
    }

    /// Uses a MinIO bucket as the object store.
    pub fn minio(self, server: &MinIo, bucket: &str) -> AgentProcessBuilder {
        self.env("STREAMHOUSE_OBJECT_STORE", format!("s3://{bucket}"))
            .env("STREAMHOUSE_S3_ENDPOINT", server.endpoint())
            .env("STREAMHOUSE_S3_PATH_STYLE", "true")
            .env("STREAMHOUSE_S3_REGION", server.region())
            .env("AWS_ACCESS_KEY_ID", server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", server.secret_key())
    }

    /// Starts the agent and waits until it listens. It may not be ready yet, see
    /// [`AgentProcess::wait_ready`].
    ///
    /// # Errors
    ///
    /// Fails if the binary is not built, or if the agent ends before it listens.
    pub fn spawn(self) -> anyhow::Result<AgentProcess> {
        let ports = AgentPorts {
            grpc: ReservedPort::reserve()?,
            http: ReservedPort::reserve()?,
            kafka: ReservedPort::reserve()?,
        };
        let mut agent = AgentProcess {
            process: self.start(&ports)?,
            builder: self,
            ports,
        };
        agent.wait_listening()?;
        Ok(agent)
    }

    /// Runs the agent until it ends by itself, for settings it should reject and for commands such
    /// as `migrate`.
    ///
    /// # Errors
    ///
    /// Fails if the agent runs longer than `limit`. Its exit status is not checked.
    pub fn run(self, limit: Duration) -> anyhow::Result<crate::ProgramOutput> {
        self.command(&[])?.run(limit)
    }

    /// Starts a command such as `purge` without waiting for its end.
    ///
    /// # Errors
    ///
    /// Fails if the binary is not built or cannot be started.
    pub fn start_command(self) -> anyhow::Result<ChildProcess> {
        self.command(&[])?.start()
    }

    fn start(&self, ports: &AgentPorts) -> anyhow::Result<ChildProcess> {
        let id = format!("agent-{}", ports.grpc.number());
        let (grpc, http, kafka) = (ports.grpc.address(), ports.http.address(), ports.kafka.address());
        // Agents on one host need distinct ids. A test's own --agent-id comes later and wins.
        let listen = [
            format!("--agent-id={id}"),
            format!("--grpc-listen={grpc}"),
            format!("--http-listen={http}"),
            format!("--kafka-listen={kafka}"),
            format!("--advertised-grpc-address={grpc}"),
            format!("--advertised-http-address={http}"),
            format!("--advertised-kafka-address={kafka}"),
        ];
        self.command(&listen)?.start()
    }

    fn command(&self, args: &[String]) -> anyhow::Result<ProcessBuilder> {
        let binary = programs::built_binary("streamhouse-agent")?;
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| "streamhouse-agent".to_owned());
        let spawn = ProcessBuilder::new(binary)
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

/// An agent process, running or ended.
#[derive(Debug)]
pub struct AgentProcess {
    process: ChildProcess,
    builder: AgentProcessBuilder,
    ports: AgentPorts,
}

/// The ports of an agent, which it keeps when it is started again.
#[derive(Debug)]
struct AgentPorts {
    grpc: ReservedPort,
    http: ReservedPort,
    kafka: ReservedPort,
}

impl AgentProcess {
    /// Returns a builder for a new agent.
    pub fn builder() -> AgentProcessBuilder {
        AgentProcessBuilder::default()
    }

    /// Returns the address of the gRPC listener.
    pub fn grpc(&self) -> SocketAddr {
        self.ports.grpc.address()
    }

    /// Returns the gRPC address as `127.0.0.1:port`, for clients.
    pub fn bootstrap(&self) -> String {
        self.grpc().to_string()
    }

    /// Returns the address of the Kafka listener.
    pub fn kafka(&self) -> SocketAddr {
        self.ports.kafka.address()
    }

    /// Returns the address of the HTTP listener.
    pub fn http(&self) -> SocketAddr {
        self.ports.http.address()
    }

    /// Returns the address of a further gRPC listener by its name in the line that the agent prints
    /// when it listens.
    ///
    /// # Errors
    ///
    /// Fails if the agent has no such listener.
    pub fn listener(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let printed = self.process.stdout();
        // A restarted agent prints the line again.
        let line = printed.lines().rfind(|line| line.starts_with("listening "));
        let key = format!("{name}=");
        let found = line.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix(&key)));
        let found = found.with_context(|| format!("the agent has no listener {name}: {printed}"))?;
        Ok(found.parse()?)
    }

    /// Returns the process, for signals and logs.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    /// Sends a GET request for a path such as `/metrics` to the agent.
    ///
    /// # Errors
    ///
    /// Fails if the agent does not respond within 10 s.
    pub fn http_get(&self, path: &str) -> anyhow::Result<HttpResponse> {
        http_get(self.http(), path)
    }

    /// Waits until `GET /ready` returns 200.
    ///
    /// # Errors
    ///
    /// Fails with the end of the log if the agent ends or is not ready within a minute.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let address = self.http();
        let process = &mut self.process;
        let ready = wait::wait_until("the agent's readiness", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "the agent ended before it was ready");
            Ok(http_get(address, "/ready")
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        });
        ready.with_context(|| self.process.log_tail())
    }

    /// Returns the value of a metric, summed over all its labels.
    ///
    /// # Errors
    ///
    /// Fails if the agent has no such metric.
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

    /// Sends SIGKILL and waits for the end.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.kill9()
    }

    /// Sends SIGTERM and waits until the drain succeeds.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(wait::SERVER_TIMEOUT)?;
        anyhow::ensure!(
            status.success(),
            "the drain ended with {status}: {}",
            self.process.log_tail()
        );
        Ok(())
    }

    /// Starts the ended process again with the same settings and addresses.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.process.is_running(), "the agent runs already");
        self.process = self.builder.start(&self.ports)?;
        self.wait_listening()
    }

    /// Waits for the line `listening grpc=<address> http=<address>`, which the agent prints once
    /// both ports are bound.
    fn wait_listening(&mut self) -> anyhow::Result<()> {
        let process = &mut self.process;
        let listening = wait::wait_until(
            "the agent's line \"listening grpc=... http=...\"",
            wait::SERVER_TIMEOUT,
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
