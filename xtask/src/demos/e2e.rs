//! Producers and consumers on the development stack: the end-to-end examples, the command line, and
//! what is then in MinIO and PostgreSQL.

use std::time::Duration;

use anyhow::{Context, ensure};
use streamhouse_testkit::{ProcessBuilder, create_temp_folder};

use super::start_agent;
use crate::dev_stack::DevStack;
use crate::programs::{read_output, run_shown};
use crate::repository::CallFolders;
use crate::terminal::{note, say};

const TOPIC: &str = "dev-orders";
const EXAMPLES: [&str; 2] = ["e2e_producer_consumer", "e2e_offset_tracking"];
const EXAMPLE_TIMEOUT: Duration = Duration::from_secs(180);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Objects that are shown.
const SHOWN_OBJECTS: usize = 20;
/// Columns of a table that are shown.
const SHOWN_COLUMNS: usize = 200;

/// Starts the stack if it does not run, and an agent, which is drained at the end.
///
/// # Errors
///
/// Fails if a step does.
pub(super) fn run(folders: &CallFolders) -> anyhow::Result<()> {
    let stack = DevStack::start(folders)?;
    say("starting an agent on PostgreSQL and MinIO");
    let agent = start_agent(&stack)?;
    for example in EXAMPLES {
        say(&format!("example {example}"));
        run_shown(stack.program(&format!("examples/{example}"))?, EXAMPLE_TIMEOUT)
            .with_context(|| format!("the example {example} failed"))?;
    }
    produce_and_consume(&stack)?;
    show_objects(&stack)?;
    show_tables(&stack)?;
    say("draining the agent");
    agent.drain()?;
    note("all as it should be; the stack stays up: hack/dev-down.sh stops it");
    Ok(())
}

fn produce_and_consume(stack: &DevStack) -> anyhow::Result<()> {
    say("the command line: a topic of four partitions, three records, read back");
    let cli = |arguments: &[&str]| -> anyhow::Result<ProcessBuilder> {
        Ok(stack.program("streamhouse")?.args(arguments))
    };
    if read_output(cli(&["topic", "describe", TOPIC])?).is_err() {
        run_shown(
            cli(&["topic", "create", TOPIC, "--partitions", "4"])?,
            COMMAND_TIMEOUT,
        )?;
    }
    let folder = create_temp_folder("streamhouse-demo-")?;
    // Unique per run, because the topic may hold records of an earlier run.
    let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
    let run = format!("run-{}", name.trim_start_matches("streamhouse-demo-"));
    let sent: Vec<String> = (1..=3)
        .map(|number| format!("customer-{number}:{run} pounds of tea"))
        .collect();
    let file = folder.path().join("sent");
    std::fs::write(&file, sent.join("\n") + "\n")?;
    let produce = cli(&["produce", TOPIC, "--key-separator", ":", "--print-offsets"])?;
    run_shown(produce.arg("--file").arg(file), COMMAND_TIMEOUT)?;
    let consume = cli(&["consume", TOPIC, "--from-beginning", "--exit-at-end"])?;
    let all = read_output(consume.args(["--format", "%k:%v\\n"]))?;
    let received = select_run(&all, &run);
    received.iter().for_each(|line| println!("{line}"));
    ensure!(received == sent, "what came out is not what went in");
    Ok(())
}

/// Returns the records of one run in the order of their keys.
fn select_run<'a>(output: &'a str, run: &str) -> Vec<&'a str> {
    let marker = format!(":{run} ");
    let mut records: Vec<&str> = output.lines().filter(|line| line.contains(&marker)).collect();
    records.sort_unstable();
    records
}

fn show_objects(stack: &DevStack) -> anyhow::Result<()> {
    say("objects in MinIO");
    let objects = read_output(stack.program("streamhouse-agent")?.arg("objects"))?;
    for line in objects.lines().take(SHOWN_OBJECTS) {
        println!("{line}");
    }
    let more = objects.lines().count().saturating_sub(SHOWN_OBJECTS);
    if more > 0 {
        note(&format!("… {more} lines more: streamhouse-agent objects"));
    }
    ensure!(has_bytes(&objects), "there are no objects in MinIO");
    Ok(())
}

/// Whether a line begins with the size of an object that is not empty.
fn has_bytes(objects: &str) -> bool {
    let sizes = objects.lines().filter_map(|line| line.split_whitespace().next());
    sizes
        .filter_map(|size| size.parse::<u64>().ok())
        .any(|size| size > 0)
}

fn show_tables(stack: &DevStack) -> anyhow::Result<()> {
    say("tables in PostgreSQL");
    let tables = read_output(stack.program("streamhouse-agent")?.arg("tables"))?;
    for line in tables.lines() {
        println!("{}", line.chars().take(SHOWN_COLUMNS).collect::<String>());
    }
    ensure!(
        tables.contains(&format!("\"name\":\"{TOPIC}\"")) || has_topics(&tables),
        "there are no topics in PostgreSQL"
    );
    Ok(())
}

/// Whether the table `topics` has rows.
fn has_topics(tables: &str) -> bool {
    tables.lines().any(|line| {
        let mut words = line.split_whitespace();
        let count = (words.next() == Some("topics")).then(|| words.next()).flatten();
        count.is_some_and(|count| count.starts_with(|digit: char| ('1'..='9').contains(&digit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_other_runs_do_not_count() {
        let output = "b:run-2 pounds\na:run-2 pounds\na:run-1 pounds\na:run-22 pounds\n";
        assert_eq!(select_run(output, "run-2"), ["a:run-2 pounds", "b:run-2 pounds"]);
    }

    #[test]
    fn empty_stores_are_noticed() {
        assert!(has_bytes("  12 orders/0/segment_0000000000.dat\n"));
        assert!(!has_bytes("0 orders/0/empty\nno objects\n"));
        assert!(has_topics("partitions 0\ntopics   3\n"));
        assert!(!has_topics("topics 0\nother 3\n"));
    }
}
