//! The lab as the machine sees it: its folder, its namespaces, its control groups, and that nothing
//! is left.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::Context;
use streamhouse_testkit::create_temp_folder;

use super::cgroups;
use crate::repository::CallFolders;
use crate::terminal::note;
use crate::tools::{self, ToolContext, ToolName};

/// What this program is called with inside the namespaces.
pub(super) const INSIDE: &str = "lab-inside";
/// The beginning of the names of a lab's folder and of its control groups.
const PREFIX: &str = "streamhouse-lab-";
/// Variables that a command run by sudo keeps.
const KEPT: &[&str] = &[
    "HOME",
    "PATH",
    "STREAMHOUSE_CACHE",
    "STREAMHOUSE_MINIO",
    "STREAMHOUSE_DOCKER_COMPOSE",
    "CARGO_TARGET_DIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "TERM",
];

/// Runs a command in a new lab.
pub(super) fn run(folders: &CallFolders, command: &[&str]) -> anyhow::Result<ExitCode> {
    let context = ToolContext::open(&folders.root)?;
    let exports = tools::install(&context, &[ToolName::KindLab])?;
    if !context.machine.is_root() {
        return as_root(command);
    }
    cgroups::remove_stale(PREFIX);
    let folder = create_temp_folder(PREFIX)?;
    let mut lab = Command::new("setpriv");
    lab.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
    ])
    .args(["--mount-proc", "--kill-child", "--"])
    .arg(std::env::current_exe().context("this program has no path")?)
    .args(["kind", INSIDE])
    .arg(folder.path())
    .args(command)
    .current_dir(&folders.called_from)
    .envs(exports.to_environment(std::env::var_os("PATH"))?);
    let ended = lab.status().context("cannot run setpriv and unshare");
    let path = folder.path().to_owned();
    let removed = remove(folder);
    report(ended?, removed, &path)
}

/// Runs this command again with sudo.
fn as_root(command: &[&str]) -> anyhow::Result<ExitCode> {
    note("with sudo, which may ask for your password: a lab needs namespaces and mounts");
    let kept = KEPT
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let status = Command::new("sudo")
        .arg("env")
        .args(kept)
        .arg(std::env::current_exe()?)
        .args(["kind", "lab", "--"])
        .args(command)
        .status()
        .context("a lab needs root, and there is no sudo: run the same command as root")?;
    Ok(exit_code(status))
}

/// Removes the lab's folder and control groups. The kernel has ended its processes with the first
/// one of them, and its mounts, links and packet filters with the last one.
fn remove(folder: tempfile::TempDir) -> anyhow::Result<()> {
    let path = folder.path().to_owned();
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let groups = cgroups::remove(&name);
    folder
        .close()
        .with_context(|| format!("cannot remove {}", path.display()))?;
    groups?;
    let mounts = mounts_below(&path)?;
    anyhow::ensure!(mounts.is_empty(), "these mounts of the lab are left: {mounts:?}");
    Ok(())
}

/// Mounts that this machine sees in the lab's folder. Those of any other Docker are not the lab's.
fn mounts_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(mount_points(&mounts)
        .filter(|mount| mount.starts_with(folder))
        .collect())
}

fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
}

/// The command's own failure is its exit code, whatever is said of the lab's end.
fn report(ended: ExitStatus, removed: anyhow::Result<()>, folder: &Path) -> anyhow::Result<ExitCode> {
    let left = removed.with_context(|| format!("the lab in {} is not all gone", folder.display()));
    if ended.success() {
        left?;
    } else {
        eprintln!("\nerror: the command in the lab ended with {ended}");
        if let Err(error) = left {
            eprintln!("and then: {error:#}");
        }
    }
    Ok(exit_code(ended))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn code_of(status: i32, removed: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        report(ExitStatus::from_raw(status << 8), removed, Path::new("/tmp/lab"))
    }

    #[test]
    fn a_command_that_failed_is_reported_by_its_code_also_when_the_lab_is_not_removed() {
        let left = || Err(anyhow::anyhow!("a mount is left"));
        assert_eq!(code_of(3, Ok(())).unwrap(), ExitCode::from(3));
        assert_eq!(code_of(3, left()).unwrap(), ExitCode::from(3));
        let error = format!("{:#}", code_of(0, left()).unwrap_err());
        assert_eq!(error, "the lab in /tmp/lab is not all gone: a mount is left");
        assert_eq!(code_of(0, Ok(())).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn mounts_of_another_docker_are_not_the_labs() {
        let mounts = "overlay /var/lib/docker/overlay2/x/merged overlay rw 0 0\n\
            overlay /tmp/streamhouse-lab-a/docker/overlay2/y/merged overlay rw 0 0\n\
            nsfs /run/docker/netns/default nsfs rw 0 0\n";
        let of_lab: Vec<PathBuf> = mount_points(mounts)
            .filter(|mount| mount.starts_with("/tmp/streamhouse-lab-a"))
            .collect();
        let expected = "/tmp/streamhouse-lab-a/docker/overlay2/y/merged";
        assert_eq!(of_lab, [PathBuf::from(expected)]);
    }
}
