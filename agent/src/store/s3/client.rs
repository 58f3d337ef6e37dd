//! Builds the S3 client from the settings; called once, by [`S3Store::new`](super::S3Store::new).

use std::path::Path;

use aws_config::{
    BehaviorVersion, environment::region::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_s3::{
    Client,
    config::{Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient},
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::{RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::time::Duration;

use super::{
    super::{StoreError, StoreErrorKind, StoreSettings},
    environment::{self, CheckedCredentials},
};

/// Timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the idle timeout of servers and load balancers, so that a pooled connection is not
/// closed while it is taken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of idle connections: as many as uploads and reads may run concurrently.
const MAX_IDLE_CONNECTIONS: usize = 64;
/// The region for stores without regions.
const DEFAULT_REGION: &str = "us-east-1";

/// Builds the client. Sends no request to S3, but may look up the region in the environment.
pub(super) async fn build_client(settings: &StoreSettings) -> Result<Client, StoreError> {
    let http = http_client(settings.ca_file.as_deref()).await?;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .region(region_provider(settings));
    if let Some(keys) = &settings.credentials {
        loader = loader.credentials_provider(Credentials::new(
            &keys.access_key_id,
            &keys.secret_access_key,
            keys.session_token.clone(),
            None,
            "settings",
        ));
    }
    let loaded = loader.load().await;
    let mut config = Builder::from(&loaded)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(settings.path_style.unwrap_or(settings.endpoint.is_some()));
    if let Some(keys) = loaded.credentials_provider() {
        config = config.credentials_provider(SharedCredentialsProvider::new(CheckedCredentials::new(keys)));
    }
    if let Some(region) = loaded.region() {
        let region = environment::trim_region(region.as_ref()).map_err(invalid_setting)?;
        config = config.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(check_endpoint(endpoint)?);
    }
    Ok(Client::from_conf(config.build()))
}

fn region_provider(settings: &StoreSettings) -> RegionProviderChain {
    let chain = RegionProviderChain::first_try(settings.region.clone().map(Region::new));
    if settings.endpoint.is_some() {
        // Not AWS: the instance metadata service, last in the default chain, would be asked in
        // vain.
        return chain
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(DEFAULT_REGION);
    }
    chain.or_default_provider().or_else(DEFAULT_REGION)
}

fn check_endpoint(endpoint: &str) -> Result<&str, StoreError> {
    let host = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"))
        .unwrap_or_default();
    // The message does not repeat the endpoint: a wrong one may contain a password.
    if host.is_empty() || host.contains(['@', '?', '#']) || !host.chars().all(|c| c.is_ascii_graphic()) {
        return Err(invalid_setting(
            "the endpoint is not a url like https://minio.example:9000",
        ));
    }
    Ok(endpoint)
}

async fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient, StoreError> {
    let mut trust = TrustStore::default();
    if let Some(path) = ca_file {
        let pem = tokio::fs::read(path).await.map_err(|error| {
            invalid_setting(format!(
                "cannot read the CA file {} ({error}); check the path",
                path.display()
            ))
        })?;
        check_certificates(path, &pem)?;
        trust.add_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|error| invalid_setting(format!("cannot set up TLS: {error}")))?;
    Ok(aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

/// Validates the certificates first, since the HTTP client panics on damaged ones.
fn check_certificates(path: &Path, pem: &[u8]) -> Result<(), StoreError> {
    let damaged = |why: String| {
        invalid_setting(format!(
            "the CA file {} does not contain valid PEM certificates ({why}); give a CA bundle",
            path.display()
        ))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| damaged(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| damaged(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(damaged("none found".to_owned()))
    } else {
        Ok(())
    }
}

fn invalid_setting(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Other, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ca_file_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        for content in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&path, content).unwrap();
            let error = http_client(Some(&path)).await.unwrap_err();
            assert!(
                error.message().contains("give a CA bundle"),
                "{content:?}: {error}"
            );
        }
        let error = http_client(Some(&directory.path().join("absent.pem")))
            .await
            .unwrap_err();
        assert!(error.message().contains("check the path"), "{error}");
    }

    #[test]
    fn an_endpoint_is_a_url_without_credentials() {
        for good in ["http://127.0.0.1:9000", "https://minio.example"] {
            assert_eq!(check_endpoint(good).unwrap(), good);
        }
        for bad in [
            "minio:9000",
            "http://",
            "https://user:secret@minio",
            "ftp://minio",
            "http://minio\n:9000",
            "http://minio 1:9000",
        ] {
            let error = check_endpoint(bad).unwrap_err();
            assert!(!error.message().contains("secret"), "{error}");
        }
    }
}
