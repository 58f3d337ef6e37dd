//! The programs of a real Kubernetes, for tests and for the nodes of kind.
//!
//! Kubernetes and related tools are built from source, once per version, from the Go modules in
//! hack/kubernetes; the etcd of tests is Debian's package, which is not started as a service of the
//! machine.

use crate::tools::name::ToolName;
use crate::tools::spec::{
    AptPackage, BuildSteps, CachedTool, DigestInput, FolderName, GoModule, LinkValue, PackageEvidence,
    ToolContent, ToolSource, ToolSpec, ToolVariable,
};

const FOLDER: FolderName = FolderName::Version("kubernetes", "KUBERNETES_VERSION");
const VARIABLES: &[ToolVariable] = &[ToolVariable::Folder("KUBERNETES_FOLDER")];

/// Programs of hack/kubernetes that know their version.
const fn programs(packages: &'static [&'static str]) -> ToolSource {
    ToolSource::GoModule(GoModule {
        folder: "hack/kubernetes",
        pin: Some(("k8s.io/kubernetes", "KUBERNETES_VERSION")),
        packages,
        link: &[
            (
                "k8s.io/component-base/version.gitVersion",
                LinkValue::Version("KUBERNETES_VERSION"),
            ),
            (
                "k8s.io/component-base/version.gitMajor",
                LinkValue::Major("KUBERNETES_VERSION"),
            ),
            (
                "k8s.io/component-base/version.gitMinor",
                LinkValue::Minor("KUBERNETES_VERSION"),
            ),
        ],
        then: None,
    })
}

pub(super) const API: ToolSpec = ToolSpec {
    name: "kubernetes-api",
    what: "etcd, kube-apiserver, kube-controller-manager and kubectl, for the tests of the operator",
    packages: &[
        AptPackage::with_programs(&["etcd-server"], &[PackageEvidence::Programs(&["etcd"])])
            .without_service("etcd"),
    ],
    cached: Some(CachedTool {
        title: "the API server of Kubernetes {version}",
        takes: "about 6 minutes",
        folder: FOLDER,
        contents: &[
            ToolContent::Program("kube-apiserver"),
            ToolContent::Program("kubectl"),
            ToolContent::Program("kube-controller-manager"),
        ],
        source: programs(&[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kubectl",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ]),
    }),
    variables: VARIABLES,
    ..ToolSpec::EMPTY
};

pub(super) const NODE: ToolSpec = ToolSpec {
    name: "kubernetes-node",
    what: "kubelet, kube-proxy, kube-scheduler and kubeadm, which a node of kind is made of",
    needs: &[ToolName::KubernetesApi],
    cached: Some(CachedTool {
        title: "the node of Kubernetes {version}",
        takes: "about 2 minutes",
        folder: FOLDER,
        contents: &[
            ToolContent::Program("kube-scheduler"),
            ToolContent::Program("kubelet"),
            ToolContent::Program("kube-proxy"),
            ToolContent::Program("kubeadm"),
        ],
        source: programs(&[
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kube-proxy",
            "k8s.io/kubernetes/cmd/kubeadm",
        ]),
    }),
    variables: VARIABLES,
    ..ToolSpec::EMPTY
};

pub(super) const PAUSE: ToolSpec = ToolSpec {
    name: "kubernetes-pause",
    what: "Kubernetes' pause program, the sandbox of every pod",
    cached: Some(CachedTool {
        title: "pause of Kubernetes {version}",
        takes: "a moment",
        folder: FOLDER,
        contents: &[ToolContent::Program("pause")],
        source: ToolSource::Steps(BuildSteps::KubernetesPause),
    }),
    variables: VARIABLES,
    ..ToolSpec::EMPTY
};

/// Their versions are in a go.mod, so the folder's name has a digest of the build inputs.
pub(super) const TOOLS: ToolSpec = ToolSpec {
    name: "kubernetes-tools",
    what: "helm, kubeconform, controller-gen and CoreDNS",
    cached: Some(CachedTool {
        title: "helm, kubeconform, controller-gen and CoreDNS",
        takes: "about 3 minutes",
        folder: FolderName::Digest(
            "kubernetes-tools",
            &[
                DigestInput::Files("hack/kubernetes/tools/go.*"),
                DigestInput::Files("hack/kubernetes/tools/*/*.go"),
            ],
        ),
        contents: &[
            ToolContent::Program("helm"),
            ToolContent::Program("kubeconform"),
            ToolContent::Program("controller-gen"),
            ToolContent::Program("coredns"),
        ],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/kubernetes/tools",
            pin: None,
            packages: &[
                "helm.sh/helm/v3/cmd/helm",
                "github.com/yannh/kubeconform/cmd/kubeconform",
                "sigs.k8s.io/controller-tools/cmd/controller-gen",
                "./coredns",
            ],
            link: &[],
            then: None,
        }),
    }),
    variables: &[
        ToolVariable::Folder("KUBERNETES_TOOLS_FOLDER"),
        ToolVariable::Path("STREAMHOUSE_HELM", "helm"),
    ],
    ..ToolSpec::EMPTY
};

/// The program, and the definitions of its resources in the folder `crds` beside it.
pub(super) const PROMETHEUS_OPERATOR: ToolSpec = ToolSpec {
    name: "prometheus-operator",
    what: "the Prometheus Operator and its resource definitions",
    needs: &[ToolName::KubernetesTools],
    cached: Some(CachedTool {
        title: "the Prometheus Operator {version} and its resource definitions",
        takes: "about 2 minutes",
        folder: FolderName::Version("prometheus-operator", "PROMETHEUS_OPERATOR_VERSION"),
        contents: &[ToolContent::Program("operator"), ToolContent::Folder("crds")],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/kubernetes/monitoring",
            pin: Some((
                "github.com/prometheus-operator/prometheus-operator",
                "PROMETHEUS_OPERATOR_VERSION",
            )),
            packages: &["github.com/prometheus-operator/prometheus-operator/cmd/operator"],
            link: &[(
                "github.com/prometheus/common/version.Version",
                LinkValue::VersionWithoutV("PROMETHEUS_OPERATOR_VERSION"),
            )],
            then: Some(BuildSteps::MonitoringDefinitions),
        }),
    }),
    variables: &[ToolVariable::Folder("PROMETHEUS_OPERATOR_FOLDER")],
    ..ToolSpec::EMPTY
};

/// A program made from Prometheus' package for discovery, which Debian's Prometheus lacks.
pub(super) const DISCOVERY: ToolSpec = ToolSpec {
    name: "kubernetes-discovery",
    what: "how Prometheus finds its targets in Kubernetes",
    cached: Some(CachedTool {
        title: "the discovery of Prometheus' targets in Kubernetes",
        takes: "about a minute",
        folder: FolderName::Digest(
            "kubernetes-discovery",
            &[DigestInput::Files("hack/kubernetes/discovery/*")],
        ),
        contents: &[ToolContent::Program("discovery")],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/kubernetes/discovery",
            pin: None,
            packages: &["."],
            link: &[],
            then: None,
        }),
    }),
    variables: &[ToolVariable::Folder("KUBERNETES_DISCOVERY_FOLDER")],
    ..ToolSpec::EMPTY
};

pub(super) const SCHEMAS: ToolSpec = ToolSpec {
    name: "kubernetes-schemas",
    what: "JSON schemas of Kubernetes' kinds, of the Prometheus Operator's and of ours",
    needs: &[
        ToolName::KubernetesApi,
        ToolName::PrometheusOperator,
        ToolName::Python,
    ],
    cached: Some(CachedTool {
        title: "the JSON schemas of Kubernetes",
        takes: "a few seconds",
        folder: FolderName::Digest(
            "kubernetes-schemas",
            &[
                DigestInput::Files("hack/kubernetes/schemas.py"),
                DigestInput::Files("hack/versions.sh"),
                DigestInput::ToolFiles(ToolName::PrometheusOperator, "crds/*_servicemonitors.yaml"),
                DigestInput::ToolFiles(ToolName::PrometheusOperator, "crds/*_prometheusrules.yaml"),
                DigestInput::Files("crds/*.yaml"),
            ],
        ),
        contents: &[ToolContent::File("_definitions.json")],
        source: ToolSource::Steps(BuildSteps::KubernetesSchemas),
    }),
    variables: &[ToolVariable::Folder("SCHEMAS")],
    ..ToolSpec::EMPTY
};
