//! A child process that never outlives the test, with its output in files.
//!
//! Called by the servers of this crate, and by tests for other programs. Guarantees: the process
//! and its whole process group have ended once the value is dropped or the test process has ended
//! in any way. When a test panics, the end of the log is printed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::{guard, wait};

/// Waits for a line before it executes the program, so that the program starts only after the guard
/// has registered the process. If the test process dies in between, the pipe closes and the program
/// never starts. `exec` keeps the process id, so signals reach the program itself.
const START_GATE_SCRIPT: &str = r#"read -r go || exit 125; input=$1; shift; exec "$@" <"$input""#;

/// Builder of a [`ChildProcess`].
#[derive(Debug)]
pub struct ProcessBuilder {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, Option<OsString>)>,
    input: ProcessInput,
    merges_output: bool,
    last_signal: &'static str,
}

impl ProcessBuilder {
    /// Creates a builder for a program by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> ProcessBuilder {
        let program = program.as_ref().to_owned();
        let name = Path::new(&program)
            .file_name()
            .unwrap_or(&program)
            .to_string_lossy()
            .into_owned();
        ProcessBuilder {
            name,
            program,
            args: Vec::new(),
            envs: Vec::new(),
            input: ProcessInput::File(PathBuf::from("/dev/null")),
            merges_output: false,
            last_signal: "KILL",
        }
    }

    /// Sets the name used in messages and logs instead of the program's.
    pub fn name(mut self, name: impl Into<String>) -> ProcessBuilder {
        self.name = name.into();
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> ProcessBuilder {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ProcessBuilder {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> ProcessBuilder {
        self.envs
            .push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes the environment variables that affect StreamHouse, AWS, PostgreSQL, Kubernetes and
    /// OpenTelemetry, so that the developer's settings do not change a test's result.
    pub fn clean_env(mut self) -> ProcessBuilder {
        let steering = |key: &OsString| {
            let key = key.to_string_lossy();
            [
                "STREAMHOUSE_",
                "AWS_",
                "PG",
                "MINIO_",
                "KUBE",
                "ETCD",
                "OTEL_",
                "RUST_LOG",
            ]
            .iter()
            .any(|prefix| key.starts_with(prefix))
        };
        let keys: Vec<OsString> = std::env::vars_os().map(|(key, _)| key).filter(steering).collect();
        let removals = keys.into_iter().map(|key| (key, None));
        self.envs.splice(0..0, removals);
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> ProcessBuilder {
        self.envs.push((key.as_ref().to_owned(), None));
        self
    }

    /// Sets the standard input; empty by default.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> ProcessBuilder {
        self.input = ProcessInput::Bytes(bytes.into());
        self
    }

    /// Reads the standard input from a file, which may be a named pipe.
    pub fn input_file(mut self, path: impl Into<PathBuf>) -> ProcessBuilder {
        self.input = ProcessInput::File(path.into());
        self
    }

    /// Writes standard error into standard output.
    pub fn merge_output(mut self) -> ProcessBuilder {
        self.merges_output = true;
        self
    }

    /// Sets the signal with which the guard ends the process once the test process has ended; KILL
    /// by default. After TERM the process has a minute to tidy up.
    pub fn last_signal(mut self, signal: &'static str) -> ProcessBuilder {
        self.last_signal = signal;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    ///
    /// Fails if the program or the guard cannot be started.
    pub fn start(self) -> anyhow::Result<ChildProcess> {
        let folder = guard::create_temp_folder("streamhouse-run-")?;
        let input = match &self.input {
            ProcessInput::File(path) => path.clone(),
            ProcessInput::Bytes(bytes) => {
                let path = folder.path().join("stdin");
                std::fs::write(&path, bytes)?;
                path
            }
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", START_GATE_SCRIPT, "sh"])
            .arg(&input)
            .arg(&self.program)
            .args(&self.args)
            .process_group(0);
        self.set_environment(&mut command);
        command.stdin(Stdio::piped());
        let stdout = File::create(folder.path().join("stdout"))?;
        command.stderr(if self.merges_output {
            stdout.try_clone()?
        } else {
            File::create(folder.path().join("stderr"))?
        });
        command.stdout(stdout);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let mut process = ChildProcess {
            name: self.name,
            child,
            last_signal: self.last_signal,
            status: None,
            folder,
        };
        guard::register_group(process.id(), process.last_signal)?;
        let mut gate = process.child.stdin.take().context("the gate has no pipe")?;
        std::io::Write::write_all(&mut gate, b"go\n")
            .with_context(|| format!("cannot start {}", process.name))?;
        Ok(process)
    }

    /// Starts a server that outlives this process, in a session and a process group of its own. Its
    /// output is appended to `log`. Returns the process id.
    ///
    /// # Errors
    ///
    /// Fails if the log cannot be written or setsid, a program of util-linux, is missing.
    pub fn start_detached(self, folder: &Path, log: &Path) -> anyhow::Result<u32> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        // setsid keeps the process id, because this process's group is not its own.
        let mut command = Command::new("setsid");
        command
            .arg(&self.program)
            .args(&self.args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.set_environment(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}: is setsid installed?", self.name))?;
        Ok(child.id())
    }

    fn set_environment(&self, command: &mut Command) {
        for (key, value) in &self.envs {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
    }
}

/// Where the standard input comes from.
#[derive(Debug)]
enum ProcessInput {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// A child process, running or ended.
#[derive(Debug)]
pub struct ChildProcess {
    name: String,
    child: Child,
    last_signal: &'static str,
    status: Option<ExitStatus>,
    folder: TempDir,
}

impl ChildProcess {
    /// Returns the process id, which is also the id of the process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the name used in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the exit status if the process has ended.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .with_context(|| format!("cannot wait for {}", self.name))?;
            if self.status.is_some() {
                guard::unregister_group(self.id(), self.last_signal);
            }
        }
        Ok(self.status)
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.try_wait(), Ok(None))
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    ///
    /// Fails with the end of the log if that takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::wait_until(&what, limit, || self.try_wait()).with_context(|| self.log_tail())
    }

    /// Sends `signal` (a name such as `TERM`) to the process group, if it is running.
    pub fn signal(&mut self, signal: &str) -> anyhow::Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let group = format!("-{}", self.id());
        let status = Command::new("sh")
            .args(["-c", r#"kill -s "$1" -- "$2""#, "sh", signal, &group])
            .status()?;
        anyhow::ensure!(
            status.success() || !self.is_running(),
            "cannot send {signal} to {}",
            self.name
        );
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.signal("KILL")?;
        self.wait(wait::SERVER_TIMEOUT).map(drop)
    }

    /// Sends SIGTERM without waiting; call [`ChildProcess::wait`] afterwards.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal("TERM")
    }

    /// Sends SIGSTOP: the process holds its sockets without doing anything.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Sends SIGCONT after [`ChildProcess::pause`].
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    /// Returns everything written to standard output.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Returns what was written to standard output after the first `offset` bytes.
    ///
    /// # Errors
    ///
    /// If the file with the output cannot be read.
    pub fn stdout_since(&self, offset: u64) -> anyhow::Result<Vec<u8>> {
        let mut file = File::open(self.folder.path().join("stdout"))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns everything written to standard error.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Returns the end of both outputs, for messages.
    pub fn log_tail(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!(
            "{} wrote:\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.name,
            tail(self.stdout()),
            tail(self.stderr())
        )
    }

    #[cfg(feature = "servers")]
    pub(crate) fn stdout_bytes(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("stdout")).unwrap_or_default()
    }

    fn read(&self, file: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join(file)).unwrap_or_default())
            .into_owned()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        // A failure needs no handling: the guard ends the group with the test process.
        let _ = self.kill9();
    }
}
