//! Reads the two files of a listener, `tls.crt` and `tls.key`, as one consistent state, and parses
//! them for rustls.

use std::{path::Path, sync::Arc};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// The chain, with the listener's own certificate first.
const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";
/// The authority that issued the certificates of all agents; optional.
const AUTHORITY_FILE: &str = "ca.crt";
/// Longer files cannot be certificates or keys.
const MAX_FILE_BYTES: usize = 1 << 20;
/// How often to read again if the files change while they are read.
const MAX_READ_ATTEMPTS: usize = 3;

/// Both files as of one time. Kubernetes swaps the whole folder at once, but two reads may fall on
/// both sides of a swap.
#[derive(PartialEq, Eq)]
pub(super) struct CertificateFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// Empty if the file is missing.
    authority: Vec<u8>,
}

impl CertificateFiles {
    pub(super) async fn read(directory: &Path) -> Result<Self, TlsError> {
        let mut certificate = read_file(directory, CERTIFICATE_FILE).await?;
        for _ in 0..MAX_READ_ATTEMPTS {
            let key = read_file(directory, KEY_FILE).await?;
            let authority = read_optional_file(directory, AUTHORITY_FILE).await?;
            let again = read_file(directory, CERTIFICATE_FILE).await?;
            if again == certificate {
                return Ok(Self {
                    certificate,
                    key,
                    authority,
                });
            }
            certificate = again;
        }
        Err(TlsError(format!(
            "tls-dir: the files in {} change while they are read; write them once",
            directory.display()
        )))
    }

    /// Returns the certificates of the authority; none if there is no file or an empty one, which
    /// some issuers write.
    ///
    /// # Errors
    /// If the file has anything but certificates: to trust the listener's own instead would be a
    /// choice that nobody made.
    pub(super) fn authority_certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let refuse = |why: &str| {
            TlsError(format!(
                "tls-dir: {AUTHORITY_FILE} cannot be used ({why}); give the PEM certificates of the authority, or \
                 remove the file to trust {CERTIFICATE_FILE}"
            ))
        };
        if self.authority.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.authority).collect();
        // The parser's error may quote its input, which may be a key by mistake.
        let certificates = parsed.map_err(|_| refuse("it is damaged"))?;
        if certificates.is_empty() {
            return Err(refuse("it holds no certificate"));
        }
        let is_damaged = |certificate: &CertificateDer<'_>| X509Certificate::from_der(certificate).is_err();
        if certificates.iter().any(is_damaged) {
            return Err(refuse("it is damaged"));
        }
        Ok(certificates)
    }

    /// Returns the certificate with its key, and the earliest expiry in the chain, in seconds since
    /// the Unix epoch.
    pub(super) fn parse_certified_key(
        &self,
        provider: &CryptoProvider,
    ) -> Result<(Arc<CertifiedKey>, i64), TlsError> {
        let refuse = |file: &str, why: String| {
            Err(TlsError(format!(
                "tls-dir: {file} cannot be used ({why}); give a PEM chain in {CERTIFICATE_FILE} and its private key in {KEY_FILE}"
            )))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = match chain {
            Ok(chain) if chain.is_empty() => {
                return refuse(CERTIFICATE_FILE, "it holds no certificate".to_owned());
            }
            Ok(chain) => chain,
            Err(error) => return refuse(CERTIFICATE_FILE, error.to_string()),
        };
        let mut expires = i64::MAX;
        for certificate in &chain {
            match X509Certificate::from_der(certificate) {
                Ok((_, parsed)) => expires = expires.min(parsed.validity().not_after.timestamp()),
                Err(error) => return refuse(CERTIFICATE_FILE, error.to_string()),
            }
        }
        // The parser's error may quote its input, and the key is secret.
        let Ok(key) = PrivateKeyDer::from_pem_slice(&self.key) else {
            return refuse(KEY_FILE, "it holds no private key in PEM".to_owned());
        };
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(certified) => Ok((Arc::new(certified), expires)),
            Err(error) => refuse("the pair", error.to_string()),
        }
    }
}

async fn read_optional_file(directory: &Path, file: &str) -> Result<Vec<u8>, TlsError> {
    if tokio::fs::try_exists(directory.join(file)).await.unwrap_or(false) {
        read_file(directory, file).await
    } else {
        Ok(Vec::new())
    }
}

async fn read_file(directory: &Path, file: &str) -> Result<Vec<u8>, TlsError> {
    let path = directory.join(file);
    let refuse = |why: String| {
        TlsError(format!(
            "tls-dir: cannot read {}: {why}; put the listener's certificate there, or remove its folder to serve plain text",
            path.display()
        ))
    };
    let content = tokio::fs::read(&path)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    if content.len() > MAX_FILE_BYTES {
        return Err(refuse("it is too large".to_owned()));
    }
    Ok(content)
}
