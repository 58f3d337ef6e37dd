//! kind, the image of its nodes, and the Docker that runs them: what a cluster needs where no image
//! can be pulled.

use super::servers::{IPROUTE2, UTIL_LINUX};
use crate::tools::name::ToolName;
use crate::tools::spec::{
    AptPackage, BuildSteps, CachedTool, DigestInput, FolderName, GoModule, LinkValue, PackageEvidence,
    ToolContent, ToolSource, ToolSpec, ToolVariable,
};

/// The user's own Docker is as good, if dockerd is among it.
pub(super) const DOCKER: ToolSpec = ToolSpec {
    name: "docker",
    what: "dockerd and the docker command, whose service stays switched off",
    packages: &[
        AptPackage::with_programs(
            &["docker.io"],
            &[PackageEvidence::Programs(&["dockerd", "docker", "runc"])],
        )
        .without_service("docker"),
        AptPackage::with_programs(&["iptables"], &[PackageEvidence::Programs(&["iptables"])]),
        AptPackage::with_programs(&["libcap2-bin"], &[PackageEvidence::Programs(&["capsh"])]),
        AptPackage::with_programs(&["jq"], &[PackageEvidence::Programs(&["jq"])]),
        AptPackage::with_programs(&["mount"], &[PackageEvidence::Programs(&["mount", "umount"])]),
        IPROUTE2,
        UTIL_LINUX,
    ],
    ..ToolSpec::EMPTY
};

/// Debian packages none. The docker command finds it by a link in a folder of its plugins.
pub(super) const DOCKER_COMPOSE: ToolSpec = ToolSpec {
    name: "docker-compose",
    what: "Docker Compose, a plugin of the docker command",
    needs: &[ToolName::Docker],
    cached: Some(CachedTool {
        title: "Docker Compose {version}",
        takes: "about 3 minutes",
        folder: FolderName::VersionAndDigest(
            "docker-compose",
            "DOCKER_COMPOSE_VERSION",
            &[DigestInput::Files("hack/docker-compose/go.*")],
        ),
        // The program of the package github.com/docker/compose/v2/cmd is cmd.
        contents: &[ToolContent::Program("cmd")],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/docker-compose",
            pin: Some(("github.com/docker/compose/v2", "DOCKER_COMPOSE_VERSION")),
            packages: &["github.com/docker/compose/v2/cmd"],
            link: &[(
                "github.com/docker/compose/v2/internal.Version",
                LinkValue::Version("DOCKER_COMPOSE_VERSION"),
            )],
            then: None,
        }),
    }),
    variables: &[ToolVariable::Path("STREAMHOUSE_DOCKER_COMPOSE", "cmd")],
    substitute: Some("STREAMHOUSE_DOCKER_COMPOSE"),
    ..ToolSpec::EMPTY
};

/// Their versions are in a go.mod, so the folder's name has a digest of the build inputs.
pub(super) const KIND: ToolSpec = ToolSpec {
    name: "kind",
    what: "kind, and what its nodes have beside Kubernetes: etcd and crictl",
    cached: Some(CachedTool {
        title: "kind, etcd and crictl",
        takes: "about a minute",
        folder: FolderName::Digest("kind", &[DigestInput::Files("hack/kubernetes/kind/go.*")]),
        contents: &[
            ToolContent::Program("kind"),
            // The program of the module go.etcd.io/etcd/server/v3 is etcd.
            ToolContent::Program("server"),
            ToolContent::Program("crictl"),
        ],
        source: ToolSource::GoModule(GoModule {
            folder: "hack/kubernetes/kind",
            pin: None,
            packages: &[
                "sigs.k8s.io/kind",
                "go.etcd.io/etcd/server/v3",
                "sigs.k8s.io/cri-tools/cmd/crictl",
            ],
            link: &[],
            then: None,
        }),
    }),
    variables: &[ToolVariable::Folder("KIND_FOLDER")],
    ..ToolSpec::EMPTY
};

/// Its imports keep it out of a module with others: two spellings of one path.
pub(super) const PROVISIONER: ToolSpec = ToolSpec {
    name: "local-path-provisioner",
    what: "what makes volumes of folders of kind's nodes",
    cached: Some(CachedTool {
        title: "the local-path provisioner {version}",
        takes: "about a minute",
        folder: FolderName::Version("local-path-provisioner", "LOCAL_PATH_PROVISIONER_VERSION"),
        contents: &[ToolContent::Program("local-path-provisioner")],
        source: ToolSource::GoInstall(
            "github.com/rancher/local-path-provisioner",
            "LOCAL_PATH_PROVISIONER_VERSION",
        ),
    }),
    variables: &[ToolVariable::Path(
        "LOCAL_PATH_PROVISIONER",
        "local-path-provisioner",
    )],
    ..ToolSpec::EMPTY
};

/// A node image like kind's own, for machines that cannot pull that.
pub(super) const NODE_IMAGE: ToolSpec = ToolSpec {
    name: "kind-node-image",
    what: "the image of kind's nodes, made of Debian's packages and of Kubernetes from source; needs root",
    needs: &[
        ToolName::KubernetesApi,
        ToolName::KubernetesNode,
        ToolName::KubernetesPause,
        ToolName::KubernetesTools,
        ToolName::Kind,
        ToolName::LocalPathProvisioner,
        ToolName::Busybox,
        ToolName::Python,
    ],
    packages: &[AptPackage::with_programs(
        &["debootstrap", "debian-archive-keyring"],
        &[PackageEvidence::Programs(&["debootstrap"])],
    )],
    cached: Some(CachedTool {
        title: "the image of kind's nodes, Kubernetes {version}",
        takes: "about 2 minutes",
        folder: FolderName::VersionAndDigest(
            "kind-node-image",
            "KUBERNETES_VERSION",
            &[
                DigestInput::Files("hack/kind/node-image.sh"),
                DigestInput::Files("hack/kind/node/*"),
                DigestInput::Files("hack/images/image.py"),
                DigestInput::Files("hack/versions.sh"),
                DigestInput::Files("hack/kubernetes/go.*"),
                DigestInput::Files("hack/kubernetes/kind/go.*"),
                DigestInput::Files("hack/kubernetes/tools/go.*"),
                DigestInput::Files("hack/kubernetes/tools/*/*.go"),
            ],
        ),
        contents: &[ToolContent::File("node.tar")],
        source: ToolSource::Steps(BuildSteps::KindNodeImage),
    }),
    variables: &[ToolVariable::Path("KIND_NODE_ARCHIVE", "node.tar")],
    ..ToolSpec::EMPTY
};

/// What `cargo xtask kind lab` runs.
pub(super) const LAB: ToolSpec = ToolSpec {
    name: "kind-lab",
    what: "all that cargo xtask kind lab needs: Docker, kind, kubectl, helm and the node image",
    needs: &[
        ToolName::Docker,
        ToolName::Kind,
        ToolName::KindNodeImage,
        ToolName::KubernetesApi,
        ToolName::KubernetesTools,
    ],
    packages: &[UTIL_LINUX],
    ..ToolSpec::EMPTY
};
