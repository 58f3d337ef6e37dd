//! Programs that are written in Go, and Go itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::tools::cache;
use crate::tools::command::{note, read_output, run_quietly};
use crate::tools::context::{ToolBuild, ToolContext};
use crate::tools::machine::is_program;
use crate::tools::spec::{GoModule, GoTests, LinkValue, ModuleFile};
use crate::tools::versions::{PinnedVersions, ensure_required, is_at_least};

/// The oldest Go that downloads the toolchain that a module requires.
const OLDEST: &str = "1.21";

/// Builds programs of a Go module of this repository.
pub(super) fn build_module(build: &ToolBuild<'_>, module: &GoModule) -> anyhow::Result<()> {
    let folder = build.context.root.join(module.folder);
    if let Some(pin) = module.pin {
        ensure_pinned(build, module.folder, pin)?;
    }
    // The slash at its end makes it a folder for Go.
    let output = format!("{}/", build.new.display());
    run_quietly(
        Command::new(command(build.context)?)
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags"])
            .arg(linker_flags(module.link, &build.context.versions)?)
            .args(["-o", &output])
            .args(module.packages)
            .current_dir(folder)
            .env("CGO_ENABLED", "0"),
    )
    .with_context(|| format!("{} could not be built", build.title))
}

/// Fails unless the module of this folder requires the version of hack/versions.sh.
fn ensure_pinned(build: &ToolBuild<'_>, folder: &str, (name, key): (&str, &str)) -> anyhow::Result<()> {
    let path = format!("{folder}/go.mod");
    let go_mod = std::fs::read_to_string(build.context.root.join(&path))
        .with_context(|| format!("cannot read {path}"))?;
    ensure_required(&go_mod, &path, name, build.context.versions.version(key)?)
}

/// Builds the tests of a package into one program.
pub(super) fn build_tests(build: &ToolBuild<'_>, tests: &GoTests) -> anyhow::Result<()> {
    ensure_pinned(build, tests.folder, tests.pin)?;
    run_quietly(
        Command::new(command(build.context)?)
            .args(["test", "-c", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(build.new.join(tests.program))
            .arg(tests.package)
            .current_dir(build.context.root.join(tests.folder))
            .env("CGO_ENABLED", "0"),
    )
    .with_context(|| format!("{} could not be built", build.title))
}

/// Builds one program of the outside world.
pub(super) fn install(build: &ToolBuild<'_>, package: &str, key: &str) -> anyhow::Result<()> {
    let version = build.context.versions.version(key)?;
    run_quietly(
        Command::new(command(build.context)?)
            .arg("install")
            .arg(format!("{package}@{version}"))
            .env("GOBIN", &build.new)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-trimpath"),
    )
    .with_context(|| format!("{} could not be built", build.title))
}

/// Returns the folder with the sources of a module that a module of this repository requires. Go
/// downloads them if need be.
pub(super) fn module_folder(context: &ToolContext, folder: &str, module: &str) -> anyhow::Result<PathBuf> {
    let folder = context.root.join(folder);
    let mut list = Command::new(command(context)?);
    list.args(["list", "-m", "-f", "{{.Dir}}", module])
        .current_dir(&folder);
    let found = read_output(&mut list)?;
    if !found.is_empty() {
        return Ok(PathBuf::from(found));
    }
    run_quietly(
        Command::new(command(context)?)
            .args(["mod", "download", module])
            .current_dir(&folder),
    )
    .with_context(|| format!("the sources of {module} could not be downloaded"))?;
    Ok(PathBuf::from(read_output(&mut list)?))
}

/// Copies a file of a module, whose files in Go's cache are read-only.
pub(super) fn copy_module_file(build: &ToolBuild<'_>, file: &ModuleFile) -> anyhow::Result<()> {
    let version = build.context.versions.version(file.key)?;
    let path = file.path.replace("{version}", version.trim_start_matches('v'));
    let source = module_folder(build.context, file.folder, file.module)?.join(path);
    let text = std::fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    std::fs::write(build.new.join(file.file), text).with_context(|| format!("cannot write {}", file.file))
}

pub(super) fn linker_flags(
    values: &[(&str, LinkValue)],
    versions: &PinnedVersions,
) -> anyhow::Result<String> {
    let mut flags = "-s -w".to_owned();
    for (name, value) in values {
        let (LinkValue::Version(key)
        | LinkValue::VersionWithoutV(key)
        | LinkValue::Major(key)
        | LinkValue::Minor(key)) = value;
        let version = versions.version(key)?;
        let numbers = version.trim_start_matches('v');
        let part = |index: usize| numbers.split('.').nth(index).unwrap_or_default();
        let text = match value {
            LinkValue::Version(_) => version,
            LinkValue::VersionWithoutV(_) => numbers,
            LinkValue::Major(_) => part(0),
            LinkValue::Minor(_) => part(1),
        };
        flags.push_str(&format!(" -X {name}={text}"));
    }
    Ok(flags)
}

/// Returns a go command that can build everything: the installed one, or else one that is
/// downloaded into the cache.
pub(super) fn command(context: &ToolContext) -> anyhow::Result<PathBuf> {
    if context.machine.has_program("go")
        && let Ok(version) = read_output(Command::new("go").args(["env", "GOVERSION"]))
        && is_at_least(version.trim_start_matches("go"), OLDEST)
    {
        return Ok(PathBuf::from("go"));
    }
    let folder = context
        .cache
        .join(format!("go-{}", context.versions.version("GO_VERSION")?));
    let program = folder.join("go/bin/go");
    if !is_program(&program) {
        download(context, &folder)?;
    }
    Ok(program)
}

/// Returns Go's name of the processor and the key of the download's SHA-256.
pub(super) fn architecture(processor: &str) -> anyhow::Result<(&'static str, &'static str)> {
    match processor {
        "x86_64" => Ok(("amd64", "GO_SHA256_AMD64")),
        "aarch64" => Ok(("arm64", "GO_SHA256_ARM64")),
        other => anyhow::bail!(
            "MinIO and Kubernetes are built with Go: install Go {OLDEST} or later by hand on this machine ({other})"
        ),
    }
}

fn download(context: &ToolContext, folder: &Path) -> anyhow::Result<()> {
    let version = context.versions.version("GO_VERSION")?;
    let (architecture, key) = architecture(std::env::consts::ARCH)?;
    note(&format!("downloading Go {version}"));
    let new = cache::prepare_new_folder(folder)?;
    let archive = new.join("go.tar.gz");
    run_quietly(
        Command::new("curl")
            .args([
                "-fsSL",
                &format!("https://go.dev/dl/go{version}.linux-{architecture}.tar.gz"),
            ])
            .arg("-o")
            .arg(&archive),
    )
    .with_context(|| {
        format!("MinIO and Kubernetes are built with Go, and Go could not be downloaded: install Go {OLDEST} or later by hand")
    })?;
    ensure_digest(&archive, context.versions.version(key)?)?;
    run_quietly(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&new))?;
    std::fs::remove_file(&archive)?;
    cache::remove(folder)?;
    cache::publish(&new, folder)
}

/// Fails if a download is not what it should be.
pub(super) fn ensure_digest(archive: &Path, digest: &str) -> anyhow::Result<()> {
    let printed = read_output(Command::new("sha256sum").arg(archive))?;
    anyhow::ensure!(
        printed.starts_with(&format!("{digest} ")),
        "the download of Go is damaged: its SHA-256 is not {digest}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_sets_all_forms_of_a_version() {
        let versions = PinnedVersions::parse("KUBERNETES_VERSION=v1.34.4\n");
        let flags = linker_flags(
            &[
                ("a", LinkValue::Version("KUBERNETES_VERSION")),
                ("b", LinkValue::VersionWithoutV("KUBERNETES_VERSION")),
                ("c", LinkValue::Major("KUBERNETES_VERSION")),
                ("d", LinkValue::Minor("KUBERNETES_VERSION")),
            ],
            &versions,
        );
        assert_eq!(flags.unwrap(), "-s -w -X a=v1.34.4 -X b=1.34.4 -X c=1 -X d=34");
    }

    #[test]
    fn a_processor_that_go_is_not_downloaded_for_is_named() {
        assert_eq!(architecture("aarch64").unwrap().0, "arm64");
        let error = architecture("riscv64").unwrap_err().to_string();
        assert!(error.contains("install Go 1.21 or later by hand on this machine (riscv64)"));
    }

    #[test]
    fn a_damaged_download_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("go.tar.gz");
        std::fs::write(&archive, "abc").unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        ensure_digest(&archive, digest).unwrap();
        std::fs::write(&archive, "abd").unwrap();
        let error = ensure_digest(&archive, digest).unwrap_err().to_string();
        assert!(error.contains("is damaged: its SHA-256 is not ba78"));
    }
}
