//! The names of the tools: what stages and other tools ask for.

/// A tool of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ToolName {
    Python,
    Postgresql,
    TestServers,
    DevServers,
    Minio,
    OtelCollector,
    CargoDeny,
    Words,
    Busybox,
    KafkaPython,
    DashboardPython,
    Browser,
    Docker,
    DockerCompose,
    Kind,
    KindNodeImage,
    LocalPathProvisioner,
    KindLab,
    KubernetesApi,
    KubernetesNode,
    KubernetesPause,
    KubernetesTools,
    KubernetesSchemas,
    KubernetesDiscovery,
    PrometheusOperator,
    CloudNativePg,
    BarmanPlugin,
    Barman,
}
