//! How a MinIO server is started: its command line, when it is ready, and how a bucket is created.
//!
//! Used by the servers of tests and by the development stack, whose server outlives the command
//! that starts it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::{ProcessBuilder, http_get, programs};

/// What a server with one drive is started with.
#[derive(Debug)]
pub struct MinIoSetup {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its console listens; without an address it has none.
    pub console: Option<SocketAddr>,
    /// The folder that is its drive; it must exist.
    pub drive: PathBuf,
}

impl MinIoSetup {
    /// The access key of the root user.
    pub const ACCESS_KEY: &str = "minioadmin";
    /// The secret key of the root user.
    pub const SECRET_KEY: &str = "minioadmin";
    /// The region: MinIO accepts any, and this is its default.
    pub const REGION: &str = "us-east-1";

    /// Returns the endpoint's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Prepares the server.
    ///
    /// # Errors
    ///
    /// Fails if MinIO is not installed.
    pub fn server(&self) -> anyhow::Result<ProcessBuilder> {
        let mut server = ProcessBuilder::new(programs::minio()?)
            .clean_env()
            .args(["server", "--quiet", "--address", &self.address.to_string()])
            .env("MINIO_ROOT_USER", Self::ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", Self::SECRET_KEY)
            .env("MINIO_UPDATE", "off");
        server = match self.console {
            Some(console) => server.args(["--console-address", &console.to_string()]),
            None => server.env("MINIO_BROWSER", "off"),
        };
        Ok(server.arg(&self.drive))
    }

    /// Returns whether the server and its console answer.
    pub fn is_ready(&self) -> bool {
        let answers = |address, path| http_get(address, path).is_ok_and(|answer| answer.status < 400);
        answers(self.address, "/minio/health/cluster")
            && self.console.is_none_or(|console| answers(console, "/"))
    }

    /// Returns whether a bucket exists.
    ///
    /// # Errors
    ///
    /// Fails if curl is missing.
    pub fn has_bucket(&self, name: &str) -> anyhow::Result<bool> {
        Ok(self.send_signed("GET", name)?.is_ok())
    }

    /// Creates a bucket.
    ///
    /// # Errors
    ///
    /// Fails with the answer of MinIO.
    pub fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        self.send_signed("PUT", name)?
            .map_err(|answer| anyhow::anyhow!("MinIO did not make the bucket {name}: {answer}"))
    }

    /// Sends a signed request without a body. The inner error is the server's answer.
    fn send_signed(&self, method: &str, bucket: &str) -> anyhow::Result<Result<(), String>> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body"])
            .args(["--noproxy", "*", "--max-time", "30", "--request", method])
            .args(["--aws-sigv4", &format!("aws:amz:{}:s3", Self::REGION)])
            .args(["--user", &format!("{}:{}", Self::ACCESS_KEY, Self::SECRET_KEY)])
            // The digest of an empty body.
            .args([
                "--header",
                "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ]);
        let output = curl.arg(format!("{}/{bucket}", self.endpoint())).output();
        let output = output.context("curl is missing: run hack/test.sh, which installs it")?;
        let answer = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(if output.status.success() {
            Ok(())
        } else {
            Err(answer)
        })
    }
}
