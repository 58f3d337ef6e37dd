//! Kafka's programs that produce and consume on their own: what they count is compared, not how
//! fast they are.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use streamhouse_testkit::{ChildProcess, wait_until};

use crate::{
    comparison::ScenarioOutput,
    programs::{PROGRAM_TIMEOUT, output_of, tool},
    subject::TestSubject,
};

const PARTITIONS: &str = "4";
const VERIFIED: usize = 5_000;
const MEASURED: &str = "200000";

pub(crate) fn verifiable(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    let topic = "verifiable";
    create_topic(subject, topic)?;
    let mut consumers = VerifiableConsumers::start(subject, topic, 2)?;
    let count = VERIFIED.to_string();
    let arguments = [
        "--bootstrap-server",
        &subject.bootstrap,
        "--topic",
        topic,
        "--max-messages",
        &count,
    ];
    let printed = output_of(tool("VerifiableProducer", &arguments)?)?;
    let last = events(&printed)
        .into_iter()
        .find(|event| event["name"] == "tool_data");
    let last = last.context("the producer printed no total")?;
    seen.add(
        "sent, acknowledged",
        format!("{} {}", last["sent"], last["acked"]),
    );
    consumers.wait_for(VERIFIED)?;
    seen.add("read", consumers.stop()?.len());
    Ok(seen)
}

/// Creates a topic with Kafka's tool.
pub(crate) fn create_topic(subject: &TestSubject, topic: &str) -> anyhow::Result<()> {
    let create = ["--create", "--topic", topic, "--partitions", PARTITIONS];
    let arguments = [&["--bootstrap-server", &subject.bootstrap][..], &create].concat();
    output_of(tool("TopicCommand", &arguments)?).map(drop)
}

/// Returns the lines of JSON that a program has printed so far.
pub(crate) fn events(printed: &str) -> Vec<Value> {
    let lines = printed.lines();
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A group of Kafka's VerifiableConsumer.
#[derive(Debug)]
pub(crate) struct VerifiableConsumers(Vec<ChildProcess>);

impl VerifiableConsumers {
    pub(crate) fn start(subject: &TestSubject, topic: &str, members: usize) -> anyhow::Result<Self> {
        let arguments = [
            "--bootstrap-server",
            &subject.bootstrap,
            "--topic",
            topic,
            "--group-id",
            topic,
            "--session-timeout",
            "10000",
            "--reset-policy",
            "earliest",
        ];
        let start = |_| tool("VerifiableConsumer", &arguments)?.start();
        (0..members)
            .map(start)
            .collect::<anyhow::Result<_>>()
            .map(VerifiableConsumers)
    }

    /// Returns the places of all records that the members have read.
    pub(crate) fn places(&self) -> BTreeSet<(i64, i64)> {
        let mut places = BTreeSet::new();
        for member in &self.0 {
            for event in events(&member.stdout()) {
                if event["name"] != "records_consumed" {
                    continue;
                }
                for partition in event["partitions"].as_array().into_iter().flatten() {
                    let number = |name: &str| partition[name].as_i64().unwrap_or(-1);
                    let offsets = number("minOffset")..=number("maxOffset");
                    places.extend(offsets.map(|offset| (number("partition"), offset)));
                }
            }
        }
        places
    }

    /// Waits until the members have read this many records.
    pub(crate) fn wait_for(&mut self, count: usize) -> anyhow::Result<()> {
        let what = format!("the reading of {count} records");
        wait_until(&what, PROGRAM_TIMEOUT, || {
            std::thread::sleep(Duration::from_millis(200));
            for member in &mut self.0 {
                anyhow::ensure!(member.is_running(), "a consumer ended: {}", member.log_tail());
            }
            Ok((self.places().len() >= count).then_some(()))
        })
    }

    /// Ends the members and returns the places of all records that they have read.
    pub(crate) fn stop(mut self) -> anyhow::Result<BTreeSet<(i64, i64)>> {
        for member in &mut self.0 {
            member.terminate()?;
        }
        for member in &mut self.0 {
            member.wait(PROGRAM_TIMEOUT)?;
        }
        Ok(self.places())
    }
}

pub(crate) fn performance(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    let bootstrap = subject.bootstrap.as_str();
    create_topic(subject, "performance")?;
    for codec in ["none", "lz4"] {
        let property = format!("compression.type={codec}");
        let arguments = [
            "--bootstrap-server",
            bootstrap,
            "--topic",
            "performance",
            "--num-records",
            MEASURED,
            "--record-size",
            "100",
            "--throughput",
            "-1",
            "--command-property",
            &property,
        ];
        let printed = output_of(tool("ProducerPerformance", &arguments)?)?;
        let last = printed.lines().last().unwrap_or_default();
        seen.add(codec, last.split(',').next().unwrap_or_default());
    }
    let arguments = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        "performance",
        "--num-records",
        MEASURED,
    ];
    let printed = output_of(tool(
        "ConsumerPerformance",
        &[&arguments[..], &["--hide-header"]].concat(),
    )?)?;
    let columns: Vec<&str> = printed.trim().split(", ").collect();
    let count: f64 = columns.get(4).context("no count of records")?.parse()?;
    // The last poll may return more than was asked for.
    seen.add("read", count >= MEASURED.parse()?);
    let printed = output_of(tool(
        "EndToEndLatency",
        &[bootstrap, "performance-latency", "100", "all", "100"],
    )?)?;
    let percentiles = printed
        .lines()
        .filter(|line| line.starts_with("Percentiles"))
        .count();
    seen.add("latency", percentiles);
    Ok(seen)
}
