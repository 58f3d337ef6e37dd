//! The image of kind's nodes.

use std::path::PathBuf;

use anyhow::Context;

use super::go;
use crate::tools::command::{as_root, run_quietly};
use crate::tools::context::ToolBuild;
use crate::tools::name::ToolName;

/// Runs hack/kind/node-image.sh, which has to make a whole file system with its owners and devices.
pub(super) fn build_node_image(build: &ToolBuild<'_>) -> anyhow::Result<()> {
    let context = build.context;
    let variable = |name: &str, value: PathBuf| format!("{name}={}", value.display());
    run_quietly(
        as_root(context.machine.as_ref(), "env")?
            .arg(variable(
                "KIND_SOURCES",
                go::module_folder(context, "hack/kubernetes/kind", "sigs.k8s.io/kind")?,
            ))
            .arg(variable(
                "KUBERNETES_FOLDER",
                context.folder_of(ToolName::KubernetesApi)?,
            ))
            .arg(variable(
                "KUBERNETES_TOOLS_FOLDER",
                context.folder_of(ToolName::KubernetesTools)?,
            ))
            .arg(variable("KIND_FOLDER", context.folder_of(ToolName::Kind)?))
            .arg(variable(
                "LOCAL_PATH_PROVISIONER",
                context
                    .folder_of(ToolName::LocalPathProvisioner)?
                    .join("local-path-provisioner"),
            ))
            .arg(variable(
                "BUSYBOX",
                context.folder_of(ToolName::Busybox)?.join("busybox"),
            ))
            .arg("bash")
            .arg(context.root.join("hack/kind/node-image.sh"))
            .arg(&build.new)
            .current_dir(&context.root),
    )
    .with_context(|| format!("{} could not be made", build.title))
}
