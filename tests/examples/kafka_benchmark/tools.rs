//! Kafka's own tools: how they are run, and what they print.

use std::time::Duration;

use anyhow::Context;
use streamhouse_testkit::KafkaProgram;

/// More than any load takes.
const LIMIT: Duration = Duration::from_secs(600);

/// What ProducerPerformance measured.
#[derive(Debug)]
pub(crate) struct ProducerReport {
    pub(crate) records_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// What ConsumerPerformance measured.
#[derive(Debug)]
pub(crate) struct ConsumerReport {
    pub(crate) records_per_second: f64,
    /// Without the time that joining the group took.
    pub(crate) fetch_records_per_second: f64,
}

/// Runs a program with the Java options of Kafka's scripts, and returns what it prints.
fn run(class: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let program = KafkaProgram::Class(class).with_options(&["-Xmx1g", "-XX:+UseG1GC"])?;
    let output = program.args(arguments).run(LIMIT)?;
    Ok(output.ensure_success().context(class.to_owned())?.stdout_text())
}

/// Creates a topic.
pub(crate) fn create_topic(bootstrap: &str, topic: &str, partitions: u32) -> anyhow::Result<()> {
    let partitions = partitions.to_string();
    let arguments = [
        "--bootstrap-server",
        bootstrap,
        "--create",
        "--topic",
        topic,
        "--partitions",
        &partitions,
    ];
    run("org.apache.kafka.tools.TopicCommand", &arguments)?;
    Ok(())
}

/// Produces random records. The first tenth is warm-up.
pub(crate) fn produce(
    bootstrap: &str,
    topic: &str,
    record_bytes: u64,
    records: u64,
    rate: Option<u64>,
    properties: &[&str],
) -> anyhow::Result<ProducerReport> {
    let [size, count, warm_up] = [record_bytes, records, records / 10].map(|number| number.to_string());
    let rate = rate.map_or("-1".to_owned(), |rate| rate.to_string());
    let mut arguments = vec![
        "--bootstrap-server",
        bootstrap,
        "--topic",
        topic,
        "--record-size",
        &size,
        "--num-records",
        &count,
        "--warmup-records",
        &warm_up,
        "--throughput",
        &rate,
        "--command-property",
    ];
    arguments.extend_from_slice(properties);
    let output = run("org.apache.kafka.tools.ProducerPerformance", &arguments)?;
    parse_producer(&output).with_context(|| format!("ProducerPerformance printed {output}"))
}

/// Parses the last summary, which is that after the warm-up.
fn parse_producer(output: &str) -> Option<ProducerReport> {
    let line = output.lines().rfind(|line| line.contains("99.9th"))?;
    let before = |unit: &str| -> Option<f64> {
        let (number, _) = line.split_once(unit)?;
        number.rsplit([' ', ',']).next()?.parse().ok()
    };
    Some(ProducerReport {
        records_per_second: before(" records/sec")?,
        p50_ms: before(" ms 50th")?,
        p99_ms: before(" ms 99th")?,
    })
}

/// Consumes this many records in a new group.
pub(crate) fn consume(bootstrap: &str, topic: &str, records: u64) -> anyhow::Result<ConsumerReport> {
    let count = records.to_string();
    let group = format!("readers-of-{topic}");
    let arguments = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        topic,
        "--num-records",
        &count,
        "--group",
        &group,
        "--hide-header",
    ];
    let output = run("org.apache.kafka.tools.ConsumerPerformance", &arguments)?;
    parse_consumer(&output).with_context(|| format!("ConsumerPerformance printed {output}"))
}

/// Parses the line: start, end, MB, MB/s, records, records/s, ms of rebalances, ms of fetching,
/// MB/s of fetching, records/s of fetching.
fn parse_consumer(output: &str) -> Option<ConsumerReport> {
    let line = output.lines().rfind(|line| line.matches(", ").count() == 9)?;
    let number = |at: usize| line.split(", ").nth(at)?.trim().parse().ok();
    Some(ConsumerReport {
        records_per_second: number(5)?,
        fetch_records_per_second: number(9)?,
    })
}
