//! What is made from Kubernetes' own sources, beside its programs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::go;
use crate::tools::cache;
use crate::tools::command::run_quietly;
use crate::tools::context::{ToolBuild, ToolContext};
use crate::tools::machine::find_files;
use crate::tools::name::ToolName;

/// Returns the folder with the sources of Kubernetes, which Go downloads if need be.
fn sources(context: &ToolContext) -> anyhow::Result<PathBuf> {
    go::module_folder(context, "hack/kubernetes", "k8s.io/kubernetes")
}

/// Compiles Kubernetes' pause program.
pub(super) fn build_pause(build: &ToolBuild<'_>) -> anyhow::Result<()> {
    let source = sources(build.context)?.join("build/pause/linux/pause.c");
    run_quietly(
        Command::new("cc")
            .args(["-Os", "-static", "-DVERSION=3.10", "-o"])
            .arg(build.new.join("pause"))
            .arg(source),
    )
    .context("pause could not be built: is there a static C library?")
}

/// Generates the resource definitions of the Prometheus Operator into the folder `crds`.
pub(super) fn generate_monitoring_definitions(build: &ToolBuild<'_>) -> anyhow::Result<()> {
    let generator = build
        .context
        .folder_of(ToolName::KubernetesTools)?
        .join("controller-gen");
    run_quietly(
        Command::new(generator)
            .arg("crd:crdVersions=v1")
            .arg("paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1")
            .arg(format!("output:dir={}/crds", build.new.display()))
            .current_dir(build.context.root.join("hack/kubernetes/monitoring")),
    )
    .context("the resource definitions of the Prometheus Operator could not be made")
}

/// Generates JSON schemas from Kubernetes' OpenAPI document, and from the resource definitions of
/// the Prometheus Operator that the chart has resources of, and from ours.
pub(super) fn generate_schemas(build: &ToolBuild<'_>) -> anyhow::Result<()> {
    let context = build.context;
    let swagger = sources(context)?.join("api/openapi-spec/swagger.json");
    let kubectl = context.folder_of(ToolName::KubernetesApi)?.join("kubectl");
    let monitoring = context.folder_of(ToolName::PrometheusOperator)?;
    let definitions = build.new.join("definitions");
    fs::create_dir_all(&definitions)?;
    let mut files = Vec::new();
    let crds = ["crds/*_servicemonitors.yaml", "crds/*_prometheusrules.yaml"]
        .iter()
        .flat_map(|pattern| find_files(&monitoring, pattern))
        .chain(find_files(&context.root, "crds/*.yaml"));
    for crd in crds {
        let name = crd.file_name().unwrap_or_default().to_string_lossy();
        let file = definitions.join(format!("{name}.json"));
        print_as_json(&kubectl, &crd, &file)?;
        files.push(file);
    }
    run_quietly(
        Command::new("python3")
            .arg(context.root.join("hack/kubernetes/schemas.py"))
            .arg(&build.new)
            .arg(swagger)
            .args(&files),
    )
    .context("the JSON schemas could not be made")?;
    cache::remove(&definitions)
}

/// Converts objects to JSON, without a server.
fn print_as_json(kubectl: &Path, from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new(kubectl)
        .args([
            "annotate",
            "--local",
            "--overwrite",
            "-o",
            "json",
            "checked-",
            "-f",
        ])
        .arg(from)
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(File::create(to)?)
        .status()
        .context("cannot run kubectl")?;
    anyhow::ensure!(status.success(), "kubectl cannot read {}", from.display());
    Ok(())
}
