//! TLS to PostgreSQL from values: certificates are looked at before a connection is tried, so that a wrong one is named.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{Error, Result, TlsMode, TlsOptions};

/// Puts `tls` in the place of what `settings` say.
pub(super) fn apply(settings: PgConnectOptions, tls: &TlsOptions) -> Result<PgConnectOptions> {
    let mode = match (tls.mode, &tls.ca_pem) {
        (TlsMode::Require, None) => PgSslMode::Require,
        (TlsMode::Require, Some(_)) | (TlsMode::VerifyCa, _) => PgSslMode::VerifyCa,
        (TlsMode::VerifyFull, _) => PgSslMode::VerifyFull,
    };
    let settings = settings.ssl_mode(mode);
    match &tls.ca_pem {
        Some(pem) => {
            check(pem)?;
            Ok(settings.ssl_root_cert_from_pem(pem.clone()))
        }
        None => Ok(settings),
    }
}

/// Refuses what holds no certificate, or a damaged one. The driver would trust nobody, and print the text, which may be a key that
/// was given by mistake.
fn check(pem: &[u8]) -> Result<()> {
    let refused = |problem: &str| {
        Error::Unavailable(format!(
            "the CA certificate for PostgreSQL {problem}: give certificates in PEM"
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
