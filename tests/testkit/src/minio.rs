//! A real MinIO on a free port, with one drive in a temporary folder.
//!
//! Called by tests of the object store and of the whole system. Each test uses a bucket of its own
//! in [`MinIo::shared`], or a server of its own from [`MinIo::start`] if it stops or pauses the
//! server.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::{ChildProcess, MinIoSetup, ReservedPort, guard, http_get, wait};

/// A MinIO server.
#[derive(Debug)]
pub struct MinIo {
    setup: MinIoSetup,
    folder: TempDir,
    port: ReservedPort,
    process: Mutex<Option<ChildProcess>>,
}

impl MinIo {
    /// Returns the server shared by all tests of this process, started on the first call. Do not
    /// stop or pause it.
    pub fn shared() -> anyhow::Result<&'static MinIo> {
        static SHARED: OnceLock<Result<MinIo, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| MinIo::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Starts a new, empty server.
    pub fn start() -> anyhow::Result<MinIo> {
        let folder = guard::create_temp_folder("streamhouse-minio-")?;
        let drive = folder.path().join("data");
        std::fs::create_dir(&drive)?;
        let port = ReservedPort::reserve()?;
        let server = MinIo {
            setup: MinIoSetup {
                address: port.address(),
                console: None,
                drive,
            },
            folder,
            port,
            process: Mutex::new(None),
        };
        server.start_again()?;
        Ok(server)
    }

    /// Returns the endpoint's URL.
    pub fn endpoint(&self) -> String {
        self.setup.endpoint()
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the access key of the root user.
    pub fn access_key(&self) -> &'static str {
        MinIoSetup::ACCESS_KEY
    }

    /// Returns the secret key of the root user.
    pub fn secret_key(&self) -> &'static str {
        MinIoSetup::SECRET_KEY
    }

    /// Returns the region: MinIO accepts any, and this is its default.
    pub fn region(&self) -> &'static str {
        MinIoSetup::REGION
    }

    /// Creates a bucket with a signed request.
    pub fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        self.setup.create_bucket(name)
    }

    /// Returns the keys of all objects in a bucket, sorted. Reads the drive itself, so includes
    /// what clients cannot list.
    pub fn objects(&self, bucket: &str) -> anyhow::Result<Vec<String>> {
        let root = self.setup.drive.join(bucket);
        let mut keys = Vec::new();
        collect_object_keys(&root, &root, &mut keys)
            .with_context(|| format!("cannot read the bucket {bucket}"))?;
        keys.sort();
        Ok(keys)
    }

    /// Returns MinIO's own metrics, such as `minio_s3_requests_total{api="putobject"}`, in the
    /// Prometheus text format.
    pub fn metrics(&self) -> anyhow::Result<String> {
        Ok(http_get(self.port.address(), "/minio/v2/metrics/cluster")?.body)
    }

    /// Kills the server, as a crash would.
    pub fn stop(&self) -> anyhow::Result<()> {
        let Some(mut process) = self.lock().take() else {
            return Ok(());
        };
        process.kill9()
    }

    /// Starts again after [`MinIo::stop`], on the same port with the same data.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        anyhow::ensure!(slot.is_none(), "MinIO runs already");
        let mut process = self.spawn()?;
        let started = wait::wait_until("the start of MinIO", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "MinIO ended while starting");
            Ok(self.setup.is_ready().then_some(()))
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

    /// Pauses the server, which holds its sockets without responding until [`MinIo::resume`].
    pub fn pause(&self) -> anyhow::Result<()> {
        self.lock().as_mut().context("MinIO does not run")?.pause()
    }

    /// Resumes the server after [`MinIo::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        self.lock().as_mut().context("MinIO does not run")?.resume()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ChildProcess>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> anyhow::Result<ChildProcess> {
        self.setup
            .server()?
            .env("MINIO_PROMETHEUS_AUTH_TYPE", "public")
            .env("HOME", self.folder.path())
            .start()
    }
}

/// MinIO stores an object as a folder named after the key, with the file `xl.meta` in it.
fn collect_object_keys(root: &Path, folder: &Path, keys: &mut Vec<String>) -> anyhow::Result<()> {
    if folder.join("xl.meta").is_file() {
        keys.push(folder.strip_prefix(root)?.to_string_lossy().into_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // A folder may disappear meanwhile, since the server deletes objects concurrently.
        if path.is_dir() && collect_object_keys(root, &path, keys).is_err() && path.is_dir() {
            anyhow::bail!("cannot read {}", path.display());
        }
    }
    Ok(())
}
