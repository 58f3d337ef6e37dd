//! MirrorMaker 2, as docs/kafka.md moves topics and groups: from Kafka to agents, and back.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use streamhouse_testkit::{ChildProcess, KafkaProgram, create_temp_folder, wait_until};

use crate::{
    programs::{PROGRAM_TIMEOUT, kcat, outcome_of, output_of, script, tool},
    subject::{TestSubject, TestSubjects},
};

const RECORDS: usize = 1_000;
/// Of them, what the group reads before it moves.
const READ_BEFORE: usize = 400;
/// One broker, and shorter intervals.
const FOR_TESTS: &str = "\nreplication.factor=1\ncheckpoints.topic.replication.factor=1\n\
    heartbeats.topic.replication.factor=1\noffset-syncs.topic.replication.factor=1\n\
    offset.storage.replication.factor=1\nstatus.storage.replication.factor=1\n\
    config.storage.replication.factor=1\nrefresh.topics.interval.seconds=2\n\
    refresh.groups.interval.seconds=2\nsync.group.offsets.interval.seconds=1\n\
    emit.checkpoints.interval.seconds=1\nsync.topic.configs.interval.seconds=2\noffset.lag.max=10\n";
/// Everything of a record, its place and time included.
const FORMAT: &str = "%p %o %T %k=%s %h\\n";

pub(crate) fn there_and_back(subjects: &TestSubjects) -> anyhow::Result<()> {
    let (kafka, agents) = (&subjects.kafka, &subjects.agents);
    for (subject, topic) in [(kafka, "orders"), (agents, "shipments")] {
        let settings = ["--partitions", "2", "--config", "retention.ms=7200000"];
        let create = [
            &[
                "--bootstrap-server",
                &subject.bootstrap,
                "--create",
                "--topic",
                topic,
            ][..],
            &settings,
        ];
        output_of(tool("TopicCommand", &create.concat())?)?;
        produce(subject, topic, 0)?;
    }
    let read_before = read_as_group(kafka, &["-c", &READ_BEFORE.to_string()])?;
    let folder = create_temp_folder("streamhouse-mirror-")?;
    let mut mirror = start_mirror(subjects, folder.path())?;
    wait_for_copy(&mut mirror, kafka, agents, "orders")?;
    wait_for_copy(&mut mirror, agents, kafka, "shipments")?;
    // What is produced while it runs.
    produce(kafka, "orders", RECORDS)?;
    wait_for_copy(&mut mirror, kafka, agents, "orders")?;
    ensure_setting(agents, "orders")?;
    ensure_setting(kafka, "shipments")?;
    wait_for_group(&mut mirror, agents)?;
    mirror.terminate()?;
    mirror.wait(PROGRAM_TIMEOUT)?;
    // The group goes on with the agents where it has stopped, or some records before.
    let read_after = read_as_group(agents, &["-e"])?;
    let all = read_log(kafka, "orders")?;
    let lines = |text: &str| {
        text.lines()
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let (before, after, all) = (lines(&read_before), lines(&read_after), lines(&all));
    let unread = all
        .difference(&after)
        .filter(|line| !before.contains(*line))
        .count();
    anyhow::ensure!(unread == 0, "the group has not read {unread} records");
    anyhow::ensure!(
        after.len() < all.len(),
        "the group began anew: its offsets were not copied"
    );
    Ok(())
}

fn produce(subject: &TestSubject, topic: &str, first: usize) -> anyhow::Result<()> {
    let lines: String = (first..first + RECORDS)
        .map(|number| format!("key-{number}:value-{number}\n"))
        .collect();
    let arguments = ["-P", "-t", topic, "-K:", "-H", "from=a header", "-z", "zstd"];
    output_of(kcat(&subject.bootstrap, &arguments).input(lines)).map(drop)
}

fn read_as_group(subject: &TestSubject, end: &[&str]) -> anyhow::Result<String> {
    let group = [
        "-G",
        "billing",
        "-q",
        "-X",
        "auto.offset.reset=earliest",
        "-f",
        FORMAT,
    ];
    output_of(kcat(&subject.bootstrap, &[&group, end, &["orders"]].concat()))
}

fn read_log(subject: &TestSubject, topic: &str) -> anyhow::Result<String> {
    let arguments = ["-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", FORMAT];
    // Without the topic, kcat fails.
    let (_, printed) = outcome_of(kcat(&subject.bootstrap, &arguments))?;
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Starts MirrorMaker with the settings of docs/kafka.md.
fn start_mirror(subjects: &TestSubjects, folder: &Path) -> anyhow::Result<ChildProcess> {
    let text = std::fs::read_to_string(script("mirror.properties"))?;
    let text = text.replace("AGENTS", &subjects.agents.bootstrap);
    let settings = text.replace("KAFKA", &subjects.kafka.bootstrap) + FOR_TESTS;
    let file = folder.join("mirror.properties");
    std::fs::write(&file, settings)?;
    KafkaProgram::Class("org.apache.kafka.connect.mirror.MirrorMaker")
        .command()?
        .arg(&file)
        .start()
}

/// Waits until a topic has the same records at the same places in both clusters.
fn wait_for_copy(
    mirror: &mut ChildProcess,
    from: &TestSubject,
    to: &TestSubject,
    topic: &str,
) -> anyhow::Result<()> {
    let wanted = read_log(from, topic)?;
    let copied = wait_until(&format!("the copy of {topic}"), PROGRAM_TIMEOUT, || {
        anyhow::ensure!(mirror.is_running(), "MirrorMaker ended");
        std::thread::sleep(Duration::from_millis(500));
        let found = read_log(to, topic)?;
        let (have, want) = (found.lines().count(), wanted.lines().count());
        anyhow::ensure!(
            have <= want,
            "{topic} has {have} records, and {want} were written"
        );
        anyhow::ensure!(have < want || found == wanted, "the records of {topic} differ");
        Ok((have == want).then_some(()))
    });
    copied.with_context(|| mirror.log_tail())
}

fn ensure_setting(subject: &TestSubject, topic: &str) -> anyhow::Result<()> {
    let describe = [
        "--bootstrap-server",
        &subject.bootstrap,
        "--describe",
        "--topic",
        topic,
    ];
    let printed = output_of(tool("TopicCommand", &describe)?)?;
    anyhow::ensure!(printed.contains("PartitionCount: 2"), "{printed}");
    anyhow::ensure!(printed.contains("retention.ms=7200000"), "{printed}");
    Ok(())
}

/// Waits until the group has offsets in the other cluster.
fn wait_for_group(mirror: &mut ChildProcess, agents: &TestSubject) -> anyhow::Result<()> {
    let describe = [
        "--bootstrap-server",
        &agents.bootstrap,
        "--describe",
        "--group",
        "billing",
        "--offsets",
    ];
    let known = wait_until("the offsets of the group", PROGRAM_TIMEOUT, || {
        anyhow::ensure!(mirror.is_running(), "MirrorMaker ended");
        let printed = output_of(tool("consumer.group.ConsumerGroupCommand", &describe)?)?;
        let rows = printed.lines().filter(|line| line.starts_with("billing"));
        let committed = rows.filter(|row| row.split_whitespace().nth(3).is_some_and(|offset| offset != "-"));
        // The group may have read one partition only.
        Ok((committed.count() > 0).then_some(()))
    });
    known.with_context(|| mirror.log_tail())
}
