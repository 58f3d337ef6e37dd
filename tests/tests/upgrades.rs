//! An upgrade between two builds whose schemas differ, and the way back, while records are
//! produced. The older build is this one, told by `STREAMHOUSE_TEST_SCHEMA_MAX` that it knows no
//! later schema: it refuses, registers and migrates as the build before the last migration did.

use std::time::Duration;

use streamhouse_testkit::{AgentProcessBuilder, wait_until};
use streamhouse_tests::{DeliveryLedger, TestCluster};

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 8;
const OLD_BUILD: (&str, &str) = ("STREAMHOUSE_TEST_SCHEMA_MAX", "6");
/// What an old agent says about the new schema.
const REFUSAL: &str =
    "the metadata schema has version 7, this build runs on versions 5 to 6: run a newer build";

/// Returns a builder for a program of the new build.
fn new_build(cluster: &TestCluster) -> AgentProcessBuilder {
    cluster.agent_builder().env(OLD_BUILD.0, "")
}

/// Runs a command and returns its output, or its error.
fn run(builder: AgentProcessBuilder, command: &[&str]) -> anyhow::Result<Result<String, String>> {
    let builder = command.iter().fold(builder, |builder, part| builder.arg(*part));
    let output = builder.run(LIMIT)?;
    Ok(match output.ensure_success() {
        Ok(output) => Ok(output.stdout_text()),
        Err(error) => Err(error.to_string()),
    })
}

/// Runs a command that must fail, and returns its error.
fn run_refused(builder: AgentProcessBuilder, command: &[&str]) -> anyhow::Result<String> {
    match run(builder, command)? {
        Ok(output) => anyhow::bail!("{command:?} is not refused: {output}"),
        Err(refused) => Ok(refused),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_forward_and_back_until_the_schema_is_migrated() -> TestResult {
    let mut cluster = TestCluster::start(2, &[OLD_BUILD])?;
    let upgraded = upgrade(&mut cluster).await;
    if upgraded.is_err() {
        eprintln!("{}", cluster.log_tails());
        eprintln!("{:#?}", cluster.admin()?.describe_topic("upgraded").await);
    }
    upgraded
}

async fn upgrade(cluster: &mut TestCluster) -> TestResult {
    cluster.create_topic("upgraded", PARTITIONS).await?;
    for _ in 0..2 {
        let mut agent = new_build(cluster).spawn()?;
        agent.wait_ready()?;
        cluster.agents.push(agent);
    }
    let (old, new) = ([0, 1], [2, 3]);
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "upgraded", PARTITIONS);
    let load = ledger.produce(2000).await?;
    load.wait_for_acked(2000).await?;

    // Both builds serve one schema, and the old one keeps it.
    let refused = run_refused(new_build(cluster), &["migrate"])?;
    anyhow::ensure!(
        refused.contains("not migrated to version 7") && refused.contains("-schema6"),
        "{refused}"
    );
    for agent in old {
        cluster.agents[agent].drain()?;
        load.wait_for_acked(2000).await?;
    }
    // Back, while the schema is the old one.
    for agent in old {
        cluster.agents[agent].start_again()?;
        cluster.agents[agent].wait_ready()?;
    }
    for agent in new {
        cluster.agents[agent].drain()?;
        load.wait_for_acked(2000).await?;
    }
    // And forward for good.
    for agent in new {
        cluster.agents[agent].start_again()?;
        cluster.agents[agent].wait_ready()?;
    }
    for agent in old {
        cluster.agents[agent].drain()?;
        load.wait_for_acked(2000).await?;
    }
    let planned = run(new_build(cluster), &["migrate", "--dry-run"])?.map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        planned.contains("would be migrated to version 7") && planned.contains("schema versions 5 to 7"),
        "{planned}"
    );
    let migrated = run(new_build(cluster), &["migrate"])?.map_err(anyhow::Error::msg)?;
    anyhow::ensure!(migrated == "metadata schema: version 7 (was 6)\n", "{migrated}");
    load.wait_for_acked(4000).await?;

    // There is no way back any more: the old build says so, and touches nothing.
    cluster.agents[old[0]].start_again()?;
    wait_until("the refusal of the old agent", LIMIT, || {
        let ready = cluster.agents[old[0]].http_get("/ready")?;
        Ok((ready.status != 200 && ready.body.contains(REFUSAL)).then_some(()))
    })?;
    cluster.agents[old[0]].kill9()?;
    for command in [&["purge", "--yes"] as &[&str], &["migrate"], &["recover"]] {
        let refused = run_refused(cluster.agent_builder(), command)?;
        anyhow::ensure!(refused.contains(REFUSAL), "{command:?}: {refused}");
    }
    // A new agent that starts on the new schema registers what it runs on, as the other one did
    // before.
    cluster.agents[new[0]].drain()?;
    load.wait_for_acked(2000).await?;
    cluster.agents[new[0]].start_again()?;
    cluster.agents[new[0]].wait_ready()?;
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    let registered =
        "SELECT count(*)::text FROM agents WHERE schema_min = 5 AND schema_max = 7 AND sealed_at IS NULL";
    let name = cluster.database.rsplit('/').next().unwrap_or_default();
    anyhow::ensure!(cluster.postgres().admin_sql(name, registered)? == "2");
    Ok(())
}
