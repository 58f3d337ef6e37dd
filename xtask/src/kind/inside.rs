//! What runs inside a lab's namespaces: dockerd, and the command.
//!
//! This process is the first one there: when it ends, the kernel ends all others. `/run` is the
//! lab's own, so that Docker's usual socket is the lab's and no other Docker is seen.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context;
use streamhouse_testkit::{ChildProcess, ProcessBuilder, wait_until};

use crate::repository;
use crate::terminal::note;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The image of kind's nodes takes a while to be unpacked.
const LOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Debian's docker, which a newer one in PATH may not replace: its `build` needs no plugin.
const DOCKER: &[&str] = &["/usr/bin/docker", "/usr/local/bin/docker"];

/// Starts Docker and runs the command, or a shell. The lab's files are in `folder`.
pub(super) fn run(folder: &Path, command: &[&str]) -> anyhow::Result<ExitCode> {
    let root = repository::root()?;
    prepare_namespaces()?;
    let programs = link_programs(folder)?;
    let _dockerd = start_dockerd(&root, folder)?;
    let image = load_node_image()?;
    let command = if command.is_empty() { &["bash"] } else { command };
    let status = prepare_command(folder, &programs, &image, command)?
        .status()
        .with_context(|| format!("cannot run {}", command[0]))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn prepare_namespaces() -> anyhow::Result<()> {
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status();
        let status = status.with_context(|| format!("cannot run {program}"))?;
        anyhow::ensure!(status.success(), "{program} {arguments:?} failed");
        Ok(())
    };
    run("ip", &["link", "set", "lo", "up"])?;
    // Shared within the lab, as on a machine that systemd has started; nothing reaches the machine.
    run("mount", &["--make-rshared", "/"])?;
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "lab", "/run"])?;
    fs::create_dir_all("/run/lock").context("cannot make /run/lock")
}

/// Makes a folder with the programs that come first in PATH.
fn link_programs(folder: &Path) -> anyhow::Result<PathBuf> {
    let programs = folder.join("bin");
    fs::create_dir_all(&programs)?;
    let installed = |variable: &str, name: &str| {
        let folder = std::env::var_os(variable).with_context(|| format!("no {variable} is set"))?;
        anyhow::Ok(PathBuf::from(folder).join(name))
    };
    symlink(installed("KIND_FOLDER", "kind")?, programs.join("kind"))?;
    symlink(
        installed("KUBERNETES_FOLDER", "kubectl")?,
        programs.join("kubectl"),
    )?;
    symlink(
        installed("KUBERNETES_TOOLS_FOLDER", "helm")?,
        programs.join("helm"),
    )?;
    let docker = DOCKER.iter().map(Path::new).find(|path| path.exists());
    symlink(
        docker.context("docker is not installed")?,
        programs.join("docker"),
    )?;
    Ok(programs)
}

fn start_dockerd(root: &Path, folder: &Path) -> anyhow::Result<ChildProcess> {
    let runtime = folder.join("runc-within");
    fs::copy(root.join("hack/kind/runc-within"), &runtime).context("cannot copy hack/kind/runc-within")?;
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
    let group = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut dockerd = ProcessBuilder::new("dockerd")
        .args(["--add-runtime", &format!("within={}", runtime.display())])
        .args(["--default-runtime", "within"])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
        .args(["--cgroup-parent", &format!("/{group}")])
        .arg("--data-root")
        .arg(folder.join("docker"))
        .merge_output()
        .start()?;
    let ready = wait_until("an answer of dockerd", TIMEOUT, || {
        anyhow::ensure!(dockerd.is_running(), "dockerd has ended");
        let answer = Command::new("docker").arg("version").output()?;
        Ok(answer.status.success().then_some(()))
    });
    ready.with_context(|| dockerd.log_tail())?;
    Ok(dockerd)
}

/// Loads the image of kind's nodes. Returns its name.
fn load_node_image() -> anyhow::Result<String> {
    let archive = std::env::var("KIND_NODE_ARCHIVE").context("no KIND_NODE_ARCHIVE is set")?;
    note("loading the image of kind's nodes");
    let mut load = ProcessBuilder::new("docker")
        .args(["load", "--input", &archive])
        .start()?;
    let status = load.wait(LOAD_TIMEOUT)?;
    anyhow::ensure!(status.success(), "docker load failed: {}", load.log_tail());
    let said = load.stdout();
    let name = said.lines().find_map(|line| line.strip_prefix("Loaded image: "));
    name.map(|name| name.trim().to_owned())
        .with_context(|| format!("docker load said nothing of an image: {said}"))
}

/// Prepares the command. What Docker, kubectl, helm and kind remember stays in the lab's folder.
fn prepare_command(folder: &Path, programs: &Path, image: &str, command: &[&str]) -> anyhow::Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let search = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
    let mut prepared = Command::new(command[0]);
    prepared
        .args(&command[1..])
        .env("PATH", std::env::join_paths(search)?)
        .env("KIND_NODE_IMAGE", image)
        .env("DOCKER_BUILDKIT", "1")
        .env("DOCKER_CONFIG", folder.join("docker-config"))
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .env("KUBECACHEDIR", folder.join("kubectl"))
        .env("STREAMHOUSE_LAB", folder);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        prepared.env(name, folder.join("helm"));
    }
    for name in [
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ] {
        prepared.env_remove(name);
    }
    Ok(prepared)
}
