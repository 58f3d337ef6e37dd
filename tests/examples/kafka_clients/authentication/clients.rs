//! Starts a client that goes on until it is refused, and waits for what it says.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use streamhouse_testkit::{
    ChildProcess, KafkaProgram, ProcessBuilder, franz_go_client, kafka_python, wait_until,
};

use super::{
    agents::{AuthenticatedAgent, RECORD, TOPIC},
    grpc::RustClientRun,
    table::{AuthenticationCell, Mechanism, TestedClient},
};
use crate::programs::{kcat, script};

const LIMIT: Duration = Duration::from_secs(90);

/// A user's name and password.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl Credentials {
    pub(super) fn new(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// A client that runs.
pub(super) enum ClientRun {
    Process {
        process: ChildProcess,
        /// In its standard output once it has been accepted.
        accepted: &'static str,
        /// In its output once it has been refused.
        refused: &'static str,
    },
    Library(RustClientRun),
}

impl ClientRun {
    pub(super) fn start(
        client: TestedClient,
        agent: &AuthenticatedAgent,
        mechanism: Mechanism,
        credentials: &Credentials,
        folder: &Path,
    ) -> anyhow::Result<ClientRun> {
        let (process, accepted, refused) = match client {
            TestedClient::RustClient => {
                return Ok(ClientRun::Library(RustClientRun::start(agent, credentials)?));
            }
            TestedClient::CommandLine => (
                agent
                    .command_line(&credentials.user, &credentials.password)
                    .spawn(["consume", TOPIC, "--from-beginning"])?,
                RECORD,
                "SASL_AUTHENTICATION_FAILED",
            ),
            TestedClient::KafkaTools => (
                console_consumer(agent, mechanism, credentials, folder)?,
                RECORD,
                "SaslAuthenticationException",
            ),
            TestedClient::Kcat => (
                kcat_consumer(agent, mechanism, credentials)?,
                RECORD,
                "SASL authentication error",
            ),
            TestedClient::FranzGo => (
                library(
                    ProcessBuilder::new(franz_go_client()?),
                    agent,
                    mechanism,
                    credentials,
                )?,
                "ok",
                "refused",
            ),
            TestedClient::ConfluentKafka | TestedClient::KafkaPython => {
                let python = ProcessBuilder::new(kafka_python()?)
                    .args(["-W", "ignore"])
                    .arg(script("sasl_client.py"))
                    .arg(client.name());
                (library(python, agent, mechanism, credentials)?, "ok", "refused")
            }
        };
        Ok(ClientRun::Process {
            process,
            accepted,
            refused,
        })
    }

    /// Waits until the client has been accepted or refused.
    pub(super) fn wait_for_either(&mut self) -> anyhow::Result<AuthenticationCell> {
        self.wait(true)
    }

    /// Waits until the client has been refused.
    pub(super) fn wait_for_refusal(&mut self) -> anyhow::Result<AuthenticationCell> {
        self.wait(false)
    }

    fn wait(&mut self, or_accepted: bool) -> anyhow::Result<AuthenticationCell> {
        match self {
            ClientRun::Library(run) => run.wait(or_accepted),
            ClientRun::Process {
                process,
                accepted,
                refused,
            } => {
                let found = wait_until("an accepted or refused client", LIMIT, || {
                    // Before its output, which is then complete.
                    let running = process.is_running();
                    let (printed, logged) = (process.stdout(), process.stderr());
                    if printed.contains(*refused) || logged.contains(*refused) {
                        return Ok(Some(AuthenticationCell::Refused));
                    }
                    if or_accepted && printed.contains(*accepted) {
                        return Ok(Some(AuthenticationCell::Accepted));
                    }
                    anyhow::ensure!(running, "it ended");
                    Ok(None)
                });
                found.with_context(|| process.log_tail())
            }
        }
    }
}

/// Starts a program of a client library: `tests/kafka/sasl_client.py`,
/// `hack/franz-go/sasl-client`.
fn library(
    program: ProcessBuilder,
    agent: &AuthenticatedAgent,
    mechanism: Mechanism,
    credentials: &Credentials,
) -> anyhow::Result<ChildProcess> {
    let ca = agent.ca().unwrap_or(Path::new(""));
    program
        .arg(agent.kafka())
        .arg(mechanism.name())
        .args([&credentials.user, &credentials.password])
        .arg(ca)
        .start()
}

fn kcat_consumer(
    agent: &AuthenticatedAgent,
    mechanism: Mechanism,
    credentials: &Credentials,
) -> anyhow::Result<ChildProcess> {
    let protocol = match agent.ca() {
        Some(ca) => vec![
            "security.protocol=SASL_SSL".to_owned(),
            format!("ssl.ca.location={}", ca.display()),
        ],
        None => vec!["security.protocol=SASL_PLAINTEXT".to_owned()],
    };
    let sasl = [
        format!("sasl.mechanisms={}", mechanism.name()),
        format!("sasl.username={}", credentials.user),
        format!("sasl.password={}", credentials.password),
        "reconnect.backoff.ms=5000".to_owned(),
    ];
    // -E: goes on when it is disconnected.
    let mut program = kcat(
        &agent.kafka(),
        &["-C", "-E", "-u", "-t", TOPIC, "-o", "beginning"],
    );
    for setting in protocol.iter().chain(&sasl) {
        program = program.args(["-X", setting]);
    }
    program.start()
}

fn console_consumer(
    agent: &AuthenticatedAgent,
    mechanism: Mechanism,
    credentials: &Credentials,
    folder: &Path,
) -> anyhow::Result<ChildProcess> {
    let module = match mechanism {
        Mechanism::Plain => "plain.PlainLoginModule",
        _ => "scram.ScramLoginModule",
    };
    let protocol = match agent.ca() {
        Some(ca) => format!(
            "security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n",
            ca.display()
        ),
        None => "security.protocol=SASL_PLAINTEXT\n".to_owned(),
    };
    let (name, Credentials { user, password }) = (mechanism.name(), credentials);
    let file = folder.join(format!("{name}-{user}-{password}.properties"));
    let text = format!(
        "{protocol}sasl.mechanism={name}\nsasl.jaas.config=org.apache.kafka.common.security.{module} \
         required username=\"{user}\" password=\"{password}\";\n"
    );
    fs::write(&file, text)?;
    let bootstrap = agent.kafka();
    KafkaProgram::Class("org.apache.kafka.tools.consumer.ConsoleConsumer")
        .command()
        .context("Apache Kafka is needed")?
        .args([
            "--bootstrap-server",
            &bootstrap,
            "--topic",
            TOPIC,
            "--from-beginning",
        ])
        .arg("--command-config")
        .arg(&file)
        .start()
}
