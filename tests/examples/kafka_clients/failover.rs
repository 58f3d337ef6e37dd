//! Agents killed, drained and added while clients produce and groups read: nothing acknowledged is
//! lost, stored twice or left unread.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use streamhouse_testkit::{ChildProcess, ProcessBuilder, create_temp_folder, kafka_python, wait_until};
use streamhouse_tests::TestCluster;

use crate::{
    java_load::{VerifiableConsumers, create_topic, events},
    programs::{PROGRAM_TIMEOUT, script, tool},
    subject::{TestSubject, TestSubjects},
};

/// Records that must be acknowledged between two disturbances.
const STEP: usize = 3_000;

/// A cluster whose agents are disturbed.
fn start_cluster() -> anyhow::Result<(TestCluster, TestSubject)> {
    let cluster = TestCluster::start(2, &[])?;
    let subject = TestSubject {
        bootstrap: cluster.kafka_bootstrap(),
    };
    Ok((cluster, subject))
}

/// Kills an agent, starts it again, drains the other, starts it again; between all of that, what
/// `progress` counts must grow.
fn disturb(
    cluster: &mut TestCluster,
    mut progress: impl FnMut() -> anyhow::Result<usize>,
) -> anyhow::Result<()> {
    let mut go_on = || {
        let begin = progress()?;
        wait_until("the progress of the clients", PROGRAM_TIMEOUT, || {
            std::thread::sleep(Duration::from_millis(100));
            Ok((progress()? >= begin + STEP).then_some(()))
        })
    };
    go_on()?;
    cluster.agents[0].kill9()?;
    go_on()?;
    cluster.agents[0].start_again()?;
    cluster.agents[0].wait_ready()?;
    go_on()?;
    cluster.agents[1].drain()?;
    go_on()?;
    cluster.agents[1].start_again()?;
    cluster.agents[1].wait_ready()?;
    go_on()
}

pub(crate) fn confluent(_: &TestSubjects) -> anyhow::Result<()> {
    let (mut cluster, subject) = start_cluster()?;
    create_topic(&subject, "disturbed")?;
    let mut client = ProcessBuilder::new(kafka_python()?)
        .arg(script("failover_client.py"))
        .args([&subject.bootstrap, "disturbed", "4"])
        .start()?;
    disturb(&mut cluster, || acknowledged(&mut client))?;
    client.terminate()?;
    client.wait(PROGRAM_TIMEOUT)?;
    let printed = client.stdout();
    let last = printed.lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(last).with_context(|| client.log_tail())?;
    let clean = ["unsent", "lost", "twice", "out_of_order", "unread"]
        .iter()
        .all(|name| result[*name] == 0);
    anyhow::ensure!(
        clean && result["delivery_errors"] == serde_json::json!([]),
        "{result}"
    );
    Ok(())
}

fn acknowledged(client: &mut ChildProcess) -> anyhow::Result<usize> {
    anyhow::ensure!(client.is_running(), "the client ended: {}", client.log_tail());
    let printed = client.stdout();
    // The last line may be incomplete.
    let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
    let last = whole.lines().last().unwrap_or_default();
    let count = last.split(' ').nth(1).map(str::parse);
    Ok(count.transpose()?.unwrap_or(0))
}

pub(crate) fn java(_: &TestSubjects) -> anyhow::Result<()> {
    let (mut cluster, subject) = start_cluster()?;
    create_topic(&subject, "disturbed")?;
    let consumers = VerifiableConsumers::start(&subject, "disturbed", 2)?;
    let folder = create_temp_folder("streamhouse-failover-")?;
    // Without it, the tool does not send anything twice.
    let config = folder.path().join("producer.properties");
    std::fs::write(&config, "retries=2147483647\nenable.idempotence=true\n")?;
    let arguments = [
        "--bootstrap-server",
        &subject.bootstrap,
        "--topic",
        "disturbed",
        "--throughput",
        "1000",
    ];
    let producer = tool("VerifiableProducer", &arguments)?;
    let mut producer = producer.arg("--command-config").arg(&config).start()?;
    let mut progress = || {
        anyhow::ensure!(
            producer.is_running(),
            "the producer ended: {}",
            producer.log_tail()
        );
        Ok(producer.stdout().lines().count().min(consumers.places().len()))
    };
    disturb(&mut cluster, &mut progress)?;
    producer.terminate()?;
    producer.wait(PROGRAM_TIMEOUT)?;
    check_java(&producer.stdout(), consumers)
}

/// Compares what the consumers have read with what the producer was told.
fn check_java(produced: &str, mut consumers: VerifiableConsumers) -> anyhow::Result<()> {
    let mut places = BTreeSet::new();
    let mut acknowledgements = 0;
    for event in events(produced) {
        anyhow::ensure!(event["name"] != "producer_send_error", "{event}");
        if event["name"] == "producer_send_success" {
            let number = |name: &str| event[name].as_i64().unwrap_or(-1);
            places.insert((number("partition"), number("offset")));
            acknowledgements += 1;
        }
    }
    anyhow::ensure!(places.len() == acknowledgements, "two records have one place");
    consumers.wait_for(places.len())?;
    let read = consumers.stop()?;
    let unread = places.difference(&read).count();
    anyhow::ensure!(
        unread == 0,
        "{unread} of {acknowledgements} records were not read"
    );
    anyhow::ensure!(
        read == places,
        "{} records are stored that were not acknowledged",
        read.len() - places.len()
    );
    Ok(())
}
