//! Checks the CA certificates in Secrets: text that is none is reported with its Secret and key,
//! not taken for the absence of a certificate. Part of the reading of the Secrets.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{CA_KEY, ResolvedSecrets};
use crate::{
    cluster::{
        desired::{DesiredCluster, ListenerPort, SecretKeySelector},
        problem::ClusterProblem,
    },
    crd::{ConditionReason, ConditionType},
};

/// A CA certificate that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MalformedAuthority {
    pub(super) problem: ClusterProblem,
    /// Whether agents read it at start, so that they must not be restarted.
    pub(super) restarts: bool,
}

/// Finds the CA certificates that cannot be used. Those that are missing are reported elsewhere.
pub(super) fn malformed_authorities(
    desired: &DesiredCluster,
    secrets: &ResolvedSecrets,
) -> Vec<MalformedAuthority> {
    let database = desired.postgresql.tls.as_ref();
    let database = database.and_then(|tls| tls.authority.clone());
    let scraped = desired.service_monitor.is_some();
    let places = [
        (ConditionType::MetadataReachable, database, true),
        (
            ConditionType::StorageReachable,
            desired.storage.authority.clone(),
            true,
        ),
        // Running agents keep the certificates they have loaded.
        (ConditionType::Degraded, listener_authority(&desired.grpc), false),
        (
            ConditionType::MonitoringAvailable,
            listener_authority(&desired.http).filter(|_| scraped),
            false,
        ),
    ];
    let malformed = |(condition, key, restarts): (ConditionType, Option<SecretKeySelector>, bool)| {
        let key = key?;
        let pem = secrets.value(&key.name, &key.key)?;
        // Issuers without an authority leave it empty in the Secret of a listener.
        if !restarts && pem.trim_ascii().is_empty() {
            return None;
        }
        let problem = check_authority(condition, &key, pem).err()?;
        Some(MalformedAuthority { problem, restarts })
    };
    places.into_iter().filter_map(malformed).collect()
}

/// Returns where the CA certificate of a listener may be.
fn listener_authority(port: &ListenerPort) -> Option<SecretKeySelector> {
    port.certificate.as_ref().map(|certificate| SecretKeySelector {
        name: certificate.secret.clone(),
        key: CA_KEY.to_owned(),
    })
}

/// Checks CA certificates.
///
/// # Errors
///
/// Returns the problem, which never quotes the text: it may be a private key by mistake.
pub(super) fn check_authority(
    condition: ConditionType,
    key: &SecretKeySelector,
    pem: &[u8],
) -> Result<(), ClusterProblem> {
    let refused = |what: &str| ClusterProblem {
        condition,
        reason: ConditionReason::InvalidSecret,
        message: format!(
            "Secret {}, key {}: {what}: provide CA certificates in PEM",
            key.name, key.key
        ),
    };
    let mut found = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| refused("is damaged"))?;
        found.add(certificate).map_err(|_| refused("is damaged"))?;
    }
    if found.is_empty() {
        return Err(refused("holds no certificate"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;
    use crate::cluster::fixtures::desired_with;

    const SPEC: &str =
        "{postgresql: {connectionSecret: {name: metadata}, tls: {mode: verify-full, caSecret: {name: a}}},
  objectStorage: {bucket: data, caSecret: {name: b}},
  listeners: {grpc: {tls: {secretName: c}}, http: {tls: {secretName: d}}},
  monitoring: {serviceMonitor: {enabled: true}}}";

    fn secrets(pem: &str) -> ResolvedSecrets {
        let data = BTreeMap::from([(CA_KEY.to_owned(), ByteString(pem.as_bytes().to_vec()))]);
        let of = |name: &str| (name.to_owned(), data.clone());
        ResolvedSecrets(["a", "b", "c", "d"].map(of).into())
    }

    #[test]
    fn text_that_is_no_certificate_is_named_and_holds_agents_that_would_read_it_at_start() {
        let desired = desired_with(SPEC);
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["hunter2", damaged] {
            let found = malformed_authorities(&desired, &secrets(pem));
            let told: Vec<_> = found
                .iter()
                .map(|found| (found.problem.condition, found.restarts))
                .collect();
            assert_eq!(
                told,
                [
                    (ConditionType::MetadataReachable, true),
                    (ConditionType::StorageReachable, true),
                    (ConditionType::Degraded, false),
                    (ConditionType::MonitoringAvailable, false),
                ]
            );
            for (found, secret) in found.iter().zip(["a", "b", "c", "d"]) {
                let ClusterProblem { reason, message, .. } = &found.problem;
                assert_eq!(*reason, ConditionReason::InvalidSecret);
                let named = format!("Secret {secret}, key ca.crt: ");
                assert!(
                    message.starts_with(&named) && !message.contains("hunter2"),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn an_empty_authority_of_a_listener_is_none() {
        let found = malformed_authorities(&desired_with(SPEC), &secrets("\n"));
        let told: Vec<_> = found.iter().map(|found| found.problem.condition).collect();
        assert_eq!(
            told,
            [ConditionType::MetadataReachable, ConditionType::StorageReachable]
        );
    }
}
