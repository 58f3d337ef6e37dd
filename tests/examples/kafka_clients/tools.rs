//! Kafka's command-line tools, run by the scripts `tests/kafka/*.tools`.

use streamhouse_testkit::KafkaProgram;

use crate::{
    comparison::ScenarioOutput,
    programs::{output_of, script},
    subject::TestSubject,
};

pub(crate) fn topics(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    run_script(subject, "topics.tools")
}

pub(crate) fn groups(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    run_script(subject, "groups.tools")
}

fn run_script(subject: &TestSubject, name: &str) -> anyhow::Result<ScenarioOutput> {
    let runner = script("RunTools.java");
    let file = script(name);
    let folder = script("");
    let command = KafkaProgram::Source(&runner)
        .command()?
        .name(name)
        .arg(&subject.bootstrap)
        .arg(&file)
        .arg(&folder);
    Ok(output_of(command)?.into())
}
