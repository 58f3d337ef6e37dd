//! How a PostgreSQL server is prepared and started: its programs, its user, its data folder, its
//! command line, and SQL by psql.
//!
//! Used by the servers of tests and by the development stack, whose server outlives the command
//! that starts it. Guarantees: servers listen on 127.0.0.1 only; the data folder appears at once,
//! when initdb has succeeded.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{ProcessBuilder, UnixUser, programs, wait};

/// What every server is started with.
const SERVER_SETTINGS: [&str; 2] = ["listen_addresses=127.0.0.1", "unix_socket_directories="];

/// A folder with a server's data, and the programs and the user that it is served with.
#[derive(Debug)]
pub struct PostgresSetup {
    programs: PathBuf,
    folder: PathBuf,
    user: Option<UnixUser>,
}

impl PostgresSetup {
    /// Chooses the programs and the user for a server whose files are below `folder`. Existing data
    /// is served by the version that wrote it, if that is installed.
    ///
    /// # Errors
    ///
    /// Fails if PostgreSQL is not installed.
    pub fn find(folder: PathBuf) -> anyhow::Result<PostgresSetup> {
        let version = std::fs::read_to_string(folder.join("data/PG_VERSION")).ok();
        Ok(PostgresSetup {
            programs: programs::postgres(version.as_deref().map(str::trim))?,
            folder,
            user: UnixUser::find_unprivileged()?,
        })
    }

    /// Returns the folder of PostgreSQL's programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Returns the folder that the server calls its data directory.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes the server's user the owner of a file, if the server has a user of its own.
    ///
    /// # Errors
    ///
    /// Fails if the owner cannot be changed.
    pub fn give_to_server(&self, path: &Path) -> anyhow::Result<()> {
        match &self.user {
            Some(user) => user.take_ownership(path),
            None => Ok(()),
        }
    }

    /// Creates the folder and its data unless they exist, with these further options of initdb. The
    /// password is that of the superuser `admin`.
    ///
    /// # Errors
    ///
    /// Fails with the output of initdb.
    pub fn create_data(&self, admin: &str, password: &str, options: &[&str]) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        self.give_to_server(&self.folder)?;
        if self.data_folder().is_dir() {
            return Ok(());
        }
        // Renamed at the end, so that what an interrupted initdb leaves is not taken for data.
        let unfinished = self.folder.join("new");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        let password_file = self.folder.join("password");
        std::fs::write(&password_file, password)?;
        let mut initdb = self
            .program("initdb")
            .args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"])
            .args(["--username", admin])
            .args(options)
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished)
            .start()?;
        let status = initdb.wait(wait::SERVER_TIMEOUT)?;
        anyhow::ensure!(
            status.success(),
            "PostgreSQL could not make its data folder {}: {}",
            unfinished.display(),
            initdb.log_tail()
        );
        std::fs::rename(unfinished, self.data_folder())?;
        Ok(())
    }

    /// Prepares the server on this port, with further settings such as `fsync=on`.
    pub fn server(&self, port: u16, settings: &[&str]) -> ProcessBuilder {
        let settings = SERVER_SETTINGS
            .iter()
            .chain(settings)
            .flat_map(|setting| ["-c", setting]);
        self.program("postgres")
            .args(settings)
            .arg("-D")
            .arg(self.data_folder())
            .arg("-p")
            .arg(port.to_string())
    }

    /// Prepares a program of PostgreSQL by name, or another one by path, to run as the server's
    /// user.
    pub(crate) fn program(&self, name: impl AsRef<Path>) -> ProcessBuilder {
        let name = name.as_ref();
        let path = self.programs.join(name);
        let program = match &self.user {
            None => ProcessBuilder::new(path),
            Some(user) => user.program(&path, name),
        };
        program.clean_env().env("LC_ALL", "C")
    }
}

/// Who runs SQL, and where.
#[derive(Debug, Clone, Copy)]
pub struct PostgresLogin<'a> {
    /// The server's port on 127.0.0.1.
    pub port: u16,
    /// The role.
    pub user: &'a str,
    /// The role's password.
    pub password: &'a str,
    /// The database.
    pub database: &'a str,
}

impl PostgresLogin<'_> {
    /// Runs SQL with psql. Returns one line per row, with columns separated by `|`.
    ///
    /// # Errors
    ///
    /// Fails with the message of psql.
    pub fn run_sql(&self, setup: &PostgresSetup, sql: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(setup.programs().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", &self.port.to_string()])
            .args(["-U", self.user, "-d", self.database, "-c", sql]);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PG")) {
            psql.env_remove(key);
        }
        psql.env("PGPASSWORD", self.password)
            .env("PGCONNECT_TIMEOUT", "10");
        let output = psql
            .output()
            .context("psql is missing: run hack/test.sh, which installs it")?;
        anyhow::ensure!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}
