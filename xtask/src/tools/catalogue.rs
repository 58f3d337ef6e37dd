//! The tools that can be installed.
//!
//! A tool is a name in `name`, a line here, and a [`ToolSpec`] in a module below. Used by the
//! installer, and by the test command, whose stages name the tools that they need.

mod cloudnative_pg;
mod kafka;
mod kind;
mod kubernetes;
mod programs;
mod python;
mod servers;

use super::name::ToolName;
use super::spec::ToolSpec;

/// Gives each tool its specification. A name without one does not compile.
macro_rules! catalogue {
    ($($tool:ident => $spec:path,)*) => {
        impl ToolName {
            /// In the order of the list.
            pub(crate) const ALL: &'static [ToolName] = &[$(ToolName::$tool,)*];

            /// Returns what the tool is.
            pub(crate) fn spec(self) -> &'static ToolSpec {
                match self {
                    $(ToolName::$tool => &$spec,)*
                }
            }
        }
    };
}

catalogue! {
    Python => servers::PYTHON,
    Postgresql => servers::POSTGRESQL,
    TestServers => servers::TEST_SERVERS,
    DevServers => servers::DEV_SERVERS,
    Minio => programs::MINIO,
    OtelCollector => programs::OTEL_COLLECTOR,
    CargoDeny => programs::CARGO_DENY,
    Words => programs::WORDS,
    Busybox => programs::BUSYBOX,
    Kafka => kafka::KAFKA,
    Kcat => kafka::KCAT,
    FranzGo => kafka::FRANZ_GO,
    FranzGoClient => kafka::FRANZ_GO_CLIENT,
    KafkaPython => python::KAFKA,
    DashboardPython => python::DASHBOARD,
    Browser => python::BROWSER,
    Docker => kind::DOCKER,
    DockerCompose => kind::DOCKER_COMPOSE,
    Kind => kind::KIND,
    KindNodeImage => kind::NODE_IMAGE,
    LocalPathProvisioner => kind::PROVISIONER,
    KindLab => kind::LAB,
    KubernetesApi => kubernetes::API,
    KubernetesNode => kubernetes::NODE,
    KubernetesPause => kubernetes::PAUSE,
    KubernetesTools => kubernetes::TOOLS,
    KubernetesSchemas => kubernetes::SCHEMAS,
    KubernetesDiscovery => kubernetes::DISCOVERY,
    PrometheusOperator => kubernetes::PROMETHEUS_OPERATOR,
    CloudNativePg => cloudnative_pg::OPERATOR,
    BarmanPlugin => cloudnative_pg::PLUGIN,
    Barman => cloudnative_pg::BARMAN,
}

impl ToolName {
    /// Returns the tool that `cargo xtask tools` calls so.
    pub(crate) fn parse(name: &str) -> Option<ToolName> {
        ToolName::ALL
            .iter()
            .copied()
            .find(|tool| tool.spec().name == name)
    }
}
