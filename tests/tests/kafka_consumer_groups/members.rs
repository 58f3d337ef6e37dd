//! Members of librdkafka.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use streamhouse_client::{Producer, Record};
use streamhouse_testkit::ChildProcess;
use streamhouse_tests::{TestCluster, scripts::start_script};

use super::{GROUP, QuickCluster, TOPIC, TestResult};

/// Starts a member of librdkafka, which prints the records that it reads.
fn start_member(cluster: &TestCluster, name: &str) -> anyhow::Result<ChildProcess> {
    let arguments = [&cluster.kafka_bootstrap(), GROUP, TOPIC, name];
    start_script("kafka/consumer_group_member.py", name, &arguments)
}

/// Waits until the members share the partitions evenly, as the administration sees them.
async fn wait_until_shared(cluster: &TestCluster, members: usize, partitions: usize) -> TestResult {
    let sharing = async {
        loop {
            if let Ok(group) = cluster.admin()?.describe_group(GROUP).await {
                let assigned: Vec<usize> = group
                    .members
                    .iter()
                    .map(|member| member.assignment.len())
                    .collect();
                let even = assigned
                    .iter()
                    .all(|count| count.abs_diff(partitions / members) <= 1);
                if assigned.len() == members
                    && even
                    && assigned.iter().sum::<usize>() == partitions
                    && group.state == "Stable"
                {
                    return anyhow::Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let shared = tokio::time::timeout(Duration::from_secs(60), sharing).await;
    shared.with_context(|| format!("{members} members do not share the partitions"))?
}

async fn produce(cluster: &TestCluster, numbers: std::ops::Range<usize>) -> TestResult {
    let producer = Producer::builder().bootstrap(cluster.bootstrap()).build().await?;
    for number in numbers {
        drop(producer.send(Record::new(TOPIC, number.to_string())).await?);
    }
    producer.close(Duration::from_secs(60)).await?;
    Ok(())
}

/// Waits until the members have read all records.
async fn wait_until_read(members: &[ChildProcess], records: usize) -> TestResult {
    let reading = async {
        loop {
            let printed: Vec<String> = members.iter().map(ChildProcess::stdout).collect();
            let read: BTreeSet<&str> = printed.iter().flat_map(|text| text.lines()).collect();
            if read.len() >= records {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(90), reading).await;
    read.with_context(|| {
        let logs: Vec<String> = members.iter().map(ChildProcess::log_tail).collect();
        format!("not all of {records} records were read: {logs:?}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_librdkafka_join_leave_and_die_and_so_does_an_agent() -> TestResult {
    const RECORDS: usize = 1_000;
    let QuickCluster { mut cluster, _folder } = QuickCluster::start(2)?;
    cluster.create_topic(TOPIC, 6).await?;
    produce(&cluster, 0..RECORDS).await?;
    let mut members = vec![start_member(&cluster, "m0")?, start_member(&cluster, "m1")?];
    wait_until_shared(&cluster, 2, 6).await?;
    members.push(start_member(&cluster, "m2")?);
    wait_until_shared(&cluster, 3, 6).await?;
    wait_until_read(&members, RECORDS).await?;
    // One is killed: its session has to expire.
    members[0].kill9()?;
    wait_until_shared(&cluster, 2, 6).await?;
    // One leaves in order.
    members[1].terminate()?;
    wait_until_shared(&cluster, 1, 6).await?;
    produce(&cluster, RECORDS..2 * RECORDS).await?;
    wait_until_read(&members, 2 * RECORDS).await?;
    members.push(start_member(&cluster, "m3")?);
    wait_until_shared(&cluster, 2, 6).await?;
    let coordinator = cluster.admin()?.describe_group(GROUP).await?.coordinator;
    let dies = cluster
        .agents
        .iter_mut()
        .find(|agent| agent.bootstrap() == coordinator);
    dies.context("the coordinator is one of the agents")?.kill9()?;
    cluster.agents.retain(|agent| agent.bootstrap() != coordinator);
    produce(&cluster, 2 * RECORDS..3 * RECORDS).await?;
    wait_until_read(&members, 3 * RECORDS).await?;
    wait_until_shared(&cluster, 2, 6).await
}
