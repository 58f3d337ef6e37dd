//! An agent that asks for users, with one record to read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use streamhouse_testkit::{AgentProcess, CertificateAuthority, CliRunner, wait_until};

use super::table::Mechanism;

/// The password that users have at first.
pub(super) const PASSWORD: &str = "right";
pub(super) const TOPIC: &str = "records";
pub(super) const RECORD: &str = "a record";

const ADMIN_PASSWORD: &str = "of the administrator";
const LIMIT: Duration = Duration::from_secs(60);

/// An agent with authentication by every mechanism, on a store of its own.
#[derive(Debug)]
pub(super) struct AuthenticatedAgent {
    agent: AgentProcess,
    folder: PathBuf,
    /// The certificate of the authority, if the listeners have TLS.
    ca: Option<PathBuf>,
}

impl AuthenticatedAgent {
    /// Starts an agent whose files are in this folder.
    pub(super) fn start(folder: &Path, tls: bool) -> anyhow::Result<AuthenticatedAgent> {
        let admin = folder.join("admin.password");
        fs::write(&admin, ADMIN_PASSWORD)?;
        let data = folder.join("data");
        let put = AgentProcess::builder()
            .dev(&data)
            .arg("user")
            .arg("put")
            .arg("admin")
            .arg("--password-file")
            .arg(admin.display().to_string());
        put.run(LIMIT)?.ensure_success()?;
        let mut builder = AgentProcess::builder()
            .dev(&data)
            .env("STREAMHOUSE_AUTHENTICATION", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512");
        let mut ca = None;
        if tls {
            ca = Some(write_certificates(folder)?);
            builder = builder.env("STREAMHOUSE_TLS_DIR", folder.display().to_string());
        }
        let mut agent = builder.spawn()?;
        agent.wait_ready()?;
        let agent = AuthenticatedAgent {
            agent,
            folder: folder.to_owned(),
            ca,
        };
        let admin = agent.as_admin();
        admin
            .run(["topic", "create", TOPIC, "--partitions", "1"])?
            .ensure_success()?;
        let record = format!("{RECORD}\n");
        admin
            .run_with_input(["produce", TOPIC], record)?
            .ensure_success()?;
        Ok(agent)
    }

    /// Creates a user, or changes its password.
    pub(super) fn put_user(&self, name: &str, password: &str) -> anyhow::Result<()> {
        let file = self.folder.join("new.password");
        fs::write(&file, password)?;
        let file = file.display().to_string();
        let put = ["user", "put", name, "--new-password-file", &file];
        self.as_admin().run(put)?.ensure_success()?;
        Ok(())
    }

    /// Returns the address of the Kafka listener.
    pub(super) fn kafka(&self) -> String {
        self.agent.kafka().to_string()
    }

    /// Returns the address of the gRPC listener.
    pub(super) fn grpc(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.agent.grpc())
    }

    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Returns the command line as a user.
    pub(super) fn command_line(&self, user: &str, password: &str) -> CliRunner {
        let runner = CliRunner::new(self.grpc())
            .env("STREAMHOUSE_USER", user)
            .env("STREAMHOUSE_PASSWORD", password);
        match self.ca() {
            Some(ca) => runner.env("STREAMHOUSE_CLIENT_TLS_CA", ca.display().to_string()),
            None => runner,
        }
    }

    /// Returns how many authentications by a mechanism have failed.
    pub(super) fn failures(&self, mechanism: Mechanism) -> anyhow::Result<u64> {
        let mechanism = mechanism.metric_label();
        let name = format!(
            "streamhouse_agent_authentications_total{{mechanism=\"{mechanism}\",outcome=\"failed\"}} "
        );
        let metrics = self.agent.http_get("/metrics")?.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(Ok(0), |value| {
            value.parse().with_context(|| format!("{name}{value}"))
        })
    }

    /// Waits until more have failed.
    pub(super) fn wait_for_failure(&self, mechanism: Mechanism, before: u64) -> anyhow::Result<()> {
        wait_until("a failed authentication at the agent", LIMIT, || {
            Ok((self.failures(mechanism)? > before).then_some(()))
        })
    }

    fn as_admin(&self) -> CliRunner {
        self.command_line("admin", ADMIN_PASSWORD)
    }
}

/// Writes certificates for both listeners, and returns the file with that of their authority.
fn write_certificates(folder: &Path) -> anyhow::Result<PathBuf> {
    let authority = CertificateAuthority::new()?;
    for listener in ["grpc", "kafka"] {
        let issued = authority.issue(&["127.0.0.1", "localhost"])?;
        fs::create_dir_all(folder.join(listener))?;
        fs::write(folder.join(listener).join("tls.crt"), issued.certificate)?;
        fs::write(folder.join(listener).join("tls.key"), issued.key)?;
    }
    let ca = folder.join("ca.pem");
    fs::write(&ca, authority.pem())?;
    Ok(ca)
}
