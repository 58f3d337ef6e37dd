//! Agents are added, drained and killed while records are produced, and the stores are stopped and
//! restarted. In every case no acknowledged record is lost, none is stored twice, and each
//! producer's order is kept.

use std::time::Duration;

use streamhouse_tests::{DeliveryLedger, TestCluster};

type TestResult = anyhow::Result<()>;

const PARTITIONS: i32 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_while_producing_loses_nothing() -> TestResult {
    let mut cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("killed", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "killed", PARTITIONS);
    let load = ledger.produce(4000).await?;
    load.wait_for_acked(4000).await?;
    cluster.agents[0].kill9()?;
    load.wait_for_acked(10_000).await?;
    cluster.agents[0].start_again()?;
    load.wait_for_acked(4000).await?;
    cluster.agents[1].kill9()?;
    load.wait_for_acked(10_000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_is_replaced_without_waiting_for_its_lease() -> TestResult {
    // Longer than the test may take: if an agent waited for the lease to expire, production would
    // stop.
    let mut cluster = TestCluster::start(2, &[("STREAMHOUSE_LEASE_TTL", "5m")])?;
    cluster.create_topic("noticed", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "noticed", PARTITIONS);
    let load = ledger.produce(4000).await?;
    // Enough time for the agents to have discovered each other.
    load.wait_for_acked(10_000).await?;
    cluster.agents[0].kill9()?;
    load.wait_for_acked(10_000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() -> TestResult {
    let mut cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("rolled", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "rolled", PARTITIONS);
    let load = ledger.produce(4000).await?;
    for agent in 0..2 {
        load.wait_for_acked(4000).await?;
        cluster.agents[agent].drain()?;
        load.wait_for_acked(4000).await?;
        cluster.agents[agent].start_again()?;
        cluster.agents[agent].wait_ready()?;
    }
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_its_share_while_producing() -> TestResult {
    let mut cluster = TestCluster::start(1, &[])?;
    cluster.create_topic("shared", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "shared", PARTITIONS);
    let load = ledger.produce(4000).await?;
    load.wait_for_acked(4000).await?;
    cluster.add_agent()?;
    let admin = cluster.admin()?;
    tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let agents = admin.describe_cluster().await?.agents;
            if agents.len() == 2 && agents.iter().all(|agent| agent.leases == 4) {
                break anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await??;
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_that_wakes_up_cannot_commit() -> TestResult {
    let mut cluster = TestCluster::start(2, &[])?;
    cluster.create_topic("paused", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "paused", PARTITIONS);
    let load = ledger.produce(4000).await?;
    load.wait_for_acked(4000).await?;
    cluster.agents[0].process().pause()?;
    load.wait_for_acked(10_000).await?;
    cluster.agents[0].process().resume()?;
    load.wait_for_acked(10_000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_restarted_while_producing_loses_nothing() -> TestResult {
    let cluster = TestCluster::start_with_own_servers(2, &[])?;
    cluster.create_topic("metadata", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "metadata", PARTITIONS);
    let load = ledger.produce(2000).await?;
    load.wait_for_acked(2000).await?;
    cluster.postgres().restart()?;
    load.wait_for_acked(4000).await?;
    // Longer than a lease: no agent may lose its leases because of it.
    cluster.postgres().stop()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.postgres().start_again()?;
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_restarted_while_producing_loses_nothing() -> TestResult {
    let cluster = TestCluster::start_with_own_servers(2, &[])?;
    cluster.create_topic("objects", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "objects", PARTITIONS);
    let load = ledger.produce(2000).await?;
    load.wait_for_acked(2000).await?;
    cluster.minio().restart()?;
    load.wait_for_acked(4000).await?;
    cluster.minio().stop()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.minio().start_again()?;
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_a_killed_agent_left_behind_are_swept() -> TestResult {
    let settings = [
        ("STREAMHOUSE_MAINTENANCE_INTERVAL", "200ms"),
        ("STREAMHOUSE_OBJECT_GRACE", "1s"),
    ];
    let mut cluster = TestCluster::start(2, &settings)?;
    cluster.create_topic("swept", PARTITIONS).await?;
    let ledger = DeliveryLedger::new(cluster.bootstrap(), "swept", PARTITIONS);
    let load = ledger.produce(4000).await?;
    load.wait_for_acked(4000).await?;
    cluster.agents[0].kill9()?;
    load.wait_for_acked(4000).await?;
    load.finish().await?;
    ledger.check().await?;
    cluster.admin()?.delete_topic("swept").await?;
    // Without the topic nothing is referenced, so any object left in the bucket would be a leak.
    streamhouse_testkit::wait_until("no object with records", Duration::from_secs(90), || {
        Ok(cluster.record_objects()?.is_empty().then_some(()))
    })?;
    Ok(())
}
