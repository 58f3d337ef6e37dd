//! A real MinIO on a free port, with one drive in a temporary folder.
//!
//! Called by tests of the object store and of the whole system. Each test uses a bucket of its own
//! in [`MinIo::shared`], or a server of its own from [`MinIo::start`] if it stops or pauses the
//! server.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::{ChildProcess, ProcessBuilder, ReservedPort, guard, http_get, programs, wait};

const ACCESS_KEY: &str = "minioadmin";
const SECRET_KEY: &str = "minioadmin";

/// A MinIO server.
#[derive(Debug)]
pub struct MinIo {
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
        std::fs::create_dir(folder.path().join("data"))?;
        let server = MinIo {
            folder,
            port: ReservedPort::reserve()?,
            process: Mutex::new(None),
        };
        server.start_again()?;
        Ok(server)
    }

    /// Returns the endpoint's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the access key of the root user.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Returns the secret key of the root user.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// Returns the region: MinIO accepts any, and this is its default.
    pub fn region(&self) -> &'static str {
        "us-east-1"
    }

    /// Creates a bucket with a signed request.
    pub fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "30",
            "--request",
            "PUT",
        ]);
        curl.args([
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--user",
            &format!("{ACCESS_KEY}:{SECRET_KEY}"),
        ]);
        // The digest of an empty body.
        curl.args([
            "--header",
            "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ]);
        let output = curl.arg(format!("{}/{name}", self.endpoint())).output();
        let output = output.context("curl is missing: run hack/test.sh, which installs it")?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        anyhow::ensure!(output.status.success(), "cannot make the bucket {name}: {said}");
        Ok(())
    }

    /// Returns the keys of all objects in a bucket, sorted. Reads the drive itself, so includes
    /// what clients cannot list.
    pub fn objects(&self, bucket: &str) -> anyhow::Result<Vec<String>> {
        let root = self.folder.path().join("data").join(bucket);
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
            let answer = http_get(self.port.address(), "/minio/health/cluster");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
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
        let server = ProcessBuilder::new(programs::minio()?)
            .clean_env()
            .args(["server", "--quiet"]);
        let server = server
            .args(["--address", &self.port.address().to_string()])
            .arg(self.folder.path().join("data"));
        server
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
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
