//! Groups of the consumer protocol (KIP-848) on real agents: request by request, across the death
//! of their coordinator, and with members of librdkafka that join, leave and die.

mod members;
mod requests;

use std::time::Duration;

use anyhow::Context as _;
use streamhouse_core::kafka::{ConsumerGroupDescribeGroup, ConsumerGroupDescribeRequest};
use streamhouse_tests::{TestCluster, kafka::KafkaConnection};

type TestResult = anyhow::Result<()>;

const GROUP: &str = "readers";
const TOPIC: &str = "orders";
const NONE: i16 = 0;
const GROUP_ID_NOT_FOUND: i16 = 69;

async fn describe(connection: &mut KafkaConnection) -> anyhow::Result<ConsumerGroupDescribeGroup> {
    let request = ConsumerGroupDescribeRequest {
        group_ids: vec![GROUP.to_owned()],
        ..ConsumerGroupDescribeRequest::default()
    };
    let response = connection.call(&request, 1).await?;
    response.groups.into_iter().next().context("a group")
}

/// A cluster of agents in development mode, with which members rebalance and expire sooner.
struct QuickCluster {
    cluster: TestCluster,
    /// The data directories, which hold nothing but a lock each.
    _folder: tempfile::TempDir,
}

impl QuickCluster {
    fn start(agents: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut cluster = TestCluster::start(0, &[])?;
        for number in 0..agents {
            let data = folder.path().join(number.to_string());
            let mut agent = cluster.agent_builder().dev(&data).spawn()?;
            agent.wait_ready()?;
            cluster.agents.push(agent);
        }
        Ok(Self {
            cluster,
            _folder: folder,
        })
    }
}

/// Connects to the group's coordinator.
async fn connect_to_coordinator(cluster: &TestCluster) -> anyhow::Result<KafkaConnection> {
    let searching = async {
        loop {
            for agent in &cluster.agents {
                let address = agent.kafka().to_string();
                let Ok(mut connection) = KafkaConnection::connect(&address).await else {
                    continue;
                };
                if let Ok(Some(coordinator)) = connection.coordinator(GROUP).await
                    && let Ok(mut connection) = KafkaConnection::connect(&coordinator).await
                    && describe(&mut connection)
                        .await
                        .is_ok_and(|group| matches!(group.error_code, NONE | GROUP_ID_NOT_FOUND))
                {
                    return connection;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(60), searching).await?)
}
