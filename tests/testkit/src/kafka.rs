//! A real Apache Kafka of one node on free ports, and the programs that come with it.
//!
//! Called by tests that compare an agent with Kafka. Guarantees: the broker ends when its value is
//! dropped; its data is in a temporary folder.

use std::path::Path;

use anyhow::Context;
use tempfile::TempDir;

use crate::{ChildProcess, ProcessBuilder, ReservedPort, guard, programs, wait};

/// Any 16 bytes in URL-safe base64 will do.
const CLUSTER_ID: &str = "c3RyZWFtaG91c2UtdGVzdA";
/// Programs run for seconds, so a quick start is worth more than optimised code.
const QUICK_START: &[&str] = &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
const LOGGER: &str = "org.slf4j.simpleLogger";
const STARTED: &str = "Kafka Server started";

/// A program of Apache Kafka, or one that uses its libraries.
#[derive(Debug, Clone, Copy)]
pub enum KafkaProgram<'a> {
    /// A class such as `org.apache.kafka.tools.TopicCommand`.
    Class(&'a str),
    /// A program of one source file.
    Source(&'a Path),
}

impl KafkaProgram<'_> {
    /// Prepares the program with all of Kafka in its class path; its arguments follow. It logs
    /// warnings and errors to standard error.
    ///
    /// # Errors
    ///
    /// Fails if Kafka is not installed.
    pub fn command(self) -> anyhow::Result<ProcessBuilder> {
        self.with_options(QUICK_START)
    }

    /// Prepares the program with further options of the Java virtual machine and without those that
    /// make it start quickly.
    ///
    /// # Errors
    ///
    /// Fails if Kafka is not installed.
    pub fn with_options(self, options: &[&str]) -> anyhow::Result<ProcessBuilder> {
        let archives = programs::kafka_archives()?;
        let java = ProcessBuilder::new("java")
            .clean_env()
            .args(options)
            .arg(format!("-D{LOGGER}.defaultLogLevel=warn"))
            .arg(format!("-D{LOGGER}.log.kafka.server.KafkaRaftServer=info"))
            .args(["-cp", &format!("{}/*", archives.display())]);
        Ok(match self {
            KafkaProgram::Class(class) => java.arg(class).name(class.rsplit('.').next().unwrap_or(class)),
            KafkaProgram::Source(path) => java.arg(path).name(path.to_string_lossy()),
        })
    }
}

/// A broker that is its own controller.
#[derive(Debug)]
pub struct KafkaBroker {
    port: ReservedPort,
    process: ChildProcess,
    _controller: ReservedPort,
    _folder: TempDir,
}

impl KafkaBroker {
    /// Starts an empty broker that creates topics when clients ask for them.
    ///
    /// # Errors
    ///
    /// Fails if Kafka or Java is not installed, or if the broker does not start.
    pub fn start() -> anyhow::Result<KafkaBroker> {
        KafkaBroker::start_with(&[])
    }

    /// Starts an empty broker with further settings of `server.properties`.
    ///
    /// # Errors
    ///
    /// Fails if Kafka or Java is not installed, or if the broker does not start.
    pub fn start_with(settings: &[(&str, &str)]) -> anyhow::Result<KafkaBroker> {
        let folder = guard::create_temp_folder("streamhouse-kafka-")?;
        let (port, controller) = (ReservedPort::reserve()?, ReservedPort::reserve()?);
        let file = folder.path().join("server.properties");
        let text = properties(&port, &controller, &folder.path().join("data"), settings);
        std::fs::write(&file, text).context("cannot write server.properties")?;
        KafkaProgram::Class("kafka.tools.StorageTool")
            .command()?
            .args(["format", "--cluster-id", CLUSTER_ID, "--config"])
            .arg(&file)
            .run(wait::SERVER_TIMEOUT)?
            .ensure_success()
            .context("the broker's folder could not be formatted")?;
        let process = KafkaProgram::Class("kafka.Kafka")
            .with_options(&["-Xms256m", "-Xmx1g"])?
            .arg(&file)
            .start()?;
        let mut broker = KafkaBroker {
            port,
            process,
            _controller: controller,
            _folder: folder,
        };
        broker.wait_started()?;
        Ok(broker)
    }

    /// Returns the address for clients, as `127.0.0.1:port`.
    pub fn bootstrap(&self) -> String {
        self.port.address().to_string()
    }

    /// Returns the process, for signals and logs.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    fn wait_started(&mut self) -> anyhow::Result<()> {
        let process = &mut self.process;
        let started = wait::wait_until("the start of Kafka", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "Kafka ended while starting");
            Ok(process.stderr().contains(STARTED).then_some(()))
        });
        started.with_context(|| process.log_tail())
    }
}

fn properties(
    port: &ReservedPort,
    controller: &ReservedPort,
    data: &Path,
    settings: &[(&str, &str)],
) -> String {
    let (port, controller) = (port.address(), controller.address());
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{port},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{port}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\nauto.create.topics.enable=true\n\
         offsets.topic.num.partitions=4\noffsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=2\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        data.display()
    );
    for (key, value) in settings {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}
