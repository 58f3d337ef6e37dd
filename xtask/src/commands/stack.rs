//! The development stack by its scripts, in a folder and on ports of its own, so that a running
//! stack is left alone.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use streamhouse_testkit::{ChildProcess, ProcessBuilder, ReservedPort, create_temp_folder};

use crate::dev_stack::{ServerName, read_running, reserve_ports};
use crate::programs::{prepare_script, run_shown, wait_while_running};
use crate::repository::CallFolders;
use crate::terminal::say;

const START_TIMEOUT: Duration = Duration::from_secs(900);
const RESTART_TIMEOUT: Duration = Duration::from_secs(120);
const DEMO_TIMEOUT: Duration = Duration::from_secs(400);
const STOP_TIMEOUT: Duration = Duration::from_secs(240);
/// Waits for TERM, and then becomes the command of its arguments.
const STOPPER_SCRIPT: &str = r#"trap 'exec "$@"' TERM; echo waiting; while :; do sleep 0.2; done"#;
/// What the documentation says about the database, with another port.
const COUNT_TOPICS: &str = "SELECT count(*) FROM topics WHERE NOT internal";

/// Starts the stack twice, runs its demonstrations, and stops it.
///
/// # Errors
///
/// Fails if a script does, if the second start changes a process, or if something is left.
pub(super) fn check(folders: &CallFolders) -> anyhow::Result<()> {
    let stack = StackByScripts::reserve(folders)?;
    say("the development stack, in a folder and on ports of its own");
    stack.run("hack/dev-setup.sh", &[], START_TIMEOUT)?;
    let started = stack.read_pid_files()?;
    stack.run("hack/dev-setup.sh", &[], RESTART_TIMEOUT)?;
    ensure!(
        stack.read_pid_files()? == started,
        "hack/dev-setup.sh started again what ran"
    );
    stack.count_topics()?;
    stack.run("hack/demo-e2e.sh", &[], DEMO_TIMEOUT)?;
    stack.run("hack/demo-observability.sh", &[], DEMO_TIMEOUT)?;
    stack.run("hack/dev-down.sh", &["--purge"], STOP_TIMEOUT)?;
    ensure!(
        !stack.folder.exists(),
        "hack/dev-down.sh --purge left {}",
        stack.folder.display()
    );
    for (name, pid_file) in ServerName::ALL.into_iter().zip(&started) {
        ensure!(
            read_running(pid_file).is_none(),
            "{} still runs as process {pid_file}",
            name.file_name()
        );
    }
    Ok(())
}

/// A stack that is started and stopped by the scripts that people call.
///
/// Its servers outlive the scripts. Another process therefore waits for the end of this value, and
/// with it of this process, to stop them.
#[derive(Debug)]
struct StackByScripts {
    root: PathBuf,
    folder: PathBuf,
    ports: Vec<(&'static str, ReservedPort)>,
    stopper: Option<ChildProcess>,
}

impl StackByScripts {
    fn reserve(folders: &CallFolders) -> anyhow::Result<StackByScripts> {
        // Removed with this process.
        let parent = create_temp_folder("streamhouse-stack-")?.keep();
        // PostgreSQL does not run as root and needs access to its data.
        std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o755))?;
        let mut stack = StackByScripts {
            root: folders.root.clone(),
            folder: parent.join("stack"),
            ports: reserve_ports()?,
            stopper: None,
        };
        let program = std::env::current_exe().context("this program does not know its own path")?;
        let stop = prepare_stopper().arg(program);
        let stop = stack.set_variables(stop.args(["dev-stack", "down", "--purge"]));
        stack.stopper = Some(start_stopper(stop)?);
        Ok(stack)
    }

    fn set_variables(&self, command: ProcessBuilder) -> ProcessBuilder {
        let ports = self.ports.iter();
        ports.fold(command.env("DEV_DIR", &self.folder), |command, (name, port)| {
            command.env(name, port.number().to_string())
        })
    }

    fn run(&self, script: &str, arguments: &[&str], limit: Duration) -> anyhow::Result<()> {
        let command = prepare_script(&self.root.join(script)).args(arguments);
        run_shown(self.set_variables(command), limit).with_context(|| format!("{script} failed"))
    }

    /// Returns the text of each server's file, in the order of their start.
    fn read_pid_files(&self) -> anyhow::Result<Vec<String>> {
        let read = |name: ServerName| {
            let path = self.folder.join(format!("{}.pid", name.file_name()));
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        ServerName::ALL.into_iter().map(read).collect()
    }

    /// Asks the database by the documented URL.
    fn count_topics(&self) -> anyhow::Result<()> {
        let port = self.ports.iter().find(|(name, _)| *name == "DEV_POSTGRES_PORT");
        let (_, port) = port.context("the stack has no port of PostgreSQL")?;
        let url = format!(
            "postgresql://streamhouse:streamhouse_dev@localhost:{}/streamhouse_metadata",
            port.number()
        );
        let psql = Command::new("psql")
            .args([&url, "-XAtc", COUNT_TOPICS])
            .output()
            .context("cannot run psql")?;
        ensure!(
            psql.status.success() && psql.stdout == b"0\n",
            "psql does not get into the database as the documentation says: {}{}",
            String::from_utf8_lossy(&psql.stdout),
            String::from_utf8_lossy(&psql.stderr)
        );
        Ok(())
    }
}

/// Prepares a process that runs the command of its further arguments when this process ends, or
/// when it is terminated itself.
fn prepare_stopper() -> ProcessBuilder {
    ProcessBuilder::new("sh")
        .name("the end of the development stack")
        .args(["-c", STOPPER_SCRIPT, "sh"])
        .last_signal("TERM")
}

fn start_stopper(stopper: ProcessBuilder) -> anyhow::Result<ChildProcess> {
    let mut stopper = stopper.start()?;
    wait_while_running("the start of what ends the stack", &mut stopper, |stopper| {
        Ok(stopper.stdout().contains("waiting").then_some(()))
    })?;
    Ok(stopper)
}

impl Drop for StackByScripts {
    fn drop(&mut self) {
        // What fails here is left to the guard of this process's children.
        if let Some(stopper) = &mut self.stopper {
            let _ = stopper.terminate();
            let _ = stopper.wait(STOP_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stopper_runs_its_command_when_it_is_terminated_and_not_before() {
        let command = ["sh", "-c", "echo stopped; sleep 0.1; echo done"];
        let mut stopper = start_stopper(prepare_stopper().args(command)).unwrap();
        assert_eq!(stopper.stdout(), "waiting\n");
        stopper.terminate().unwrap();
        let status = stopper.wait(STOP_TIMEOUT).unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(stopper.stdout(), "waiting\nstopped\ndone\n");
    }
}
