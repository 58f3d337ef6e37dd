//! Kafka Streams: `tests/kafka/WordCount.java`, stopped and started again without its local state,
//! which it then restores from its changelog.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_testkit::{ChildProcess, KafkaProgram, create_temp_folder, wait_until};

use crate::{
    comparison::ScenarioOutput,
    java_load::create_topic,
    programs::{PROGRAM_TIMEOUT, kcat, output_of, script, tool},
    subject::TestSubject,
};

const LINES: usize = 600;

pub(crate) fn word_count(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    let mut seen = ScenarioOutput::default();
    create_topic(subject, "words-in")?;
    create_topic(subject, "words-out")?;
    for round in 1..=2 {
        produce_lines(subject, round)?;
        // A new folder: the counts so far come from the changelog.
        let folder = create_temp_folder("streamhouse-streams-")?;
        let program = script("WordCount.java");
        let mut count = KafkaProgram::Source(&program)
            .command()?
            .arg(&subject.bootstrap)
            .arg(folder.path())
            .start()?;
        let counts = wait_for_counts(subject, &mut count, round)?;
        seen.add(&format!("round {round}"), format!("{counts:?}"));
        count.terminate()?;
        count.wait(PROGRAM_TIMEOUT)?;
    }
    seen.add("topics", internal_topics(subject)?);
    Ok(seen)
}

fn produce_lines(subject: &TestSubject, round: usize) -> anyhow::Result<()> {
    let line = |number: usize| format!("key-{number}:all third-{} round-{round}\n", number % 3);
    let lines: String = (0..LINES).map(line).collect();
    let produce = kcat(&subject.bootstrap, &["-P", "-t", "words-in", "-K:"]);
    output_of(produce.input(lines)).map(drop)
}

/// Waits until all lines are counted. Returns the last count of each word.
fn wait_for_counts(
    subject: &TestSubject,
    count: &mut ChildProcess,
    rounds: usize,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let expected = rounds * LINES * 3;
    wait_until("the count of all words", PROGRAM_TIMEOUT, || {
        anyhow::ensure!(count.is_running(), "the word count ended: {}", count.log_tail());
        std::thread::sleep(Duration::from_millis(500));
        let counts = last_counts(subject)?;
        Ok((counts.values().sum::<usize>() >= expected).then_some(counts))
    })
}

fn last_counts(subject: &TestSubject) -> anyhow::Result<BTreeMap<String, usize>> {
    let read = [
        "-C",
        "-t",
        "words-out",
        "-o",
        "beginning",
        "-e",
        "-q",
        "-f",
        "%k %s\\n",
    ];
    let printed = output_of(kcat(&subject.bootstrap, &read))?;
    let mut counts = BTreeMap::new();
    for (word, count) in printed.lines().filter_map(|line| line.split_once(' ')) {
        counts.insert(word.to_owned(), count.parse()?);
    }
    Ok(counts)
}

/// Returns the topics that Streams has made, with their policies.
fn internal_topics(subject: &TestSubject) -> anyhow::Result<String> {
    let describe = [
        "--bootstrap-server",
        &subject.bootstrap,
        "--describe",
        "--topic",
        "word-count-.*",
    ];
    let printed = output_of(tool("TopicCommand", &describe)?)?;
    let mut topics: Vec<String> = Vec::new();
    for line in printed.lines().filter(|line| line.starts_with("Topic: ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let policy = line
            .split([',', ' ', '\t'])
            .find(|word| word.starts_with("cleanup.policy="));
        topics.push(format!(
            "{} {}",
            words.get(1).unwrap_or(&""),
            policy.unwrap_or_default()
        ));
    }
    topics.sort();
    Ok(topics.join("\n"))
}
