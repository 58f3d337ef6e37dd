//! What a cluster's objects depend on beside its spec: facts that `dereference` reads from the API server and that `build` takes as
//! given. Holds hashes of Secrets, never what is in them.

use crate::apis::OptionalApi;

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// A hash over those Secrets that agents read only when they start: another hash restarts them.
    pub secret_hash: String,
    /// Whether the Prometheus operator's API is installed.
    pub monitoring_api: bool,
    /// Whether cert-manager's API is installed.
    pub cert_manager_api: bool,
    /// Whether the Secret of the http listener has the authority's certificate too (`ca.crt`).
    pub http_authority: bool,
    /// Whether the check of the bucket is wanted. The Job of a finished check is kept while this says so: it is the proof.
    pub preflight: bool,
}

impl Inputs {
    /// Whether an API that may be absent is there.
    pub fn has(&self, api: OptionalApi) -> bool {
        match api {
            OptionalApi::Monitoring => self.monitoring_api,
            OptionalApi::CertManager => self.cert_manager_api,
        }
    }
}
