//! Apache Kafka and clients of it, which tests run against Kafka and against agents.

use crate::tools::spec::{
    AptPackage, CachedTool, DigestInput, FolderName, GoModule, GoTests, MavenPackages, PackageEvidence,
    ToolContent, ToolSource, ToolSpec, ToolVariable,
};

/// With the compiler: a program of one source file is started without a build.
const JAVA: AptPackage = AptPackage::with_programs(
    &["default-jdk-headless"],
    &[PackageEvidence::Programs(&["java", "javac"])],
);

const MAVEN: AptPackage = AptPackage::with_programs(&["maven"], &[PackageEvidence::Programs(&["mvn"])]);

pub(super) const KAFKA: ToolSpec = ToolSpec {
    name: "kafka",
    what: "Apache Kafka: a broker, its tools, Connect, MirrorMaker and Streams",
    packages: &[JAVA, MAVEN],
    cached: Some(CachedTool {
        title: "Apache Kafka {version}",
        takes: "about half a minute",
        folder: FolderName::VersionAndDigest(
            "kafka",
            "KAFKA_VERSION",
            &[
                DigestInput::Files("hack/kafka/pom.xml"),
                DigestInput::Files("hack/kafka/jars.sha256"),
            ],
        ),
        contents: &[ToolContent::Folder("lib")],
        source: ToolSource::MavenPackages(MavenPackages {
            folder: "hack/kafka",
            pin: ("kafka.version", "KAFKA_VERSION"),
        }),
    }),
    variables: &[ToolVariable::Folder("STREAMHOUSE_KAFKA")],
    substitute: Some("STREAMHOUSE_KAFKA"),
    ..ToolSpec::EMPTY
};

pub(super) const KCAT: ToolSpec = ToolSpec {
    name: "kcat",
    what: "kcat, a command line of librdkafka",
    packages: &[AptPackage::with_programs(
        &["kcat"],
        &[PackageEvidence::Programs(&["kcat"])],
    )],
    ..ToolSpec::EMPTY
};

pub(super) const FRANZ_GO: ToolSpec = ToolSpec {
    name: "franz-go",
    what: "the tests of the Kafka client franz-go, which run against a cluster",
    cached: Some(CachedTool {
        title: "the tests of franz-go {version}",
        takes: "about a minute",
        folder: FolderName::VersionAndDigest(
            "franz-go",
            "FRANZ_GO_VERSION",
            &[DigestInput::Files("hack/franz-go/go.*")],
        ),
        contents: &[ToolContent::Program("kgo.test")],
        source: ToolSource::GoTests(GoTests {
            folder: "hack/franz-go",
            pin: ("github.com/twmb/franz-go", "FRANZ_GO_VERSION"),
            package: "github.com/twmb/franz-go/pkg/kgo",
            program: "kgo.test",
        }),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_FRANZ_GO", "kgo.test")],
    substitute: Some("STREAMHOUSE_FRANZ_GO"),
    ..ToolSpec::EMPTY
};

pub(super) const FRANZ_GO_CLIENT: ToolSpec = ToolSpec {
    name: "franz-go-client",
    what: "a client with franz-go, which authenticates to a cluster",
    cached: Some(CachedTool {
        title: "a client with franz-go {version}",
        takes: "a few seconds",
        folder: FolderName::VersionAndDigest(
            "franz-go-client",
            "FRANZ_GO_VERSION",
            &[
                DigestInput::Files("hack/franz-go/go.*"),
                DigestInput::Files("hack/franz-go/sasl-client/main.go"),
            ],
        ),
        contents: &[ToolContent::Program("sasl-client")],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/franz-go",
            pin: Some(("github.com/twmb/franz-go", "FRANZ_GO_VERSION")),
            packages: &["./sasl-client"],
            link: &[],
            then: None,
        }),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_FRANZ_GO_CLIENT", "sasl-client")],
    substitute: Some("STREAMHOUSE_FRANZ_GO_CLIENT"),
    ..ToolSpec::EMPTY
};
