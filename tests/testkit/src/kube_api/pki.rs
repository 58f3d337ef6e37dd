//! Keys and certificates of a test's API server, generated for each server and stored in its
//! folder.
//!
//! Called by `kube_api` only. One authority signs the certificates of the server and of the
//! administrator. The key of service accounts is independent of it.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The files, named after the API server's flags.
#[derive(Debug)]
pub(super) struct TestPki {
    pub(super) authority: PathBuf,
    pub(super) server: CertificatePair,
    pub(super) admin: CertificatePair,
    pub(super) accounts_key: PathBuf,
    pub(super) accounts_public: PathBuf,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug)]
pub(super) struct CertificatePair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl TestPki {
    /// Generates all files in `folder`, which must exist.
    pub(super) fn create(folder: &Path) -> anyhow::Result<TestPki> {
        let mut params = params_for("ca of a test", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = write_file(folder, "ca.crt", &issuer.pem())?;

        let mut server = params_for("kube-apiserver", None)?;
        server.subject_alt_names = CertificateParams::new(vec![
            "127.0.0.1".to_owned(),
            "localhost".to_owned(),
            "kubernetes.default.svc".to_owned(),
        ])?
        .subject_alt_names;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut admin = params_for("admin", Some("system:masters"))?;
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        let accounts = KeyPair::generate()?;
        Ok(TestPki {
            authority,
            server: CertificatePair::create(folder, "server", server, &issuer)?,
            admin: CertificatePair::create(folder, "admin", admin, &issuer)?,
            accounts_key: write_file(folder, "accounts.key", &accounts.serialize_pem())?,
            accounts_public: write_file(folder, "accounts.pub", &accounts.public_key_pem())?,
        })
    }
}

impl CertificatePair {
    fn create(
        folder: &Path,
        name: &str,
        params: CertificateParams,
        issuer: &CertifiedIssuer<'_, KeyPair>,
    ) -> anyhow::Result<CertificatePair> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        Ok(CertificatePair {
            certificate: write_file(folder, &format!("{name}.crt"), &certificate.pem())?,
            key: write_file(folder, &format!("{name}.key"), &key.serialize_pem())?,
        })
    }
}

/// Kubernetes reads the user from the common name and the group from the organization.
fn params_for(name: &str, group: Option<&str>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn write_file(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}
