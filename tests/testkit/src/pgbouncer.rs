//! A real PgBouncer on a free port, in front of a [`Postgres`] of the tests.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::{ChildProcess, Postgres, ReservedPort, guard, programs, wait};

/// A connection pooler, which ends when it is dropped or the test process ends.
#[derive(Debug)]
pub struct PgBouncer {
    port: ReservedPort,
    _folder: TempDir,
    _process: ChildProcess,
}

impl PgBouncer {
    /// Starts a pooler with eight connections to each database of `server`. `mode` is its
    /// `pool_mode`; `ignored` lists startup parameters that it ignores instead of rejecting.
    pub fn start(server: &Postgres, mode: &str, ignored: &str) -> anyhow::Result<PgBouncer> {
        let program = programs::pgbouncer()?;
        let folder = guard::create_temp_folder("streamhouse-pgbouncer-")?;
        let port = ReservedPort::reserve()?;
        let ini = folder.path().join("pgbouncer.ini");
        let (number, backend) = (port.number(), server.port());
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={backend} user=streamhouse password=streamhouse\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {number}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\nmax_client_conn = 200\ndefault_pool_size = 8\nserver_round_robin = 1\n\
             ignore_startup_parameters = {ignored}\n"
        );
        std::fs::write(&ini, settings)?;
        // It runs as another user if the tests run as root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let mut process = server.program(&program).arg(&ini).start()?;
        wait::wait_until("the start of PgBouncer", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(
                process.is_running(),
                "PgBouncer ended while starting: {}",
                process.log_tail()
            );
            Ok(TcpStream::connect(port.address()).ok())
        })?;
        Ok(PgBouncer {
            port,
            _folder: folder,
            _process: process,
        })
    }

    /// Returns the URL of a database through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://streamhouse:streamhouse@127.0.0.1:{}/{database}",
            self.port.number()
        )
    }
}
