//! A real PostgreSQL on a free port, with production durability settings.
//!
//! Called by tests of the metadata store and of the whole system. Each test uses a database of its
//! own in [`Postgres::shared`], or a server of its own from [`Postgres::start`] if it stops the
//! server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::{CertificateAuthority, ChildProcess, ProcessBuilder, ReservedPort, guard, programs, wait};

const ROLE: &str = "streamhouse";
const PASSWORD: &str = "streamhouse";
const ADMIN: &str = "admin";
const ADMIN_PASSWORD: &str = "admin-of-a-test";

/// fsync stays on: data that survives a crash in a test must survive for the same reason as in
/// production.
const SERVER_SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=64MB",
    "fsync=on",
    "synchronous_commit=on",
    "log_min_messages=warning",
];

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: ReservedPort,
    user: Option<UnixUser>,
    tls: bool,
    process: Mutex<Option<ChildProcess>>,
}

/// The user that runs the server if the tests run as root, which PostgreSQL refuses.
#[derive(Debug, Clone)]
struct UnixUser {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Returns the server shared by all tests of this process, started on the first call. Do not
    /// stop it.
    pub fn shared() -> anyhow::Result<&'static Postgres> {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Postgres::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Creates and starts a server, which is empty except for the role `streamhouse`.
    pub fn start() -> anyhow::Result<Postgres> {
        Postgres::start_with(None)
    }

    /// Creates and starts a server that requires TLS. Its certificate is issued by `authority` for
    /// these names; its URL has the host 127.0.0.1.
    pub fn start_with_tls(authority: &CertificateAuthority, names: &[&str]) -> anyhow::Result<Postgres> {
        Postgres::start_with(Some((authority, names)))
    }

    fn start_with(tls: Option<(&CertificateAuthority, &[&str])>) -> anyhow::Result<Postgres> {
        let programs = programs::postgres()?;
        let folder = guard::create_temp_folder("streamhouse-postgres-")?;
        let user = unprivileged_user()?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        let server = Postgres {
            programs,
            folder,
            port: ReservedPort::reserve()?,
            user,
            tls: tls.is_some(),
            process: Mutex::new(None),
        };
        server.run_initdb()?;
        if let Some((authority, names)) = tls {
            server.set_up_tls(authority, names)?;
        }
        server.start_again()?;
        server.admin_sql(
            "postgres",
            &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"),
        )?;
        Ok(server)
    }

    /// Returns the folder of PostgreSQL's programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the URL of a database for the role `streamhouse`.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port()
        )
    }

    /// Creates a database owned by the role `streamhouse` and returns its URL.
    pub fn create_database(&self, name: &str) -> anyhow::Result<String> {
        let quoted = name.replace('"', "\"\"");
        self.admin_sql("postgres", &format!("CREATE DATABASE \"{quoted}\" OWNER {ROLE}"))?;
        Ok(self.url(name))
    }

    /// Runs SQL as the superuser. Returns one line per row, with columns separated by `|`.
    pub fn admin_sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            ADMIN,
            "-d",
            database,
            "-c",
            sql,
        ]);
        psql.arg("-p").arg(self.port().to_string());
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PG")) {
            psql.env_remove(key);
        }
        psql.env("PGPASSWORD", ADMIN_PASSWORD)
            .env("PGCONNECT_TIMEOUT", "10");
        let output = psql
            .output()
            .context("psql is missing: run hack/test.sh, which installs it")?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        anyhow::ensure!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(text)
    }

    /// Stops the server without a shutdown checkpoint, as a crash would: connections break, and the
    /// next start recovers from the log.
    pub fn stop(&self) -> anyhow::Result<()> {
        let Some(mut process) = self.lock().take() else {
            return Ok(());
        };
        process.signal("QUIT")?;
        process.wait(wait::SERVER_TIMEOUT).map(drop)
    }

    /// Starts again after [`Postgres::stop`], on the same port with the same data.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        anyhow::ensure!(slot.is_none(), "PostgreSQL runs already");
        let mut process = self.spawn()?;
        let data = self.data_folder().display().to_string();
        let started = wait::wait_until("the start of PostgreSQL", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "PostgreSQL ended while starting");
            Ok(self
                .admin_sql("postgres", "SHOW data_directory")
                .ok()
                .filter(|served| *served == data))
        });
        started.with_context(|| process.log_tail())?;
        *slot = Some(process);
        Ok(())
    }

    /// Stops the server and starts it again.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop()?;
        self.start_again()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ChildProcess>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run_initdb(&self) -> anyhow::Result<()> {
        let password = self.folder.path().join("password");
        std::fs::write(&password, ADMIN_PASSWORD)?;
        let mut initdb = self
            .program("initdb")
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
                "--username",
                ADMIN,
            ])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(self.data_folder())
            .start()?;
        let status = initdb.wait(wait::SERVER_TIMEOUT)?;
        anyhow::ensure!(status.success(), "initdb failed: {}", initdb.log_tail());
        Ok(())
    }

    /// Writes the certificate, its key, readable only by the server, and a rule that rejects
    /// connections without TLS.
    fn set_up_tls(&self, authority: &CertificateAuthority, names: &[&str]) -> anyhow::Result<()> {
        let issued = authority.issue(names)?;
        for (name, text) in [
            ("server.crt", issued.certificate.as_str()),
            ("server.key", issued.key.as_str()),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256\n"),
        ] {
            let path = self.data_folder().join(name);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if let Some(user) = &self.user {
                std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
            }
        }
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<ChildProcess> {
        let tls = if self.tls { "ssl=on" } else { "ssl=off" };
        let settings = SERVER_SETTINGS
            .iter()
            .chain([&tls])
            .flat_map(|setting| ["-c", setting]);
        // QUIT instead of KILL, so that the server releases its shared memory.
        let postgres = self.program("postgres").args(settings).last_signal("QUIT");
        postgres
            .arg("-D")
            .arg(self.data_folder())
            .arg("-p")
            .arg(self.port().to_string())
            .start()
    }

    /// Prepares a program of PostgreSQL by name, or another one by path, to run as the server's
    /// user.
    pub(crate) fn program(&self, name: impl AsRef<Path>) -> ProcessBuilder {
        let path: &Path = &self.programs.join(&name);
        let spawn = match &self.user {
            None => ProcessBuilder::new(path),
            Some(UnixUser { uid, gid }) => ProcessBuilder::new("setpriv")
                .name(name.as_ref().display().to_string())
                .args([
                    format!("--reuid={uid}"),
                    format!("--regid={gid}"),
                    "--clear-groups".to_owned(),
                ])
                .arg(path),
        };
        spawn.clean_env().env("LC_ALL", "C")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // If this fails, dropping the process kills it.
        let _ = self.stop();
    }
}

/// Returns `None` unless the test runs as root; otherwise the package's user `postgres`, or
/// `nobody`.
fn unprivileged_user() -> anyhow::Result<Option<UnixUser>> {
    let id = |args: &[&str]| -> anyhow::Result<Option<u32>> {
        let output = Command::new("id")
            .args(args)
            .output()
            .context("the program id is missing")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
    };
    if id(&["-u"])? != Some(0) {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let (Some(uid), Some(gid)) = (id(&["-u", name])?, id(&["-g", name])?) {
            return Ok(Some(UnixUser { uid, gid }));
        }
    }
    anyhow::bail!(
        "PostgreSQL does not run as root, and there is no user postgres or nobody: run the tests as another user"
    )
}
