//! The image of kind's nodes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use super::go;
use crate::tools::command::{as_root, read_output, run_quietly};
use crate::tools::context::{ToolBuild, ToolContext};
use crate::tools::name::ToolName;

const MODULE: &str = "hack/kubernetes/kind";

/// Runs hack/kind/node-image.sh, which has to make a whole file system with its owners and devices.
pub(super) fn build_node_image(build: &ToolBuild<'_>) -> anyhow::Result<()> {
    let context = build.context;
    let variable = |name: &str, value: PathBuf| format!("{name}={}", value.display());
    run_quietly(
        as_root(context.machine.as_ref(), "env")?
            .arg(variable("KIND_SOURCES", sources(context)?))
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

/// Returns the folder with kind's sources, which Go has downloaded to build it.
fn sources(context: &ToolContext) -> anyhow::Result<PathBuf> {
    let mut list = Command::new(go::command(context)?);
    list.args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"])
        .current_dir(context.root.join(MODULE));
    let mut folder = read_output(&mut list)?;
    if folder.is_empty() {
        run_quietly(
            Command::new(go::command(context)?)
                .args(["mod", "download", "sigs.k8s.io/kind"])
                .current_dir(context.root.join(MODULE)),
        )
        .context("the sources of kind could not be downloaded")?;
        folder = read_output(&mut list)?;
    }
    Ok(PathBuf::from(folder))
}
