//! A server of the stack: its process, which outlives the command that starts it, and how it stops.
//!
//! Owns the files `NAME.pid` and `NAME.log` of the stack's folder. Guarantees: a process is
//! identified by its id and start time, so that a later process with the same id is never mistaken
//! for it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use streamhouse_testkit::{ProcessBuilder, http_get, wait_until};

use super::ports::{PortName, StackPorts};
use crate::terminal::note;

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to end by itself, and to end when it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_LINES: usize = 40;

/// A server of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerName {
    Postgres,
    MinIo,
    NodeExporter,
    Alertmanager,
    Prometheus,
}

impl ServerName {
    /// In the order of their start.
    pub(crate) const ALL: [ServerName; 5] = [
        ServerName::Postgres,
        ServerName::MinIo,
        ServerName::NodeExporter,
        ServerName::Alertmanager,
        ServerName::Prometheus,
    ];

    /// Returns the name of its files.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            ServerName::Postgres => "postgres",
            ServerName::MinIo => "minio",
            ServerName::NodeExporter => "node-exporter",
            ServerName::Alertmanager => "alertmanager",
            ServerName::Prometheus => "prometheus",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ServerName::Postgres => "PostgreSQL",
            ServerName::MinIo => "MinIO",
            ServerName::NodeExporter => "node exporter",
            ServerName::Alertmanager => "Alertmanager",
            ServerName::Prometheus => "Prometheus",
        }
    }

    fn ports(self) -> &'static [PortName] {
        match self {
            ServerName::Postgres => &[PortName::Postgres],
            ServerName::MinIo => &[PortName::MinIo, PortName::MinIoConsole],
            ServerName::NodeExporter => &[PortName::NodeExporter],
            ServerName::Alertmanager => &[PortName::Alertmanager],
            ServerName::Prometheus => &[PortName::Prometheus],
        }
    }

    /// On TERM PostgreSQL waits for its last client.
    fn stop_signal(self) -> &'static str {
        match self {
            ServerName::Postgres => "INT",
            _ => "TERM",
        }
    }
}

/// A server in a stack's folder, running or not.
#[derive(Debug)]
pub(crate) struct StackServer {
    name: ServerName,
    folder: PathBuf,
}

impl StackServer {
    pub(crate) fn new(name: ServerName, folder: &Path) -> StackServer {
        StackServer {
            name,
            folder: folder.to_owned(),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name.file_name()))
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pid", self.name.file_name()))
    }

    /// Returns the process id if the server runs.
    pub(crate) fn running_pid(&self) -> Option<u32> {
        read_running(&std::fs::read_to_string(self.pid_file()).ok()?)
    }

    /// Starts the server unless it runs, and waits until it answers; its ports must be free.
    ///
    /// # Errors
    ///
    /// Fails if a port is taken, or if the server ends or does not answer within a minute; the end
    /// of its log is printed.
    pub(crate) fn start(
        &self,
        ports: &StackPorts,
        command: ProcessBuilder,
        is_ready: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let title = self.name.title();
        if self.running_pid().is_none() {
            for port in self.name.ports() {
                require_free_port(ports, *port, title)?;
            }
            let pid = command.start_detached(&self.folder, &self.log())?;
            let birth = find_birth(pid).unwrap_or_default();
            std::fs::write(self.pid_file(), format!("{pid} {birth}\n"))
                .with_context(|| format!("cannot write {}", self.pid_file().display()))?;
        }
        let started = wait_until(&format!("the start of {title}"), START_TIMEOUT, || {
            if self.running_pid().is_none() {
                let (name, log) = (self.name.file_name(), self.log());
                bail!("{name} ended; its log is {}", log.display());
            }
            if is_ready() {
                return Ok(Some(()));
            }
            // Some of the questions start a program: not too often.
            std::thread::sleep(Duration::from_millis(90));
            Ok(None)
        });
        if started.is_err() {
            eprintln!("{}", self.read_log_end());
        }
        started
    }

    /// Makes the server read its configuration again, if it runs.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        match self.running_pid() {
            Some(pid) => send_signal(pid, "HUP"),
            None => Ok(()),
        }
    }

    /// Terminates the server and waits for its end; kills it after half a minute.
    ///
    /// # Errors
    ///
    /// Fails if it runs ten seconds later.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let name = self.name.file_name();
        if let Some(pid) = self.running_pid() {
            let has_ended = || Ok(self.running_pid().is_none().then_some(()));
            // It may end by itself just now.
            let _ = send_signal(pid, self.name.stop_signal());
            if wait_until("its end", STOP_TIMEOUT, has_ended).is_err() {
                note(&format!("{name} does not end: by force"));
                let _ = send_signal(pid, "KILL");
                ensure!(
                    wait_until("its end", KILL_TIMEOUT, has_ended).is_ok(),
                    "{name} (process {pid}) could not be stopped"
                );
            }
            note(&format!("{name} stopped"));
        }
        remove_if_exists(&self.pid_file())
    }

    fn read_log_end(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Returns the id of the process that a pid file names, if that process runs.
pub(crate) fn read_running(pid_file: &str) -> Option<u32> {
    let (pid, birth) = pid_file.trim_end().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (find_birth(pid)? == birth).then_some(pid)
}

/// Returns the start time of a process in ticks since boot; `None` if it has ended, also if its
/// parent has not taken note of that.
fn find_birth(pid: u32) -> Option<String> {
    parse_birth(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_birth(stat: &str) -> Option<String> {
    // The name, in parentheses, may hold spaces and parentheses; the state follows it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    match fields.first() {
        None | Some(&("Z" | "X")) => None,
        Some(_) => fields.get(19).map(|birth| (*birth).to_owned()),
    }
}

fn send_signal(pid: u32, signal: &str) -> anyhow::Result<()> {
    let sent = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()?;
    ensure!(sent.success(), "cannot send {signal} to process {pid}");
    Ok(())
}

/// Fails if something listens on a port, with its name if that can be found.
///
/// # Errors
///
/// Fails with the variable that moves the port.
pub(crate) fn require_free_port(ports: &StackPorts, name: PortName, title: &str) -> anyhow::Result<()> {
    let port = ports.number(name);
    if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        return Ok(());
    }
    let listed = Command::new("ss")
        .args(["-Hltnp", &format!("sport = :{port}")])
        .output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let holder = listed.ok().and_then(|text| parse_holder(&text));
    let holder = holder.map(|holder| format!(" ({holder})")).unwrap_or_default();
    bail!(
        "port {port}, which {title} wants, is taken by something else{holder}: stop that, or choose another port with {}",
        name.variable()
    )
}

/// Finds `"name",pid=1` in a line of ss, which ends with `users:(("name",pid=1,fd=2))`.
fn parse_holder(listed: &str) -> Option<String> {
    let (_, users) = listed.split_once("users:((")?;
    let mut fields = users.split(',');
    let (name, pid) = (fields.next()?, fields.next()?);
    pid.starts_with("pid=").then(|| format!("{name},{pid}"))
}

/// Returns whether a server on this machine answers a GET request with success.
pub(crate) fn answers(port: u16, path: &str) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    http_get(address, path).is_ok_and(|answer| answer.status < 400)
}

pub(crate) fn remove_if_exists(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use streamhouse_testkit::create_temp_folder;

    use super::*;

    #[test]
    fn the_birth_of_a_process_is_the_same_each_time_and_the_end_is_none() {
        let own = std::process::id();
        assert!(find_birth(own).is_some_and(|birth| Some(birth) == find_birth(own)));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Until this process waits for it, it is a zombie, which counts as ended.
        wait_until("its end", START_TIMEOUT, || {
            Ok(find_birth(pid).is_none().then_some(()))
        })
        .unwrap();
        child.wait().unwrap();
        assert_eq!(find_birth(pid), None);
    }

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let rest = (0..18).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = |state| format!("7 (a) b (c)) {state} {rest} 4711 1 2");
        assert_eq!(parse_birth(&stat("S")).as_deref(), Some("4711"));
        assert_eq!(parse_birth(&stat("Z")), None);
        assert_eq!(parse_birth("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_with_another_birth_is_not_the_server() {
        let own = std::process::id();
        let birth = find_birth(own).unwrap();
        assert_eq!(read_running(&format!("{own} {birth}\n")), Some(own));
        for text in [
            format!("{own} 1\n"),
            format!("{own} \n"),
            format!("{own}\n"),
            String::new(),
        ] {
            assert_eq!(read_running(&text), None);
        }
    }

    #[test]
    fn a_server_outlives_its_start_is_left_alone_and_ends_when_stopped() {
        let folder = create_temp_folder("streamhouse-server-").unwrap();
        let server = StackServer::new(ServerName::NodeExporter, folder.path());
        let port = streamhouse_testkit::ReservedPort::reserve().unwrap();
        let text = port.number().to_string();
        let variable = |name: &str| (name == "DEV_NODE_EXPORTER_PORT").then(|| text.clone());
        let ports = StackPorts::choose(variable, "").unwrap();
        let command = || ProcessBuilder::new("sh").args(["-c", "echo started; exec sleep 1000"]);
        let wrote = || std::fs::read_to_string(server.log()).is_ok_and(|log| log == "started\n");
        server.start(&ports, command(), wrote).unwrap();
        let pid = server.running_pid().unwrap();
        server.start(&ports, command(), wrote).unwrap();
        assert_eq!(server.running_pid(), Some(pid));
        server.stop().unwrap();
        assert_eq!(find_birth(pid), None);
        assert!(!server.pid_file().exists());
        server.stop().unwrap();
    }

    #[test]
    fn a_server_that_ends_fails_the_start_with_its_log() {
        let folder = create_temp_folder("streamhouse-server-").unwrap();
        let server = StackServer::new(ServerName::MinIo, folder.path());
        let free: Vec<_> = (0..2)
            .map(|_| streamhouse_testkit::ReservedPort::reserve().unwrap())
            .collect();
        let variable = |name: &str| match name {
            "DEV_MINIO_PORT" => Some(free[0].number().to_string()),
            "DEV_MINIO_CONSOLE_PORT" => Some(free[1].number().to_string()),
            _ => None,
        };
        let ports = StackPorts::choose(variable, "").unwrap();
        let command = ProcessBuilder::new("sh").args(["-c", "echo the cause"]);
        let error = server.start(&ports, command, || false).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("minio ended; its log is {}", server.log().display())
        );
        assert_eq!(server.read_log_end(), "the cause");
    }

    #[test]
    fn a_taken_port_is_refused_with_its_variable() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let variable = |name: &str| (name == "DEV_WEBHOOK_PORT").then(|| port.to_string());
        let ports = StackPorts::choose(variable, "").unwrap();
        let error = require_free_port(&ports, PortName::Webhook, "the webhook")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!(
            "port {port}, which the webhook wants, is taken by something else"
        )));
        assert!(error.ends_with("stop that, or choose another port with DEV_WEBHOOK_PORT"));
    }

    #[test]
    fn the_holder_of_a_port_is_named_as_ss_does() {
        let line = "LISTEN 0 4096 127.0.0.1:9090 0.0.0.0:* users:((\"prometheus\",pid=41,fd=7))\n";
        assert_eq!(parse_holder(line).as_deref(), Some("\"prometheus\",pid=41"));
        assert_eq!(parse_holder("LISTEN 0 4096 127.0.0.1:9090 0.0.0.0:*\n"), None);
    }
}
