//! Configures TLS to PostgreSQL. Certificates are validated before a connection is opened, so that
//! an error names them.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{Error, Result, TlsMode, TlsOptions};

/// Overrides the TLS parameters of `settings` with `tls`.
pub(super) fn apply_tls(settings: PgConnectOptions, tls: &TlsOptions) -> Result<PgConnectOptions> {
    let mode = match (tls.mode, &tls.ca_pem) {
        (TlsMode::Require, None) => PgSslMode::Require,
        (TlsMode::Require, Some(_)) | (TlsMode::VerifyCa, _) => PgSslMode::VerifyCa,
        (TlsMode::VerifyFull, _) => PgSslMode::VerifyFull,
    };
    let settings = settings.ssl_mode(mode);
    match &tls.ca_pem {
        Some(pem) => {
            check_certificates(pem)?;
            Ok(settings.ssl_root_cert_from_pem(pem.clone()))
        }
        None => Ok(settings),
    }
}

/// Refuses text without a certificate or with a damaged one. The driver would trust no certificate
/// and print the text, which may be a private key that was given by mistake.
fn check_certificates(pem: &[u8]) -> Result<()> {
    let refused = |problem: &str| {
        Error::Unavailable(format!(
            "the CA certificate for PostgreSQL {problem}: provide certificates in PEM"
        ))
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
