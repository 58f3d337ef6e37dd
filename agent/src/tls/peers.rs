//! TLS of connections that this agent opens to the gRPC listeners of other agents.
//!
//! Agents of a cluster have certificates of one authority, and usually the same certificate. It
//! names the service rather than each agent, whose address is often an IP address. So a peer is
//! trusted with this agent's own certificate, or with one of the authority for the peer's host or
//! for a name in this agent's certificate.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{ListenerCertificate, ListenerKind, TlsError};

impl ListenerCertificate {
    /// Returns the TLS configuration of connections to other agents' listeners of this name. Each
    /// connection asks for it again, since the files may have changed.
    ///
    /// # Errors
    /// If the trusted certificates cannot be used.
    pub fn peer_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unverifiable(&error))?;
        let mut config = config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.peer_verifier()?))
            .with_no_client_auth();
        config.alpn_protocols = ListenerKind::Grpc
            .alpn_protocol()
            .map(<[u8]>::to_vec)
            .into_iter()
            .collect();
        Ok(Arc::new(config))
    }

    fn peer_verifier(&self) -> Result<PeerVerifier, TlsError> {
        let loaded = self.loaded.load();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.files.authority_certificates()?);
        if roots.is_empty() {
            roots.add_parsable_certificates(loaded.key.cert.iter().cloned());
        }
        let own = loaded.key.cert.first().cloned();
        let own = own.ok_or_else(|| self.unverifiable(&"there is none"))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| self.unverifiable(&error))?;
        Ok(PeerVerifier {
            verifier,
            names: server_names(&own),
            own,
        })
    }

    fn unverifiable(&self, why: &dyn fmt::Display) -> TlsError {
        TlsError(format!(
            "tls-dir: the certificates of other agents cannot be verified ({why}); put their authority into {}",
            self.directory.join("ca.crt").display()
        ))
    }
}

/// Returns the names in a certificate, without patterns.
fn server_names(certificate: &CertificateDer<'_>) -> Vec<ServerName<'static>> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => ServerName::try_from((*name).to_owned()).ok(),
        _ => None,
    });
    names.collect()
}

/// Verifies the certificates of other agents; see the module.
#[derive(Debug)]
struct PeerVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    /// This agent's own certificate.
    own: CertificateDer<'static>,
    /// The names in it.
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.own {
            // Only who has this agent's private key can complete the handshake.
            return Ok(ServerCertVerified::assertion());
        }
        let verify = |name: &ServerName<'_>| {
            self.verifier
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let mut verified = verify(server_name);
        for name in &self.names {
            if !matches!(&verified, Err(error) if is_name_mismatch(error)) {
                break;
            }
            verified = verify(name);
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn is_name_mismatch(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::{
        super::{ListenerCertificates, tests::TestAuthority},
        *,
    };
    use crate::metrics::AgentMetrics;

    async fn load(tls: &Path) -> Arc<ListenerCertificate> {
        let metrics = Arc::new(AgentMetrics::new().unwrap());
        let loaded = ListenerCertificates::load(Some(tls), &[], &metrics)
            .await
            .unwrap();
        loaded.certificate(ListenerKind::Grpc).unwrap().clone()
    }

    /// Returns whether an agent whose files are in `own` trusts the certificate in `peer` of an
    /// agent at this host.
    async fn trusts(own: &Path, peer: &Path, host: &str) -> Result<(), String> {
        let own = load(own).await;
        let peer = load(peer).await.loaded.load().key.cert.clone();
        own.peer_config().unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let verified = own.peer_verifier().unwrap().verify_server_cert(
            &peer[0],
            &peer[1..],
            &name,
            &[],
            UnixTime::now(),
        );
        verified.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_peer_is_held_to_the_authority_and_to_a_name() {
        let dir = TempDir::new().unwrap();
        let folder = |name: &str| dir.path().join(name);
        let (ours, other) = (TestAuthority::new(), TestAuthority::new());
        for (tls, authority, name) in [
            ("one", &ours, "agents.shop.svc"),
            ("two", &ours, "agents.shop.svc"),
            ("named", &ours, "two.shop.svc"),
            ("foreign", &other, "agents.shop.svc"),
        ] {
            authority.write(&folder(tls), ListenerKind::Grpc, name);
            std::fs::write(folder(tls).join("grpc/ca.crt"), &ours.pem).unwrap();
        }
        let one = folder("one");
        assert_eq!(
            trusts(&one, &folder("two"), "10.0.0.2").await,
            Ok(()),
            "by the own name"
        );
        assert_eq!(
            trusts(&one, &folder("named"), "two.shop.svc").await,
            Ok(()),
            "by its host"
        );
        let error = trusts(&one, &folder("named"), "10.0.0.2").await.unwrap_err();
        assert!(error.contains("not valid for"), "{error}");
        let error = trusts(&one, &folder("foreign"), "agents.shop.svc")
            .await
            .unwrap_err();
        assert!(
            error.contains("UnknownIssuer") || error.contains("BadSignature"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn without_an_authority_the_own_certificate_is_trusted() {
        let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        authority.write(&one, ListenerKind::Grpc, "agents.shop.svc");
        authority.write(&two, ListenerKind::Grpc, "agents.shop.svc");
        assert_eq!(
            trusts(&one, &one, "10.0.0.2").await,
            Ok(()),
            "all agents share one"
        );
        trusts(&one, &two, "agents.shop.svc").await.unwrap_err();
        std::fs::write(one.join("grpc/ca.crt"), "").unwrap();
        assert_eq!(
            trusts(&one, &one, "10.0.0.2").await,
            Ok(()),
            "an empty file is none"
        );
        std::fs::write(one.join("grpc/ca.crt"), &authority.pem).unwrap();
        assert_eq!(trusts(&one, &two, "agents.shop.svc").await, Ok(()));
    }
}
