//! The development stack: PostgreSQL, MinIO, Prometheus, Alertmanager and node exporter on
//! 127.0.0.1, without Docker, or all of them and Grafana in containers.
//!
//! Called by `hack/dev-setup.sh`, `hack/dev-down.sh` and the demos. Guarantees: servers outlive the
//! command; a second start leaves running servers alone; exactly the processes that were started
//! for a folder are stopped.

mod folder;
mod ports;
mod server;
mod start;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use streamhouse_testkit::{ProcessBuilder, ReservedPort};

use self::folder::StackFolder;
pub(crate) use self::ports::PortName;
use self::ports::StackPorts;
pub(crate) use self::server::{ServerName, read_running, require_free_port};
use crate::programs::{prepare_program, release_folder, run_cargo, run_shown};
use crate::repository::CallFolders;
use crate::terminal::{note, say};
use crate::tools::{self, ToolContext, ToolName};

const UP_USAGE: &str = "usage: hack/dev-setup.sh [--docker]; its settings are variables, see its first lines";
const DOWN_USAGE: &str = "usage: hack/dev-down.sh [--docker] [--purge]";
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(120);

/// A stack that was started.
#[derive(Debug)]
pub(crate) struct DevStack {
    programs: PathBuf,
    folder: StackFolder,
    ports: StackPorts,
}

/// Runs `up` or `down` with its options.
///
/// # Errors
///
/// Fails if the arguments are wrong or a server does not start or stop.
pub(crate) fn run(folders: &CallFolders, arguments: &[&str]) -> anyhow::Result<()> {
    match arguments {
        ["up"] => DevStack::start(folders)?.print_addresses(),
        ["up", "--docker"] => start_containers(&folders.root)?,
        ["up", ..] => bail!(UP_USAGE),
        ["down", options @ ..] => {
            let (mut docker, mut purge) = (false, false);
            for option in options {
                match *option {
                    "--docker" => docker = true,
                    "--purge" => purge = true,
                    _ => bail!(DOWN_USAGE),
                }
            }
            if docker {
                stop_containers(&folders.root, purge)?;
            } else {
                stop(&StackFolder::choose(folders), purge)?;
            }
        }
        _ => bail!("dev-stack needs up or down; see cargo xtask"),
    }
    Ok(())
}

impl DevStack {
    /// Starts the servers that do not run, builds the programs, and migrates the metadata schema.
    ///
    /// # Errors
    ///
    /// Fails if a port is taken or was moved while a server runs, or if a server does not start.
    pub(crate) fn start(folders: &CallFolders) -> anyhow::Result<DevStack> {
        let root = folders.root.as_path();
        let needs = [ToolName::DevServers, ToolName::Minio];
        tools::install(&ToolContext::open(root)?, &needs)?;
        let folder = StackFolder::choose(folders);
        let saved = folder.read_ports();
        let ports = StackPorts::choose(|name| std::env::var(name).ok(), &saved)?;
        std::fs::create_dir_all(folder.path())
            .with_context(|| format!("cannot make {}", folder.path().display()))?;
        if ServerName::ALL
            .into_iter()
            .any(|name| folder.server(name).running_pid().is_some())
        {
            ports.refuse_moved(&saved, folder.path())?;
        }
        folder.write_ports(&ports.to_text())?;
        let settings = std::fs::read_to_string(root.join(".env.dev")).context("cannot read .env.dev")?;
        folder::write(&folder.settings_file(), &ports.rewrite(&settings)?)?;

        say(&format!(
            "starting PostgreSQL, MinIO, node exporter, Alertmanager, Prometheus (data and logs in {})",
            folder.path().display()
        ));
        start::start_postgres(&folder, &ports)?;
        start::start_minio(&folder, &ports)?;
        start::start_observability(root, &folder, &ports)?;

        let stack = DevStack {
            programs: release_folder(root),
            folder,
            ports,
        };
        build_programs()?;
        let migration = stack.program("streamhouse-agent")?.arg("migrate");
        run_shown(migration, MIGRATE_TIMEOUT)?;
        say("the dev stack is up");
        Ok(stack)
    }

    /// Prepares a built program, such as `examples/observed_load`, with the stack's settings.
    ///
    /// # Errors
    ///
    /// Fails if the settings cannot be read.
    pub(crate) fn program(&self, name: &str) -> anyhow::Result<ProcessBuilder> {
        let program = prepare_program(self.programs.join(name));
        let settings = self.folder.read_settings()?;
        Ok(settings
            .iter()
            .fold(program, |program, (name, value)| program.env(name, value)))
    }

    /// Returns the number of a port.
    pub(crate) fn port(&self, name: PortName) -> u16 {
        self.ports.number(name)
    }

    /// Fails if something listens on a port that `title` wants.
    ///
    /// # Errors
    ///
    /// Fails with the variable that moves the port.
    pub(crate) fn require_free_port(&self, name: PortName, title: &str) -> anyhow::Result<()> {
        require_free_port(&self.ports, name, title)
    }

    /// Returns the folder of Prometheus's configuration.
    pub(crate) fn prometheus_folder(&self) -> PathBuf {
        self.folder.prometheus()
    }

    /// Makes Prometheus read its configuration again.
    ///
    /// # Errors
    ///
    /// Fails if the signal cannot be sent.
    pub(crate) fn reload_prometheus(&self) -> anyhow::Result<()> {
        self.folder.server(ServerName::Prometheus).reload()
    }

    fn print_addresses(&self) {
        let port = |name| self.port(name);
        note(&format!(
            "PostgreSQL     psql postgresql://streamhouse:streamhouse_dev@localhost:{}/streamhouse_metadata",
            port(PortName::Postgres)
        ));
        note(&format!(
            "MinIO          http://127.0.0.1:{}  bucket streamhouse-data, user and password minioadmin",
            port(PortName::MinIo)
        ));
        note(&format!(
            "MinIO console  http://127.0.0.1:{}",
            port(PortName::MinIoConsole)
        ));
        note(&format!(
            "Prometheus     http://127.0.0.1:{}  expects the agent's metrics on 127.0.0.1:{}",
            port(PortName::Prometheus),
            port(PortName::AgentHttp)
        ));
        note(&format!(
            "Alertmanager   http://127.0.0.1:{}",
            port(PortName::Alertmanager)
        ));
        note(&format!(
            "node exporter  http://127.0.0.1:{}/metrics",
            port(PortName::NodeExporter)
        ));
        note(
            "Grafana        not started: it needs Docker; hack/dev-setup.sh --docker starts all of this with it",
        );
        note("");
        note(&format!(
            "settings of an agent and the command line:  source {}",
            self.folder.settings_file().display()
        ));
        note("stop it:  hack/dev-down.sh   (with --purge its data goes too)");
    }
}

/// Reserves free ports for a stack of its own. Returns them with the variables that choose them.
///
/// # Errors
///
/// Fails if all ports are taken.
pub(crate) fn reserve_ports() -> anyhow::Result<Vec<(&'static str, ReservedPort)>> {
    PortName::ALL
        .into_iter()
        .map(|name| Ok((name.variable(), ReservedPort::reserve()?)))
        .collect()
}

/// Builds every program and example. Dependencies have the same features in every build, so none
/// is built twice.
fn build_programs() -> anyhow::Result<()> {
    say("building the agent and the command line, bringing the metadata schema up to date");
    run_cargo(&["build", "--release", "--workspace", "--bins", "--examples"])
}

fn stop(folder: &StackFolder, purge: bool) -> anyhow::Result<()> {
    say(&format!("stopping the dev stack in {}", folder.path().display()));
    if !folder.path().is_dir() {
        note("there is none");
        return Ok(());
    }
    for name in ServerName::ALL.into_iter().rev() {
        folder.server(name).stop()?;
    }
    if purge {
        folder.purge()?;
        note("its data is gone");
    }
    Ok(())
}

/// Starts the stack of docker-compose.yml.
fn start_containers(root: &Path) -> anyhow::Result<()> {
    for arguments in [&["compose", "version"][..], &["info"]] {
        let tried = Command::new("docker").args(arguments).output();
        ensure!(
            tried.is_ok_and(|output| output.status.success()),
            "--docker needs Docker with its compose plugin and a daemon that runs; without --docker it goes without"
        );
    }
    say("starting the dev stack in containers");
    run_docker(root, &["up", "--detach", "--wait"])?;
    build_programs()?;
    // The settings as they are: containers have the default ports.
    let settings = ". ./.env.dev && exec \"$1\" migrate";
    let migration = prepare_program("bash")
        .args(["-c", settings, "bash"])
        .arg(release_folder(root).join("streamhouse-agent"));
    run_shown(migration, MIGRATE_TIMEOUT)?;
    say("the dev stack is up");
    note("Grafana        http://127.0.0.1:3000  user and password admin");
    note("Prometheus     http://127.0.0.1:9090");
    note("Alertmanager   http://127.0.0.1:9093");
    note("MinIO console  http://127.0.0.1:9001  user and password minioadmin");
    note("PostgreSQL     docker exec -it streamhouse-postgres psql -U streamhouse streamhouse_metadata");
    note("node exporter  http://127.0.0.1:9100/metrics");
    note("settings of an agent and the command line:  source .env.dev");
    note("stop it:  hack/dev-down.sh --docker   (with --purge its data goes too)");
    Ok(())
}

fn stop_containers(root: &Path, purge: bool) -> anyhow::Result<()> {
    say("stopping the dev stack in containers");
    let arguments: &[&str] = if purge { &["down", "--volumes"] } else { &["down"] };
    run_docker(root, arguments)
}

fn run_docker(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let compose = Command::new("docker")
        .arg("compose")
        .args(arguments)
        .current_dir(root)
        .status()
        .context("--docker needs Docker with its compose plugin")?;
    ensure!(compose.success(), "docker compose failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_refused_before_anything_starts() {
        let folders = CallFolders {
            root: PathBuf::from("/nowhere"),
            called_from: PathBuf::from("/nowhere"),
        };
        let run = |arguments: &[&str]| run(&folders, arguments).unwrap_err().to_string();
        assert_eq!(run(&["up", "--purge"]), UP_USAGE);
        assert_eq!(run(&["up", "--docker", "--docker"]), UP_USAGE);
        assert_eq!(run(&["down", "--purge", "--now"]), DOWN_USAGE);
        assert!(run(&[]).contains("up or down"));
    }
}
