//! Keys that all agents of a cluster have: derived from the secret that they share, so that a
//! session holds at every agent, and an unknown user looks the same at each of them.

use ring::hmac;
use streamhouse_core::security::ScramDecoys;

/// The keys of the cluster; of this process alone before the shared secret is known.
#[derive(Debug)]
pub(super) struct ClusterKeys {
    /// Take the place of the credentials of unknown users.
    pub(super) decoys: ScramDecoys,
    /// Signs sessions.
    pub(super) sessions: hmac::Key,
}

impl ClusterKeys {
    /// Derives the keys from a secret.
    pub(super) fn derive(secret: &[u8]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &str| hmac::sign(&secret, purpose.as_bytes());
        Self {
            decoys: ScramDecoys::new(derived("decoys of SCRAM").as_ref()),
            sessions: hmac::Key::new(hmac::HMAC_SHA256, derived("sessions").as_ref()),
        }
    }
}
