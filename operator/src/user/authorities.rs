//! The CA certificates by which clients verify a listener: read from the Secret of the listener's
//! certificate at each reconciliation, so that a new authority is in the Secret for
//! clients within the drift interval.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{client_files::AUTHORITIES_KEY, error::UserError};
use crate::{api_calls::with_timeout, context::OperatorContext};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Returns the CA certificates in the Secret of a listener's certificate; empty if there are none,
/// as with a public authority. `None` if the Secret does not exist, such as that of a certificate
/// that is being issued.
///
/// # Errors
///
/// Returns the error of the API server.
pub(super) async fn read_authorities(
    context: &OperatorContext,
    namespace: &str,
    secret: &str,
) -> Result<Option<String>, UserError> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let Some(secret) = with_timeout(api.get_opt(secret)).await? else {
        return Ok(None);
    };
    let data = secret.data.unwrap_or_default();
    let pem = data.get(AUTHORITIES_KEY).map(|value| value.0.as_slice());
    Ok(Some(certificates_of(pem.unwrap_or_default()).concat()))
}

/// Returns the certificates in a text and nothing else of it, which may be a private key by
/// mistake.
fn certificates_of(pem: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(pem);
    let mut certificates = Vec::new();
    let mut lines: Option<Vec<&str>> = None;
    for line in text.lines().map(str::trim) {
        if line == BEGIN {
            lines = Some(Vec::new());
        }
        let Some(collected) = &mut lines else { continue };
        collected.push(line);
        if line == END {
            let certificate = format!("{}\n", collected.join("\n"));
            let is_valid = CertificateDer::from_pem_slice(certificate.as_bytes()).is_ok();
            certificates.extend(is_valid.then_some(certificate));
            lines = None;
        }
    }
    certificates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken_from_a_text() {
        let one = format!("{BEGIN}\nAAAA\n{END}\n");
        let two = format!("{BEGIN}\nBBBB\nBBBB\n{END}\n");
        let key = "-----BEGIN PRIVATE KEY-----\nCCCC\n-----END PRIVATE KEY-----\n";
        let text = format!("# the root\r\n{one}{key}\n{two}{BEGIN}\n?\n{END}\n{BEGIN}\nAAAA\n");
        assert_eq!(certificates_of(text.as_bytes()), [one, two]);
        for none in ["", "hunter2", key] {
            assert!(certificates_of(none.as_bytes()).is_empty());
        }
    }
}
