//! One shell in which the commands of a document run, block after block.
//!
//! Owns the folder, the environment and the network of the shell. Variables and background jobs
//! last from block to block. Guarantees: nothing is written into the repository but what cargo
//! builds; all processes end with the session.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use streamhouse_testkit::{ChildProcess, DocumentedCommand, ProcessBuilder, create_temp_folder, wait_until};

use super::output::OutputComparison;

/// How long a block may take, and one that builds.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(60);
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);
/// How long after the end of a block its background jobs may print the documented output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });
/// The ports that agents listen on by default.
const DEFAULT_PORTS: [u16; 2] = [50051, 8080];
/// Commands that give a process a network of its own, which only some users may do.
const NAMESPACES: [&[&str]; 2] = [&["unshare", "--net"], &["unshare", "--map-root-user", "--net"]];

/// Runs each block when its file appears, and stops at the first command that fails. cargo runs in
/// the repository, because packages in another folder would be compiled again.
const DRIVER: &str = r#"
set -e -o pipefail
# Those of the cargo that runs this: build scripts that watch them would run again.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}"
cargo() { (cd "$DOCS_ROOT" && command cargo "$@"); }
number=0
while :; do
  until [ -e "$DOCS_BLOCKS/$number.sh" ]; do sleep 0.05; done
  . "$DOCS_BLOCKS/$number.sh" >"$DOCS_BLOCKS/$number.out" 2>&1 </dev/null
  : >"$DOCS_BLOCKS/$number.done"
  number=$((number + 1))
done
"#;

/// How a session gets the ports that documents name.
#[derive(Debug, Clone, Copy)]
pub(super) enum PortAccess {
    /// In a network of its own, made by this command.
    Namespace(&'static [&'static str]),
    /// In this machine's network, in which the ports are free.
    Machine,
}

impl PortAccess {
    /// Chooses a network namespace if this user may create one.
    ///
    /// # Errors
    ///
    /// Fails if neither a namespace can be created nor the ports are free.
    pub(super) fn find() -> anyhow::Result<PortAccess> {
        for namespace in NAMESPACES {
            let mut tried = Command::new(namespace[0]);
            tried
                .args(&namespace[1..])
                .args(["ip", "link", "set", "lo", "up"]);
            tried
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if tried.status().is_ok_and(|status| status.success()) {
                return Ok(PortAccess::Namespace(namespace));
            }
        }
        for port in DEFAULT_PORTS {
            TcpListener::bind(("127.0.0.1", port)).with_context(|| {
                format!(
                    "documented commands use port {port}, which is taken, and this user cannot create a network namespace \
                     (unshare --net): stop what listens on it, or run this as root with util-linux and iproute2 installed"
                )
            })?;
        }
        Ok(PortAccess::Machine)
    }
}

/// A running shell.
#[derive(Debug)]
pub(super) struct ShellSession {
    process: ChildProcess,
    blocks: PathBuf,
    next: usize,
    comparison: OutputComparison,
}

impl ShellSession {
    /// Starts a shell in an empty folder, which shows the repository's files as links.
    ///
    /// # Errors
    ///
    /// Fails if the folder or the shell cannot be created.
    pub(super) fn start(root: &Path, ports: PortAccess) -> anyhow::Result<ShellSession> {
        // Removed with this process, as the process's own folders are.
        let folder = create_temp_folder("streamhouse-docs-")?.keep();
        let (work, blocks) = (folder.join("demo"), folder.join("blocks"));
        std::fs::create_dir(&work)?;
        std::fs::create_dir(&blocks)?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => root.join(target),
            None => root.join("target"),
        };
        link_repository(root, &target, &work)?;
        let programs = target.join("release").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = match ports {
            PortAccess::Namespace(namespace) => ProcessBuilder::new(namespace[0])
                .args(&namespace[1..])
                .args(["sh", "-c", r#"ip link set lo up && exec "$@""#, "sh", "bash"]),
            PortAccess::Machine => ProcessBuilder::new("bash"),
        };
        shell = shell
            .name("the documented commands")
            .args(["-c", &format!("cd \"$DOCS_WORK\"\n{DRIVER}")])
            .clean_env()
            .env("DOCS_ROOT", root)
            .env("DOCS_WORK", &work)
            .env("DOCS_BLOCKS", &blocks)
            .env("CARGO_TARGET_DIR", &target)
            .env("PATH", format!("{programs}:{path}"));
        Ok(ShellSession {
            process: shell.start()?,
            blocks,
            next: 0,
            comparison: OutputComparison::new(&work)?,
        })
    }

    /// Runs a block and waits until its output holds the documented lines.
    ///
    /// # Errors
    ///
    /// Fails with the output if a command fails or a documented line is missing.
    pub(super) fn run(&mut self, command: &DocumentedCommand) -> anyhow::Result<()> {
        let file = |name: &str| self.blocks.join(format!("{}.{name}", self.next));
        let (script, output, done) = (file("sh"), file("out"), file("done"));
        // Renamed, so that the shell never reads half of it.
        let unfinished = file("new");
        std::fs::write(&unfinished, &command.code)?;
        std::fs::rename(&unfinished, &script)?;
        self.next += 1;
        let read = || String::from_utf8_lossy(&std::fs::read(&output).unwrap_or_default()).into_owned();
        let timeout = if command.code.contains("cargo ") {
            BUILD_TIMEOUT
        } else {
            BLOCK_TIMEOUT
        };
        wait_until("the end of the commands", timeout, || {
            if done.exists() {
                return Ok(Some(()));
            }
            match self.process.try_wait()? {
                Some(status) => bail!("a command failed ({status})"),
                None => Ok(None),
            }
        })
        .with_context(|| format!("the output was:\n{}", read()))?;
        let Some(documented) = &command.output else {
            return Ok(());
        };
        let missing = || self.comparison.missing_lines(documented, &read());
        let matched = wait_until("the documented output", OUTPUT_TIMEOUT, || {
            Ok(missing().is_empty().then_some(()))
        });
        if matched.is_err() {
            bail!(
                "documented line is missing: {}\nthe output was:\n{}",
                missing().join("\n"),
                read()
            );
        }
        Ok(())
    }
}

/// Links the repository's files into the folder, without data of an agent that runs there, and the
/// folder with the programs.
fn link_repository(root: &Path, target: &Path, folder: &Path) -> anyhow::Result<()> {
    ensure!(
        root.join("Cargo.toml").exists(),
        "{} is not the repository",
        root.display()
    );
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        if !matches!(name.to_str(), Some(".git" | ".streamhouse" | "target")) {
            std::os::unix::fs::symlink(root.join(&name), folder.join(&name))?;
        }
    }
    std::os::unix::fs::symlink(target, folder.join("target"))?;
    Ok(())
}
