//! How tools are built or downloaded into the cache: one function for each kind of source.
//!
//! Called with the cache's lock held. Guarantees: a tool is in its folder only when all of it is.

mod go;
mod kind;
mod kubernetes;
mod maven;
mod python;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::cache;
use super::command::{note, run_quietly, say};
use super::context::{ToolBuild, ToolContext};
use super::packages;
use super::spec::{BuildSteps, CachedTool, PackageFile, ToolSource};

/// Builds a tool that is missing.
pub(crate) fn build(context: &ToolContext, cached: &CachedTool) -> anyhow::Result<()> {
    let title = context.title(cached)?;
    let (verb, from) = match &cached.source {
        ToolSource::GoModule(_) | ToolSource::GoInstall(..) | ToolSource::GoTests(_) => {
            ("building", " from source")
        }
        ToolSource::PythonPackages(_) => ("installing", ""),
        ToolSource::CargoInstall(..) | ToolSource::Steps(_) => ("building", ""),
        ToolSource::PackageFile(_) | ToolSource::MavenPackages(_) => ("downloading", ""),
    };
    say(&format!("{verb} {title}{from}, once ({})", cached.takes));
    let folder = context.folder(cached)?;
    let build = ToolBuild {
        context,
        title,
        new: cache::prepare_new_folder(&folder)?,
        folder,
    };
    let built = match &cached.source {
        ToolSource::GoModule(module) => go::build_module(&build, module)
            .and_then(|()| module.then.map_or(Ok(()), |steps| run_steps(&build, steps))),
        ToolSource::GoInstall(package, key) => go::install(&build, package, key),
        ToolSource::GoTests(tests) => go::build_tests(&build, tests),
        ToolSource::PythonPackages(packages) => python::install(&build, packages),
        ToolSource::MavenPackages(packages) => maven::install(&build, packages),
        ToolSource::CargoInstall(name, key) => cargo_install(&build, name, key),
        ToolSource::PackageFile(file) => download_file(&build, file),
        ToolSource::Steps(steps) => run_steps(&build, *steps),
    };
    let built = built.and_then(|()| cache::publish(&build.new, &build.folder));
    if built.is_err() {
        // The error is what matters; the next build removes what is left.
        let _ = cache::remove(&build.new);
    }
    built?;
    anyhow::ensure!(
        cache::is_complete(&build.folder, cached.contents),
        "{} is not all in {}: report this",
        build.title,
        build.folder.display()
    );
    Ok(())
}

fn run_steps(build: &ToolBuild<'_>, steps: BuildSteps) -> anyhow::Result<()> {
    match steps {
        BuildSteps::KindNodeImage => kind::build_node_image(build),
        BuildSteps::KubernetesPause => kubernetes::build_pause(build),
        BuildSteps::KubernetesSchemas => kubernetes::generate_schemas(build),
        BuildSteps::MonitoringDefinitions => kubernetes::generate_monitoring_definitions(build),
        BuildSteps::ModuleFile(file) => go::copy_module_file(build, file),
    }
}

/// Without the optimisation of a published program, which takes most of the time and makes no
/// difference to one that runs for seconds.
fn cargo_install(build: &ToolBuild<'_>, name: &str, key: &str) -> anyhow::Result<()> {
    let target = build.new.join("target");
    run_quietly(
        Command::new("cargo")
            .args(["install", name, "--locked", "--version"])
            .arg(build.context.versions.version(key)?)
            .arg("--root")
            .arg(&build.new)
            .current_dir(&build.context.root)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    )
    .with_context(|| format!("{} could not be built", build.title))?;
    cache::remove(&target)
}

fn download_file(build: &ToolBuild<'_>, file: &PackageFile) -> anyhow::Result<()> {
    let machine = build.context.machine.as_ref();
    let target = build.new.join(file.file);
    if let Some(installed) = file.installed.filter(|path| Path::new(path).is_file()) {
        note(&format!("copying {installed}, which is installed"));
        fs::copy(installed, &target)?;
        return Ok(());
    }
    anyhow::ensure!(
        machine.has_program("apt-get"),
        "{} is missing, and there is no apt-get to download it: {}",
        build.title,
        file.instead
    );
    let files = build.new.join("files");
    packages::unpack(machine, file.package, &files)
        .with_context(|| format!("apt-get could not download {}: {}", file.package, file.instead))?;
    let mut paths = file.paths.iter().map(|path| files.join(path));
    let found = paths
        .find(|path| path.is_file())
        .with_context(|| format!("the package {} has no {}", file.package, file.file))?;
    fs::rename(found, &target)?;
    cache::remove(&files)
}
