//! Runs a scenario on both clusters and compares what it returns.

use std::{
    collections::HashSet,
    fmt::{Display, Write as _},
};

use anyhow::Context as _;

use crate::subject::{TestSubject, TestSubjects};

/// Lines of a difference that are shown.
const SHOWN: usize = 60;

/// What a scenario has seen, without what differs between any two clusters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScenarioOutput(String);

impl ScenarioOutput {
    /// Adds what a step has seen.
    pub(crate) fn add(&mut self, step: &str, seen: impl Display) {
        // A string can always be written to.
        let _ = writeln!(self.0, "# {step}\n{seen}");
    }
}

impl From<String> for ScenarioOutput {
    fn from(text: String) -> ScenarioOutput {
        ScenarioOutput(text)
    }
}

/// Runs a scenario on both clusters at the same time.
///
/// # Errors
///
/// Fails if it fails on one of them, or if what it returns differs.
pub(crate) fn compare(
    subjects: &TestSubjects,
    run: fn(&TestSubject) -> anyhow::Result<ScenarioOutput>,
) -> anyhow::Result<()> {
    let (kafka, agents) = std::thread::scope(|scope| {
        let kafka = scope.spawn(|| run(&subjects.kafka));
        (kafka.join(), run(&subjects.agents))
    });
    let kafka = kafka.map_err(|_| anyhow::anyhow!("the scenario panicked"))?;
    let (kafka, agents) = (kafka.context("on Kafka")?, agents.context("on agents")?);
    anyhow::ensure!(!kafka.0.trim().is_empty(), "the scenario shows nothing");
    if let Some(difference) = difference(&kafka.0, &agents.0) {
        anyhow::bail!("the output differs (- Kafka, + agents):\n{difference}");
    }
    Ok(())
}

/// Returns the lines that only one of two texts has, in their order.
fn difference(kafka: &str, agents: &str) -> Option<String> {
    if kafka == agents {
        return None;
    }
    let (left, right): (HashSet<&str>, HashSet<&str>) = (kafka.lines().collect(), agents.lines().collect());
    let mut lines: Vec<String> = Vec::new();
    for (sign, text, other) in [('-', kafka, &right), ('+', agents, &left)] {
        let only = text.lines().filter(|line| !other.contains(line));
        lines.extend(only.map(|line| format!("{sign} {line}")));
    }
    if lines.is_empty() {
        lines.push(format!(
            "the same lines in another order or number:\n{kafka}\n---\n{agents}"
        ));
    }
    lines.truncate(SHOWN);
    Some(lines.join("\n"))
}
