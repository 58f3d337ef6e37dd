//! Kafka Connect in distributed mode: a file source writes a topic, a file sink reads it; a second
//! worker takes over from the first.

use std::{io::Write as _, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use streamhouse_testkit::{ChildProcess, KafkaProgram, ReservedPort, create_temp_folder, wait_until};

use crate::{
    comparison::ScenarioOutput,
    programs::{PROGRAM_TIMEOUT, kcat, output_of},
    subject::TestSubject,
};

const LINES: usize = 2_000;

pub(crate) fn files(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    let folder = create_temp_folder("streamhouse-connect-")?;
    let (input, output) = (folder.path().join("input"), folder.path().join("output"));
    append_lines(&input, 0)?;
    let mut first = ConnectWorker::start(subject, folder.path(), "first")?;
    first.create(
        "source",
        &json!({"connector.class": "FileStreamSource", "file": &input, "topic": "lines"}),
    )?;
    first.create(
        "sink",
        &json!({"connector.class": "FileStreamSink", "file": &output, "topics": "lines"}),
    )?;
    first.wait_for_copy(&input, &output)?;
    for name in ["source", "sink"] {
        seen.add(name, first.wait_for_running(name)?);
    }
    // The second worker gets its share, and then all, when the first one leaves.
    let mut second = ConnectWorker::start(subject, folder.path(), "second")?;
    second.wait_for_running("sink")?;
    first.stop()?;
    append_lines(&input, LINES)?;
    second.wait_for_copy(&input, &output)?;
    seen.add("source by the second worker", second.wait_for_running("source")?);
    second.stop()?;
    let read = ["-C", "-t", "lines", "-o", "beginning", "-e", "-q"];
    let topic = output_of(kcat(&subject.bootstrap, &read))?;
    seen.add("lines in the topic", topic.lines().count());
    seen.add(
        "lines in the file",
        std::fs::read_to_string(&output)?.lines().count(),
    );
    Ok(seen)
}

fn append_lines(file: &Path, first: usize) -> anyhow::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    for number in first..first + LINES {
        writeln!(file, "line {number}")?;
    }
    Ok(())
}

/// A worker of Connect.
#[derive(Debug)]
struct ConnectWorker {
    process: ChildProcess,
    port: ReservedPort,
}

impl ConnectWorker {
    fn start(subject: &TestSubject, folder: &Path, name: &str) -> anyhow::Result<ConnectWorker> {
        let port = ReservedPort::reserve()?;
        let file = folder.join(format!("{name}.properties"));
        let settings = format!(
            "bootstrap.servers={}\ngroup.id=connect\nlisteners=http://{}\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             config.storage.topic=connect-configs\nconfig.storage.replication.factor=1\n\
             offset.storage.topic=connect-offsets\noffset.storage.replication.factor=1\n\
             offset.storage.partitions=5\nstatus.storage.topic=connect-status\n\
             status.storage.replication.factor=1\nstatus.storage.partitions=2\n\
             offset.flush.interval.ms=500\nscheduled.rebalance.max.delay.ms=0\n\
             plugin.discovery=service_load\nconsumer.metadata.max.age.ms=1000\n",
            subject.bootstrap,
            port.address()
        );
        std::fs::write(&file, settings)?;
        let process = KafkaProgram::Class("org.apache.kafka.connect.cli.ConnectDistributed")
            .command()?
            .arg(&file)
            .start()?;
        let mut worker = ConnectWorker { process, port };
        wait_until("the start of Connect", PROGRAM_TIMEOUT, || {
            worker.ensure_running()?;
            Ok(worker.request("GET", "/connectors", None).ok())
        })?;
        Ok(worker)
    }

    fn ensure_running(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.process.is_running(),
            "Connect ended: {}",
            self.process.log_tail()
        );
        Ok(())
    }

    fn create(&self, name: &str, config: &Value) -> anyhow::Result<()> {
        let body = json!({"name": name, "config": config});
        let created = self.request("POST", "/connectors", Some(&body))?;
        anyhow::ensure!(created["name"] == name, "Connect answered {created}");
        Ok(())
    }

    /// Waits until a connector and its task run. Returns their states.
    fn wait_for_running(&mut self, name: &str) -> anyhow::Result<String> {
        wait_until("the state RUNNING", PROGRAM_TIMEOUT, || {
            self.ensure_running()?;
            std::thread::sleep(Duration::from_millis(200));
            let Ok(status) = self.request("GET", &format!("/connectors/{name}/status"), None) else {
                return Ok(None);
            };
            let task = &status["tasks"][0]["state"];
            anyhow::ensure!(task != "FAILED", "the task failed: {status}");
            let state = format!("{} {task} {}", status["connector"]["state"], status["type"]);
            Ok(state.starts_with("\"RUNNING\" \"RUNNING\"").then_some(state))
        })
    }

    /// Waits until the sink has written what the source has read.
    fn wait_for_copy(&mut self, input: &Path, output: &Path) -> anyhow::Result<()> {
        let wanted = std::fs::read(input)?;
        let copied = wait_until("the copy of the file", PROGRAM_TIMEOUT, || {
            self.ensure_running()?;
            std::thread::sleep(Duration::from_millis(200));
            Ok(std::fs::read(output)
                .is_ok_and(|text| text == wanted)
                .then_some(()))
        });
        copied.with_context(|| self.process.log_tail())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.process.terminate()?;
        self.process.wait(PROGRAM_TIMEOUT).map(drop)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"])
            .args(["--max-time", "30", "--request", method])
            .args(["--header", "Content-Type: application/json"]);
        if let Some(body) = body {
            curl.args(["--data", &body.to_string()]);
        }
        let output = curl.arg(format!("http://{}{path}", self.port.address())).output();
        let output = output.context("curl is missing")?;
        let text = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(output.status.success(), "Connect answered {text}");
        serde_json::from_str(&text).with_context(|| format!("Connect answered {text}"))
    }
}
