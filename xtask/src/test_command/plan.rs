//! The stages: what each does, what it needs, and where it runs.

use crate::tools::ToolName;

/// Where a stage runs once everything is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StageLane {
    /// Before all others, one after the other; after a failure of the build, what needs programs
    /// still runs and says what is missing.
    First,
    /// One after the other.
    Main,
    /// One after the other, beside the main lane: what only reads the code, and then what waits for
    /// Kubernetes most of the time.
    Beside,
}

/// A stage of the test command.
#[derive(Debug)]
pub(crate) struct StageSpec {
    pub(crate) name: &'static str,
    /// Lines of the help.
    pub(crate) what: &'static [&'static str],
    pub(crate) lane: StageLane,
    /// Takes only the time that others leave: it reads the code, and nothing in it waits for a
    /// clock.
    pub(crate) nice: bool,
    /// Installed before the first stage, in this terminal: a stage itself has none.
    pub(crate) needs: &'static [ToolName],
    /// What bash runs, with hack/lib.sh sourced. `"$@"` are the arguments of
    /// cargo test.
    pub(crate) command: &'static str,
}

/// What `--quick` chooses.
pub(crate) const QUICK: &[&str] = &["format", "structure", "build", "tests", "operator"];
/// What the stage `tests` tests unless arguments say otherwise: all that `operator` does not.
pub(crate) const TESTED_PACKAGES: &[&str] = &["--workspace", "--exclude", "streamhouse-operator"];
/// What the stage `operator` tests, with the features that its crates have in a build of the
/// workspace, so that they are not compiled again.
pub(crate) const OPERATOR_TESTS: &[&str] = &[
    "--package",
    "streamhouse-operator",
    "--features",
    "streamhouse-core/otlp,streamhouse-testkit/default",
];

/// In the order of the summary. The lanes follow it.
pub(crate) const STAGES: &[StageSpec] = &[
    StageSpec {
        name: "format",
        what: &["cargo fmt --check"],
        lane: StageLane::First,
        nice: false,
        needs: &[],
        command: "cargo fmt --all --check",
    },
    StageSpec {
        name: "structure",
        what: &[
            "cargo xtask structure: sizes, headers, directions of imports, circles, names, links; cargo xtask public-api",
        ],
        lane: StageLane::First,
        nice: false,
        needs: &[],
        command: "cargo xtask structure && cargo xtask public-api",
    },
    StageSpec {
        name: "build",
        what: &["every library, binary, example, test and benchmark"],
        lane: StageLane::First,
        nice: false,
        needs: &[],
        command: "cargo build --release --workspace --all-targets",
    },
    StageSpec {
        name: "lint",
        what: &["clippy; a warning is an error"],
        lane: StageLane::Beside,
        nice: true,
        needs: &[],
        command: "cargo clippy --release --workspace --all-targets -- -D warnings",
    },
    StageSpec {
        name: "docs",
        what: &["rustdoc; a warning is an error"],
        lane: StageLane::Beside,
        nice: true,
        needs: &[],
        command: "RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --release --workspace --no-deps",
    },
    StageSpec {
        name: "dependencies",
        what: &[
            "cargo-deny: licences, banned crates, sources; cargo xtask features: one set of features for every build",
        ],
        lane: StageLane::Beside,
        nice: true,
        needs: &[ToolName::CargoDeny],
        command: "cargo xtask features && \
            cargo deny --all-features check --hide-inclusion-graph -A unused-wrapper bans licenses sources",
    },
    StageSpec {
        name: "observability",
        what: &[
            "hack/check-observability.sh: alert rules and their tests, runbooks, routing examples, the dashboard",
        ],
        lane: StageLane::Beside,
        nice: true,
        needs: &[ToolName::DevServers, ToolName::DashboardPython],
        command: "hack/check-observability.sh",
    },
    StageSpec {
        name: "chart",
        what: &[
            "the operator's chart: helm lint, every way to install it against the schemas of Kubernetes, values that must be",
            "refused, copies, samples; and the images, built without Docker and started",
        ],
        lane: StageLane::Beside,
        nice: true,
        needs: &[ToolName::KubernetesSchemas],
        // The programs before the images, which contain those of target/release.
        command: "hack/check-chart.sh && build_programs && hack/check-images.sh",
    },
    StageSpec {
        name: "tests",
        what: &[
            "unit, property, conformance and whole-system tests, with a real PostgreSQL, a real MinIO, a real",
            "Kubernetes API and a real OpenTelemetry Collector; the operator's are the stage operator",
        ],
        lane: StageLane::Main,
        nice: false,
        needs: &[
            ToolName::TestServers,
            ToolName::Kafka,
            ToolName::KafkaPython,
            ToolName::OtelCollector,
            ToolName::KubernetesApi,
            ToolName::PrometheusOperator,
            ToolName::KubernetesTools,
            ToolName::Minio,
        ],
        // The binaries first, also when this is the only stage: the whole-system tests run them.
        command: "cargo build --release --workspace --all-targets && cargo test --release --no-fail-fast \"$@\"",
    },
    StageSpec {
        name: "operator",
        what: &[
            "the operator's unit and property tests, and those with a real Kubernetes API and the definitions of a real",
            "Prometheus Operator",
        ],
        lane: StageLane::Beside,
        nice: false,
        needs: &[
            ToolName::TestServers,
            ToolName::KubernetesApi,
            ToolName::PrometheusOperator,
            ToolName::KubernetesTools,
            ToolName::Minio,
        ],
        command: "cargo build --release --workspace --all-targets && \
            cargo test --release --no-fail-fast --package streamhouse-operator \
            --features streamhouse-core/otlp,streamhouse-testkit/default",
    },
    StageSpec {
        name: "cluster",
        what: &[
            "hack/kind-up.sh on a real kind cluster of two nodes, as root, in a Docker of its own: the operator by its chart and the",
            "tutorial's commands, and a producer that goes on while agents are scaled, killed, drained, rolled and given other credentials;",
            "and a real Prometheus, set up by the Prometheus Operator, that watches all of it; listeners with an address for each agent, used from",
            "outside, and Kafka clients in pods and outside; users of a cluster with authentication; the metadata by CloudNativePG, backed up and",
            "restored to a moment; before that, the Dockerfile with a compiler that hands out built programs, and docker-compose.yml by Docker",
            "Compose, with an agent on it",
        ],
        lane: StageLane::Beside,
        nice: false,
        needs: &[
            ToolName::KindLab,
            ToolName::DockerCompose,
            ToolName::PrometheusOperator,
            ToolName::KubernetesDiscovery,
            ToolName::Busybox,
            ToolName::Kcat,
            ToolName::KafkaPython,
            ToolName::Words,
            ToolName::DevServers,
            ToolName::Minio,
            ToolName::CloudNativePg,
            ToolName::BarmanPlugin,
            ToolName::Barman,
        ],
        // The programs first, also when this is the only stage, because the images contain them.
        command: "build_programs && cargo xtask kind lab hack/docker-test.sh && cargo xtask kind lab hack/kind-test.sh",
    },
    StageSpec {
        name: "demo",
        what: &["the README's demo, from nothing"],
        lane: StageLane::Main,
        nice: false,
        needs: &[],
        command: "hack/demo.sh",
    },
    StageSpec {
        name: "commands",
        what: &[
            "the commands of the documentation with their output (cargo xtask docs-commands), cargo run of each example and of",
            "the agent, the dev stack and its demos; the dashboard's and the documents' queries and the alert rules on a real run",
        ],
        lane: StageLane::Main,
        nice: false,
        needs: &[ToolName::DevServers, ToolName::Minio],
        command: "cargo xtask commands",
    },
    StageSpec {
        name: "console",
        what: &["the agent's web console in a real headless Chromium, against what the command line says"],
        lane: StageLane::Main,
        nice: false,
        needs: &[ToolName::Browser],
        command: "hack/check-console.sh",
    },
    StageSpec {
        name: "real-input",
        what: &[
            "hack/real-input.sh: a whole dictionary, produced, consumed by a group, compared byte for byte",
        ],
        lane: StageLane::Main,
        nice: false,
        needs: &[ToolName::Words],
        command: "hack/real-input.sh",
    },
    StageSpec {
        name: "kafka",
        what: &[
            "hack/test-kafka.sh --small: kcat, confluent-kafka, kafka-python, aiokafka, franz-go's tests and Kafka's tools against a",
            "real Kafka and against agents, with equal output",
        ],
        lane: StageLane::Main,
        nice: false,
        needs: &[
            ToolName::TestServers,
            ToolName::Minio,
            ToolName::Kafka,
            ToolName::Kcat,
            ToolName::KafkaPython,
            ToolName::FranzGo,
            ToolName::FranzGoClient,
        ],
        command: "hack/test-kafka.sh --small",
    },
];
