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
        let broker = std::thread::spawn(KafkaBroker::start);
        // As a broker does: topics that clients ask for are created.
        let settings = [("STREAMHOUSE_KAFKA_AUTO_CREATE_PARTITIONS", "1")];
        let cluster = TestCluster::start(2, &settings)?;
        let broker = broker
            .join()
            .map_err(|_| anyhow::anyhow!("the start of Kafka panicked"))??;
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
