//! The two clusters that clients are run against.

use streamhouse_testkit::KafkaBroker;
use streamhouse_tests::TestCluster;

/// A cluster, as clients know it.
#[derive(Debug, Clone)]
pub(crate) struct TestSubject {
    /// Addresses for Kafka clients.
    pub(crate) bootstrap: String,
}

/// A broker of Kafka, and two agents on a PostgreSQL and a MinIO.
#[derive(Debug)]
pub(crate) struct TestSubjects {
    pub(crate) kafka: TestSubject,
    pub(crate) agents: TestSubject,
    pub(crate) cluster: TestCluster,
    _broker: KafkaBroker,
}

impl TestSubjects {
    /// Starts both.
    pub(crate) fn start() -> anyhow::Result<TestSubjects> {
        // As a broker does: topics that clients ask for are created.
        let settings = [("STREAMHOUSE_KAFKA_AUTO_CREATE_PARTITIONS", "1")];
        let (broker, cluster) = std::thread::scope(|scope| {
            let broker = scope.spawn(KafkaBroker::start);
            let cluster = TestCluster::start(2, &settings);
            (broker.join(), cluster)
        });
        let broker = broker.map_err(|_| anyhow::anyhow!("the start of Kafka panicked"))??;
        let cluster = cluster?;
        Ok(TestSubjects {
            kafka: TestSubject {
                bootstrap: broker.bootstrap(),
            },
            agents: TestSubject {
                bootstrap: cluster.kafka_bootstrap(),
            },
            cluster,
            _broker: broker,
        })
    }
}
