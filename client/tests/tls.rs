//! Mutual TLS: a server that requires certificates accepts only clients with one of its authority.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

mod fake_agent;

use std::time::Duration;

use fake_agent::FakeCluster;
use streamhouse_client::{Client, ClientConfig, ClientIdentity, Producer, Record, metrics::MetricsRegistry};
use streamhouse_testkit::CertificateAuthority;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Starts a cluster of one agent that requires certificates of `clients`. Returns settings that
/// trust it.
async fn strict_cluster(clients: &CertificateAuthority) -> (FakeCluster, ClientConfig) {
    let agents = CertificateAuthority::new().unwrap();
    let own = agents.issue(&["localhost"]).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(own.certificate, own.key))
        .client_ca_root(Certificate::from_pem(clients.pem()));
    let cluster = FakeCluster::start_secure(tls).await;
    cluster.create("t", 1);
    let mut settings = ClientConfig::new(format!("https://{}", cluster.address(0)));
    settings.tls_ca_pem = Some(agents.pem().into());
    settings.tls_server_name = Some("localhost".to_owned());
    settings.api_timeout = Duration::from_millis(500);
    (cluster, settings)
}

fn identity(authority: &CertificateAuthority) -> ClientIdentity {
    let issued = authority.issue(&["billing"]).unwrap();
    ClientIdentity::new(issued.certificate, issued.key)
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_right_authority_is_let_in() {
    let clients = CertificateAuthority::new().unwrap();
    let (cluster, settings) = strict_cluster(&clients).await;
    let producer = Producer::builder()
        .client_config(settings)
        .tls_identity(identity(&clients))
        .metrics_registry(MetricsRegistry::new());
    let producer = producer.build().await.unwrap();
    producer
        .send(Record::new("t", "tea"))
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(cluster.values("t", 0), ["tea"]);
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_a_strangers_is_refused() {
    let clients = CertificateAuthority::new().unwrap();
    let (_cluster, settings) = strict_cluster(&clients).await;
    let stranger = Some(identity(&CertificateAuthority::new().unwrap()));
    for identity in [None, stranger] {
        let mut settings = settings.clone();
        settings.tls_identity = identity;
        let producer = Producer::builder()
            .client(&Client::new(settings).unwrap())
            .metrics_registry(MetricsRegistry::new())
            .max_block(Duration::from_millis(500));
        let error = producer.build().await.unwrap().topic("t").await.unwrap_err();
        assert!(
            error.to_string().contains("no agent answers at 127.0.0.1:"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_is_none_is_refused_by_name() {
    let mut settings = ClientConfig::new("https://localhost:1");
    settings.tls_identity = Some(ClientIdentity::new("hush", "hush"));
    let error = Client::new(settings).unwrap_err().to_string();
    assert!(
        error.contains("tls_identity") && !error.contains("hush"),
        "{error}"
    );
    let authority = CertificateAuthority::new().unwrap();
    let (one, other) = (authority.issue(&["a"]).unwrap(), authority.issue(&["a"]).unwrap());
    let mut settings = ClientConfig::new("https://localhost:1");
    settings.tls_identity = Some(ClientIdentity::new(one.certificate, other.key));
    let error = Client::new(settings).unwrap_err().to_string();
    assert!(error.contains("a certificate with its private key"), "{error}");
    let mut settings = ClientConfig::new("https://localhost:1");
    settings.tls_ca_pem = Some(b"hush".to_vec());
    let error = Client::new(settings).unwrap_err().to_string();
    assert!(error.contains("tls_ca_pem") && !error.contains("hush"), "{error}");
}
