//! The scenarios: what each shows, and how it runs.

use crate::{
    authentication,
    comparison::{self, ScenarioOutput},
    connect, failover, franz_go, java_load, kcat, mirror, protocols, python_clients, streams,
    subject::{TestSubject, TestSubjects},
    tools,
};

/// Which runs have a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScenarioSize {
    /// Every run of the tests.
    Small,
    /// `hack/test-kafka.sh` only.
    Whole,
}

/// How a scenario runs.
pub(crate) enum ScenarioRun {
    /// On Kafka and on agents at the same time; what it returns must be equal.
    Compared(fn(&TestSubject) -> anyhow::Result<ScenarioOutput>),
    /// On both together, or on a cluster of its own; it checks its result itself.
    Checked(fn(&TestSubjects) -> anyhow::Result<()>),
}

impl ScenarioRun {
    pub(crate) fn run(&self, subjects: &TestSubjects) -> anyhow::Result<()> {
        match self {
            ScenarioRun::Compared(run) => comparison::compare(subjects, *run),
            ScenarioRun::Checked(run) => run(subjects),
        }
    }
}

/// Something that clients do.
pub(crate) struct ClientScenario {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) size: ScenarioSize,
    pub(crate) run: ScenarioRun,
}

const fn compared(
    name: &'static str,
    size: ScenarioSize,
    run: fn(&TestSubject) -> anyhow::Result<ScenarioOutput>,
    what: &'static str,
) -> ClientScenario {
    let run = ScenarioRun::Compared(run);
    ClientScenario {
        name,
        what,
        size,
        run,
    }
}

const fn checked(
    name: &'static str,
    size: ScenarioSize,
    run: fn(&TestSubjects) -> anyhow::Result<()>,
    what: &'static str,
) -> ClientScenario {
    let run = ScenarioRun::Checked(run);
    ClientScenario {
        name,
        what,
        size,
        run,
    }
}

use ScenarioSize::{Small, Whole};

/// In the order in which they run.
#[rustfmt::skip]
pub(crate) const SCENARIOS: &[ClientScenario] = &[
    compared("kcat", Small, kcat::records, "keys, headers, offsets, metadata, a group"),
    compared("kcat-codecs", Whole, kcat::codecs, "every codec, with and without idempotence"),
    compared("confluent-codecs", Small, python_clients::confluent_codecs, "idempotent producers with every codec, read back as written"),
    compared("confluent-groups", Small, python_clients::confluent_groups, "range, roundrobin and cooperative-sticky; members come and go"),
    compared("confluent-static", Small, python_clients::confluent_static, "static members: back without a rebalance, fenced"),
    compared("confluent-topics", Small, python_clients::confluent_topics, "topics created, refused, grown, deleted"),
    compared("confluent-configs", Small, python_clients::confluent_configs, "settings read and altered"),
    compared("confluent-group-admin", Small, python_clients::confluent_group_admin, "groups listed, described, altered, deleted"),
    compared("confluent-offsets", Small, python_clients::confluent_offsets, "offsets by place and time, deleted records"),
    compared("confluent-refusals", Small, python_clients::confluent_refusals, "what brokers refuse, and with which errors"),
    compared("kafka-python-records", Small, python_clients::kafka_python_records, "every codec, groups, offsets"),
    compared("kafka-python-admin", Whole, python_clients::kafka_python_admin, "the life of a topic and of a group"),
    compared("aiokafka-records", Small, python_clients::aiokafka_records, "every codec, a group of two"),
    compared("aiokafka-admin", Whole, python_clients::aiokafka_admin, "the life of a topic, places in it"),
    compared("aiokafka-acks", Small, python_clients::aiokafka_acks, "each number of acknowledgements"),
    compared("java-topics", Small, tools::topics, "kafka-topics, kafka-configs, kafka-get-offsets, the consoles"),
    compared("java-groups", Small, tools::groups, "kafka-consumer-groups, kafka-delete-records"),
    compared("java-verifiable", Small, java_load::verifiable, "VerifiableProducer, and a group of VerifiableConsumers"),
    compared("java-performance", Whole, java_load::performance, "ProducerPerformance, ConsumerPerformance, EndToEndLatency"),
    compared("franz-go-group", Small, franz_go::group, "franz-go's own test of groups"),
    compared("franz-go", Whole, franz_go::all, "franz-go's own tests of groups, consuming, and past issues"),
    compared("connect", Whole, connect::files, "Connect in distributed mode: a file to a topic to a file"),
    compared("streams", Whole, streams::word_count, "a word count of Streams, restarted"),
    checked("mirror", Whole, mirror::there_and_back, "MirrorMaker 2 from Kafka to agents and back"),
    checked("protocols", Small, protocols::both_ways, "records of gRPC read by Kafka clients and the other way round"),
    checked("authentication", Small, authentication::matrix, "each client with each mechanism, on each listener: right, wrong, unknown, changed"),
    checked("failover-confluent", Whole, failover::confluent, "agents killed and drained under confluent-kafka"),
    checked("failover-java", Whole, failover::java, "agents killed and drained under VerifiableProducer and -Consumer"),
];
