//! Inputs of a cluster's objects besides its spec: facts that `dereference` reads from the API
//! server and that `build` takes as arguments. Contains hashes of Secrets, never their contents.

use crate::apis::OptionalApi;

/// The inputs of `build`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildInputs {
    /// Hash of the Secrets that agents read only at start: a different hash restarts them.
    pub secret_hash: String,
    /// Whether the API of the Prometheus operator is installed.
    pub monitoring_api: bool,
    /// Whether the API of cert-manager is installed.
    pub cert_manager_api: bool,
    /// Whether the Secret of the HTTP listener also contains a CA certificate (`ca.crt`).
    pub http_authority: bool,
    /// Whether the check of the bucket is desired. The Job of a finished check is kept as its
    /// result while this is set.
    pub preflight: bool,
}

impl BuildInputs {
    /// Returns whether an optional API is installed.
    pub fn has(&self, api: OptionalApi) -> bool {
        match api {
            OptionalApi::Monitoring => self.monitoring_api,
            OptionalApi::CertManager => self.cert_manager_api,
        }
    }
}
