//! A real PostgreSQL on a free port, with production durability settings.
//!
//! Called by tests of the metadata store and of the whole system. Each test uses a database of its
//! own in [`Postgres::shared`], or a server of its own from [`Postgres::start`] if it stops the
//! server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::{
    CertificateAuthority, ChildProcess, PostgresLogin, PostgresSetup, ProcessBuilder, ReservedPort, guard,
    wait,
};

const ROLE: &str = "streamhouse";
const PASSWORD: &str = "streamhouse";
const ADMIN: &str = "admin";
const ADMIN_PASSWORD: &str = "admin-of-a-test";

/// fsync stays on: data that survives a crash in a test must survive for the same reason as in
/// production.
const SERVER_SETTINGS: &[&str] = &[
    "max_connections=200",
    "shared_buffers=64MB",
    "fsync=on",
    "synchronous_commit=on",
    "log_min_messages=warning",
];

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    setup: PostgresSetup,
    _folder: TempDir,
    port: ReservedPort,
    tls: bool,
    process: Mutex<Option<ChildProcess>>,
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
        let folder = guard::create_temp_folder("streamhouse-postgres-")?;
        let server = Postgres {
            setup: PostgresSetup::find(folder.path().to_owned())?,
            _folder: folder,
            port: ReservedPort::reserve()?,
            tls: tls.is_some(),
            process: Mutex::new(None),
        };
        server.setup.create_data(ADMIN, ADMIN_PASSWORD, &["--no-sync"])?;
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
        self.setup.programs()
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
        let login = PostgresLogin {
            port: self.port(),
            user: ADMIN,
            password: ADMIN_PASSWORD,
            database,
        };
        login.run_sql(&self.setup, sql)
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
        let data = self.setup.data_folder().display().to_string();
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

    /// Writes the certificate, its key, readable only by the server, and a rule that rejects
    /// connections without TLS.
    fn set_up_tls(&self, authority: &CertificateAuthority, names: &[&str]) -> anyhow::Result<()> {
        let issued = authority.issue(names)?;
        for (name, text) in [
            ("server.crt", issued.certificate.as_str()),
            ("server.key", issued.key.as_str()),
            ("pg_hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256\n"),
        ] {
            let path = self.setup.data_folder().join(name);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            self.setup.give_to_server(&path)?;
        }
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<ChildProcess> {
        let tls = if self.tls { "ssl=on" } else { "ssl=off" };
        let settings = [SERVER_SETTINGS, &[tls]].concat();
        // QUIT instead of KILL, so that the server releases its shared memory.
        let server = self.setup.server(self.port(), &settings);
        server.last_signal("QUIT").start()
    }

    /// Prepares another program by path, to run as the server's user.
    pub(crate) fn program(&self, path: impl AsRef<Path>) -> ProcessBuilder {
        self.setup.program(path)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // If this fails, dropping the process kills it.
        let _ = self.stop();
    }
}
