//! A certificate authority for tests of TLS servers. Its keys are held in memory only.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A certificate authority.
#[derive(Debug)]
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, both in PEM.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl CertificateAuthority {
    /// Creates an authority that no client trusts yet.
    pub fn new() -> anyhow::Result<CertificateAuthority> {
        let mut params = CertificateParams::default();
        // Names are unique: with two authorities of one name, verification would report a bad
        // signature instead of an unknown issuer.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("authority {} of a test", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot sign")?.pem();
        Ok(CertificateAuthority {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Returns the authority's certificate in PEM, for clients to trust.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Issues a server certificate for these names, which may be IP addresses.
    ///
    /// # Errors
    ///
    /// Fails if a name is not valid in a certificate.
    pub fn issue(&self, names: &[&str]) -> anyhow::Result<IssuedCertificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).context("a name cannot stand in a certificate")?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign")?;
        Ok(IssuedCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
