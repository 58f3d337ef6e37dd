//! The two systems: which servers they have, and how clients reach them.

use streamhouse_testkit::KafkaBroker;
use streamhouse_tests::TestCluster;

use super::processes;

/// The name of Kafka in tables.
pub(crate) const KAFKA: &str = "Kafka 4.3.1";
/// The name of StreamHouse in tables, with its default settings but for the flush interval.
pub(crate) const STREAMHOUSE: &str = "StreamHouse";
/// The name of StreamHouse in tables with a cache that holds what was produced last, as the page
/// cache of the broker does.
pub(crate) const LARGE_CACHE: &str = "StreamHouse, 2 GiB of cache";

/// Servers that are measured.
pub(crate) trait MeasuredSystem {
    /// Returns the name in tables.
    fn name(&self) -> &'static str;
    /// Returns the address for clients.
    fn bootstrap(&self) -> String;
    /// Returns the name, among [`processes`](Self::processes), of the server that clients talk to.
    fn server(&self) -> &'static str;
    /// Returns the processes of the servers, by name.
    ///
    /// # Errors
    ///
    /// Fails if the processes cannot be listed.
    fn processes(&self) -> anyhow::Result<Vec<(&'static str, Vec<u32>)>>;
}

/// A Kafka broker alone.
#[derive(Debug)]
pub(crate) struct KafkaSystem {
    broker: KafkaBroker,
    process: u32,
}

impl KafkaSystem {
    pub(crate) fn start() -> anyhow::Result<Self> {
        // As long as an agent waits for further members of a new group; Kafka's default is 3 s.
        let mut broker = KafkaBroker::start_with(&[("group.initial.rebalance.delay.ms", "500")])?;
        let process = broker.process().id();
        Ok(Self { broker, process })
    }
}

impl MeasuredSystem for KafkaSystem {
    fn name(&self) -> &'static str {
        KAFKA
    }

    fn bootstrap(&self) -> String {
        self.broker.bootstrap()
    }

    fn server(&self) -> &'static str {
        "broker"
    }

    fn processes(&self) -> anyhow::Result<Vec<(&'static str, Vec<u32>)>> {
        Ok(vec![(self.server(), vec![self.process])])
    }
}

/// An agent. All of a benchmark share one PostgreSQL and one MinIO.
#[derive(Debug)]
pub(crate) struct StreamHouseSystem {
    name: &'static str,
    cluster: TestCluster,
    agent: u32,
}

impl StreamHouseSystem {
    /// Starts one under this name, with a cache of this size if one is named.
    pub(crate) fn start(name: &'static str, cache: Option<&str>) -> anyhow::Result<Self> {
        let mut settings = vec![("STREAMHOUSE_FLUSH_INTERVAL", "5ms")];
        settings.extend(cache.map(|size| ("STREAMHOUSE_CACHE_MEMORY", size)));
        let mut cluster = TestCluster::start(1, &settings)?;
        let agent = cluster.agents[0].process().id();
        Ok(Self { name, cluster, agent })
    }
}

impl MeasuredSystem for StreamHouseSystem {
    fn name(&self) -> &'static str {
        self.name
    }

    fn bootstrap(&self) -> String {
        self.cluster.kafka_bootstrap()
    }

    fn server(&self) -> &'static str {
        "agent"
    }

    fn processes(&self) -> anyhow::Result<Vec<(&'static str, Vec<u32>)>> {
        // Each time anew: PostgreSQL has a process for each connection.
        Ok(vec![
            (self.server(), vec![self.agent]),
            ("minio", processes::descendants("minio")?),
            ("postgres", processes::descendants("postgres")?),
        ])
    }
}
