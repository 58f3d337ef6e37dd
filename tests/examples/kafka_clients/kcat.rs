//! kcat, the command line of librdkafka.

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    comparison::ScenarioOutput,
    programs::{kcat, outcome_of, output_of},
    subject::TestSubject,
};

/// Everything of a record but its time.
const FORMAT: &str = "%t %p %o %k=%s (%K, %S) %h\\n";

pub(crate) fn records(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    let bootstrap = subject.bootstrap.as_str();
    let consume = |arguments: &[&str]| output_of(kcat(bootstrap, arguments));
    let keyed = [
        "-P", "-t", "kcat", "-K:", "-H", "first=1", "-H", "second=2", "-H", "none",
    ];
    output_of(kcat(bootstrap, &keyed).input("a:one\nb:two\nc:three\nd:four\n"))?;
    output_of(kcat(bootstrap, &["-P", "-t", "kcat", "-Z", "-K:"]).input("e:\n:five\n"))?;
    seen.add(
        "all",
        consume(&["-C", "-t", "kcat", "-o", "beginning", "-e", "-q", "-f", FORMAT])?,
    );
    seen.add(
        "from 2",
        consume(&["-C", "-t", "kcat", "-p", "0", "-o", "2", "-e", "-q", "-f", FORMAT])?,
    );
    seen.add(
        "last 2",
        consume(&[
            "-C", "-t", "kcat", "-p", "0", "-o", "-2", "-e", "-q", "-f", FORMAT,
        ])?,
    );
    seen.add(
        "two",
        consume(&[
            "-C",
            "-t",
            "kcat",
            "-o",
            "beginning",
            "-c",
            "2",
            "-q",
            "-f",
            FORMAT,
        ])?,
    );
    seen.add(
        "by time",
        consume(&["-C", "-t", "kcat", "-o", "s@1000", "-e", "-q", "-f", FORMAT])?,
    );
    seen.add(
        "offsets",
        consume(&["-Q", "-t", "kcat:0:-1", "-t", "kcat:0:-2", "-t", "kcat:0:1000"])?,
    );
    seen.add(
        "topic",
        topic(&output_of(kcat(bootstrap, &["-L", "-J", "-t", "kcat"]))?)?,
    );
    groups(subject, &mut seen)?;
    Ok(seen)
}

/// Consumes by a group, twice, and asks for a topic that does not exist.
fn groups(subject: &TestSubject, seen: &mut ScenarioOutput) -> anyhow::Result<()> {
    let bootstrap = subject.bootstrap.as_str();
    let consume = |arguments: &[&str]| output_of(kcat(bootstrap, arguments));
    let group = [
        "-G",
        "kcat-group",
        "-X",
        "auto.offset.reset=earliest",
        "-e",
        "-q",
        "-f",
        FORMAT,
        "kcat",
    ];
    seen.add("group", consume(&group)?);
    output_of(kcat(bootstrap, &["-P", "-t", "kcat"]).input("six\n"))?;
    seen.add("group again", consume(&group)?);
    let unknown = [
        "-C",
        "-t",
        "kcat-none",
        "-e",
        "-X",
        "allow.auto.create.topics=false",
    ];
    let (success, printed) = outcome_of(kcat(bootstrap, &unknown))?;
    seen.add("unknown topic", format!("{} {printed}", success.is_ok()));
    Ok(())
}

/// Returns what does not depend on the number of brokers.
fn topic(metadata: &str) -> anyhow::Result<String> {
    let metadata: Value = serde_json::from_str(metadata).context("kcat printed no JSON")?;
    let topics = metadata["topics"].as_array().context("no topics")?;
    let topics = topics.iter().map(|topic| {
        let partitions = topic["partitions"].as_array().map_or(0, Vec::len);
        let error = &topic["error"];
        format!("{} {partitions} {error}", topic["topic"])
    });
    Ok(topics.collect::<Vec<_>>().join("\n"))
}

pub(crate) fn codecs(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    let lines: String = (0..2000)
        .map(|number| format!("key-{number}:value-{number}\n"))
        .collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for idempotent in ["false", "true"] {
            let topic = format!("kcat-{codec}-{idempotent}");
            let idempotence = format!("enable.idempotence={idempotent}");
            let produce = [
                "-P",
                "-t",
                &topic,
                "-K:",
                "-z",
                codec,
                "-X",
                &idempotence,
                "-p",
                "0",
            ];
            output_of(kcat(&subject.bootstrap, &produce).input(lines.as_str()))?;
            let consume = ["-C", "-t", &topic, "-o", "beginning", "-e", "-q", "-f", "%k:%s\n"];
            let read = output_of(kcat(&subject.bootstrap, &consume))?;
            seen.add(
                &topic,
                format!("{} lines, as written: {}", read.lines().count(), read == lines),
            );
        }
    }
    Ok(seen)
}
