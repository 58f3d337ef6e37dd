//! A whole agent with certificates: records over TLS, clients that speak plain text, a certificate
//! that changes.

use streamhouse_core::protocol::v1::data_service_client::DataServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::*;
use crate::tls::{ListenerKind, tests::TestAuthority};

/// The name in the certificates of the listeners, besides the address that clients connect to.
const CERTIFICATE_NAME: &str = "agents.shop.svc";

async fn start_tls_agent(dir: &Path, authority: &TestAuthority) -> Agent {
    let tls = dir.join("tls");
    for listener in [ListenerKind::Grpc, ListenerKind::Http] {
        authority.write(&tls, listener, CERTIFICATE_NAME);
    }
    let tls = format!("--tls-dir={}", tls.display());
    let one = Agent::start(settings(dir, "one", &[&tls])).await.unwrap();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    one
}

/// Connects a client that trusts `authority` and requires a certificate for `name`.
async fn connect_tls(agent: &Agent, authority: &TestAuthority, name: &str) -> Result<Channel, String> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&authority.pem))
        .domain_name(name);
    let endpoint = Endpoint::from_shared(format!("https://{}", agent.addresses().0)).unwrap();
    let connected = endpoint.tls_config(tls).unwrap().connect().await;
    connected.map_err(|error| format!("{:?}", std::error::Error::source(&error)))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_and_come_over_tls() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    let one = start_tls_agent(dir.path(), &authority).await;
    create_topic(&one, "orders", 1).await;
    let channel = connect_tls(&one, &authority, CERTIFICATE_NAME).await.unwrap();
    let mut data = DataServiceClient::new(channel);
    let mut batch = BatchBuilder::new(Compression::Lz4);
    batch.append::<&str, &str>(0, None, Some(b"tea"), &[]).unwrap();
    let part = v1::PartitionProduce {
        topic: "orders".to_owned(),
        partition: 0,
        records: batch.finish().unwrap(),
        topic_id: String::new(),
    };
    let request = v1::ProduceRequest {
        request_id: 7,
        partitions: vec![part],
        ..Default::default()
    };
    let answers = data.produce(futures::stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert_eq!((answer.request_id, answer.partitions[0].base_offset), (7, 0));
    let asked = v1::PartitionFetch {
        topic: "orders".to_owned(),
        partition: 0,
        offset: 0,
        max_bytes: 1 << 20,
        topic_id: String::new(),
    };
    let fetch = v1::FetchRequest {
        max_wait_ms: 10_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partitions: vec![asked],
    };
    let fetched = data.fetch(fetch).await.unwrap().into_inner();
    assert_eq!(fetched.partitions[0].high_watermark, 1);
    assert!(!fetched.partitions[0].records.is_empty());

    let error = connect_tls(&one, &authority, "other.svc").await.unwrap_err();
    assert!(error.contains("NotValidForName"), "{error}");
    let error = connect_tls(&one, &TestAuthority::new(), CERTIFICATE_NAME)
        .await
        .unwrap_err();
    assert!(
        error.contains("UnknownIssuer") || error.contains("BadSignature"),
        "{error}"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_speak_plain_text_are_told_to_use_tls() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    let one = start_tls_agent(dir.path(), &authority).await;
    let (grpc, http) = one.addresses();
    let channel = Endpoint::from_shared(format!("http://{grpc}"))
        .unwrap()
        .connect_lazy();
    let error = DataServiceClient::new(channel)
        .metadata(v1::MetadataRequest::default())
        .await
        .unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("this port speaks TLS: use https://"), "{error}");
    let mut plain = TcpStream::connect(http).await.unwrap();
    plain
        .write_all(b"GET /ready HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.ends_with("this port speaks TLS: use https://\n"),
        "{answer}"
    );
    let text = one.node.metrics.render().unwrap();
    assert!(
        text.contains("streamhouse_agent_tls_handshake_errors_total{listener=\"grpc\"}"),
        "{text}"
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_serves_new_connections_and_a_bad_one_changes_nothing() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    let one = start_tls_agent(dir.path(), &authority).await;
    let grpc = one.tls().certificate(ListenerKind::Grpc).unwrap();
    let old = connect_tls(&one, &authority, CERTIFICATE_NAME).await.unwrap();

    let another = TestAuthority::new();
    another.write(&dir.path().join("tls"), ListenerKind::Grpc, CERTIFICATE_NAME);
    assert!(grpc.reload().await);
    assert!(connect_tls(&one, &authority, CERTIFICATE_NAME).await.is_err());
    let new = connect_tls(&one, &another, CERTIFICATE_NAME).await.unwrap();

    std::fs::write(dir.path().join("tls/grpc/tls.crt"), "not a certificate").unwrap();
    assert!(!grpc.reload().await);
    connect_tls(&one, &another, CERTIFICATE_NAME).await.unwrap();
    for (what, channel) in [("opened before", old), ("opened after", new)] {
        let asked = DataServiceClient::new(channel)
            .metadata(v1::MetadataRequest::default())
            .await;
        assert_eq!(asked.unwrap().into_inner().agents.len(), 1, "{what}");
    }
    one.drain().await;
}

#[tokio::test]
async fn broken_files_are_refused_before_a_port_is_bound() {
    let (dir, taken) = (
        TempDir::new().unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    std::fs::create_dir_all(dir.path().join("tls/http")).unwrap();
    let tls = format!("--tls-dir={}", dir.path().join("tls").display());
    // An attempt to bind would fail because of the port.
    let listen = format!("--grpc-listen={}", taken.local_addr().unwrap());
    let error = Agent::start(settings(dir.path(), "one", &[&tls, &listen]))
        .await
        .unwrap_err();
    assert!(error.is::<crate::tls::TlsError>(), "{error:#}");
    assert!(error.to_string().contains("http/tls.crt"), "{error:#}");
}
