//! Clients that reach the cluster by one address only: the command line through a TCP proxy on
//! another port, as `kubectl port-forward` is one, and a workload while leaders change.

use std::time::Duration;

use streamhouse_client::{Client, admin::NewTopic};
use streamhouse_testkit::SilentProxy;
use streamhouse_tests::{DeliveryLedger, TestCluster};

type TestResult = anyhow::Result<()>;

const PARTITIONS: i32 = 8;
const FORWARD: &[(&str, &str)] = &[("STREAMHOUSE_GRPC_FORWARD_LISTEN", "127.0.0.1:0")];

/// Starts a proxy on another port in front of an agent's listener for port-forwards.
fn forward_port(cluster: &TestCluster, agent: usize) -> anyhow::Result<(SilentProxy, String)> {
    let proxy = SilentProxy::start(cluster.agents[agent].listener("forward")?.port())?;
    let bootstrap = format!("localhost:{}", proxy.port());
    Ok((proxy, bootstrap))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_works_through_a_forwarded_port() -> TestResult {
    let cluster = TestCluster::start(3, FORWARD)?;
    let (proxy, bootstrap) = forward_port(&cluster, 0)?;
    let cli = streamhouse_testkit::CliRunner::new(&bootstrap);
    let run = |args: &[&str]| cli.run(args)?.ensure_success();
    run(&["topic", "create", "orders", "--partitions", "12"])?;
    let listed = run(&["cluster"])?.stdout_text();
    assert_eq!(
        listed.matches(&bootstrap).count(),
        3,
        "every agent has this address: {listed}"
    );
    // Records for every partition, so for every leader.
    let lines: String = (0..600).map(|n| format!("key-{n}:value-{n}\n")).collect();
    cli.run_with_input(["produce", "orders", "--key-separator", ":"], lines)?
        .ensure_success()?;
    let read = [
        "consume",
        "orders",
        "--from-beginning",
        "--exit-at-end",
        "-f",
        "%v\n",
    ];
    let read = run(&read)?.stdout_text();
    let mut values: Vec<_> = read.lines().collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 600, "{read}");
    for group in ["billing", "shipping", "search", "mail"] {
        let read = run(&[
            "consume",
            "orders",
            "--group",
            group,
            "--from-beginning",
            "-n",
            "600",
        ])?;
        assert_eq!(read.stdout_text().lines().count(), 600, "{group}");
        let described = run(&["group", "describe", group])?.stdout_text();
        assert!(described.contains("orders"), "{described}");
    }
    let forwarded = cluster.agents[0].metric("streamhouse_agent_forwarded_requests_total")?;
    assert!(forwarded > 0.0);
    drop(proxy);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_through_a_forwarded_port_while_leaders_are_killed_and_drained() -> TestResult {
    let mut cluster = TestCluster::start(3, FORWARD)?;
    let (_proxy, bootstrap) = forward_port(&cluster, 0)?;
    let client = Client::connect(&bootstrap)?;
    client
        .admin()
        .create_topic(NewTopic::new("forwarded", PARTITIONS))
        .await?;
    let wait = Duration::from_secs(30);
    client.admin().wait_for_topic("forwarded", wait).await?;
    let ledger = DeliveryLedger::new(&bootstrap, "forwarded", PARTITIONS);
    let load = ledger.produce(4000).await?;
    load.wait_for_acked(4000).await?;
    cluster.agents[1].kill9()?;
    load.wait_for_acked(10_000).await?;
    cluster.agents[2].drain()?;
    load.wait_for_acked(4000).await?;
    for agent in [1, 2] {
        cluster.agents[agent].start_again()?;
        cluster.agents[agent].wait_ready()?;
    }
    load.wait_for_acked(10_000).await?;
    load.finish().await?;
    ledger.check().await?;
    Ok(())
}
