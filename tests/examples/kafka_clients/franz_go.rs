//! franz-go's own tests, which run against any cluster.

use streamhouse_testkit::{ProcessBuilder, franz_go_tests};

use crate::{comparison::ScenarioOutput, programs::outcome_of, subject::TestSubject};

/// Tests that need what agents do not offer: transactions, share groups, SASL, the topic
/// `__consumer_offsets`.
const NOT_OFFERED: &str = "Txn|Share|SCRAM|OAuth|^TestConsumeRegex$|^Test848RegexBrokerResolves$";
/// Tests that use a cluster; the others test the library itself.
const CLUSTER_TESTS: &str = "^(TestPing|TestIssue\\d+|TestConsume.*|TestDirectPartitionPurge|\
    TestAddRemovePartitions|TestPause.*|TestIssueFetch.*|TestIssueProduce.*|TestPooling|TestGroup.*|\
    TestHookPollStart|TestClient_.*|TestUnknownGroup.*)$";
/// Of them, those of groups and some of consuming.
const GROUP_TESTS: &str =
    "^(TestGroupSimple|TestGroupETL|TestIssue865|TestPauseIssue489|TestAddRemovePartitions)$";

/// The records that pass through a chain of groups in the test of groups.
const SMALL_RECORDS: &str = "5000";
const RECORDS: &str = "20000";

pub(crate) fn group(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    run(subject, GROUP_TESTS, SMALL_RECORDS)
}

pub(crate) fn all(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
    run(subject, CLUSTER_TESTS, RECORDS)
}

/// Runs tests and returns which of them passed.
fn run(subject: &TestSubject, tests: &str, records: &str) -> anyhow::Result<ScenarioOutput> {
    let program = ProcessBuilder::new(franz_go_tests()?)
        .args(["-test.v", "-test.timeout", "280s", "-test.run", tests])
        .args(["-test.skip", NOT_OFFERED])
        .env("KGO_SEEDS", &subject.bootstrap)
        .env("KGO_TEST_RF", "1")
        .env("KGO_TEST_RECORDS", records)
        .merge_output();
    let (success, text) = outcome_of(program)?;
    success?;
    let mut results: Vec<&str> = text.lines().filter_map(result).collect();
    results.sort_unstable();
    anyhow::ensure!(!results.is_empty(), "no test ran: {text}");
    Ok(results.join("\n").into())
}

/// Returns the result in a line such as `    --- PASS: TestPing (0.01s)`.
fn result(line: &str) -> Option<&str> {
    let result = line.trim_start().strip_prefix("--- ")?;
    Some(result.split(" (").next().unwrap_or(result))
}
