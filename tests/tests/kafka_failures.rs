//! An idempotent Kafka producer with many requests in flight, and a consumer group, while agents
//! are killed and drained and while the stores stop. What is acknowledged is stored where the
//! acknowledgement says, and nothing is stored twice.

use std::{collections::BTreeMap, time::Duration};

use streamhouse_testkit::{ChildProcess, wait_until};
use streamhouse_tests::{
    TestCluster,
    scripts::{finish_script, start_script},
};

type TestResult = anyhow::Result<()>;

const RECORDS: usize = 4_000;
const PARTITIONS: i32 = 2;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(180);

/// Starts a command of the script.
fn start_client(cluster: &TestCluster, command: &str, topic: &str) -> anyhow::Result<ChildProcess> {
    let (bootstrap, records) = (cluster.kafka_bootstrap(), RECORDS.to_string());
    let arguments = [command, &bootstrap, topic, &records];
    start_script("tests/kafka_failures.py", command, &arguments)
}

/// Clients that produce and read while something happens.
struct FailureTest {
    cluster: TestCluster,
    topic: &'static str,
    producer: ChildProcess,
    reader: ChildProcess,
}

impl FailureTest {
    async fn start(cluster: TestCluster, topic: &'static str) -> anyhow::Result<Self> {
        cluster.create_topic(topic, PARTITIONS).await?;
        Ok(Self {
            producer: start_client(&cluster, "pipeline", topic)?,
            reader: start_client(&cluster, "read", topic)?,
            cluster,
            topic,
        })
    }

    /// Waits until this many records are stored.
    async fn wait_for_stored(&self, count: i64) -> TestResult {
        let admin = self.cluster.admin()?;
        let waiting = async {
            loop {
                if let Ok(topic) = admin.describe_topic(self.topic).await
                    && topic
                        .partitions
                        .iter()
                        .map(|part| part.high_watermark)
                        .sum::<i64>()
                        >= count
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(CLIENT_TIMEOUT, waiting).await?;
        Ok(())
    }

    /// Waits until both clients have finished, and checks what they found.
    fn check(mut self) -> TestResult {
        let places: Vec<(i32, i64)> =
            serde_json::from_value(finish_script(&mut self.producer, CLIENT_TIMEOUT)?)?;
        let read: BTreeMap<String, usize> =
            serde_json::from_value(finish_script(&mut self.reader, CLIENT_TIMEOUT)?)?;
        let acknowledged = places.iter().enumerate();
        let expected: BTreeMap<String, usize> = acknowledged
            .map(|(number, (partition, offset))| (format!("{partition}-{offset}"), number))
            .collect();
        anyhow::ensure!(expected.len() == RECORDS, "two records have one place");
        anyhow::ensure!(read == expected, "what is stored is not what was acknowledged");
        for partition in 0..PARTITIONS {
            let mut offsets: Vec<i64> = places
                .iter()
                .filter(|place| place.0 == partition)
                .map(|place| place.1)
                .collect();
            offsets.sort_unstable();
            let count = i64::try_from(offsets.len())?;
            anyhow::ensure!(
                offsets == (0..count).collect::<Vec<_>>(),
                "nothing else is stored"
            );
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_killed_and_drained_lose_and_double_nothing_of_a_kafka_client() -> TestResult {
    let mut test = FailureTest::start(TestCluster::start(2, &[])?, "killed").await?;
    test.wait_for_stored(500).await?;
    test.cluster.agents[0].kill9()?;
    test.wait_for_stored(1_000).await?;
    test.cluster.agents[0].start_again()?;
    test.cluster.agents[0].wait_ready()?;
    test.wait_for_stored(1_500).await?;
    test.cluster.agents[1].drain()?;
    test.wait_for_stored(2_500).await?;
    test.cluster.agents[1].start_again()?;
    test.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_stop_lose_and_double_nothing_of_a_kafka_client() -> TestResult {
    let test = FailureTest::start(TestCluster::start_with_own_servers(2, &[])?, "stopped").await?;
    test.wait_for_stored(500).await?;
    test.cluster.minio().pause()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    test.cluster.minio().resume()?;
    test.wait_for_stored(1_000).await?;
    test.cluster.postgres().stop()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    test.cluster.postgres().start_again()?;
    test.wait_for_stored(2_000).await?;
    test.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_within_its_requests_leaves_the_agent_as_it_was() -> TestResult {
    let cluster = TestCluster::start(1, &[])?;
    let mut test = FailureTest::start(cluster, "gone").await?;
    test.wait_for_stored(500).await?;
    test.producer.kill9()?;
    test.reader.kill9()?;
    let agent = &test.cluster.agents[0];
    wait_until("its connections have ended", CLIENT_TIMEOUT, || {
        let open = agent.metric("streamhouse_agent_kafka_connections")?;
        Ok((open == 0.0).then_some(()))
    })?;
    let queued = agent.metric("streamhouse_agent_queue_bytes")?;
    anyhow::ensure!(queued == 0.0, "{queued} bytes are held");
    test.producer = start_client(&test.cluster, "pipeline", "gone")?;
    let places = finish_script(&mut test.producer, CLIENT_TIMEOUT)?;
    anyhow::ensure!(places.as_array().is_some_and(|places| places.len() == RECORDS));
    Ok(())
}
