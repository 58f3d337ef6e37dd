//! Ports without an agent: connection slots, handshakes, plain text at a TLS port, the limits of
//! HTTP.

use std::io;

use axum::{Router, routing::get};
use futures::{FutureExt, Stream, StreamExt, future};
use prometheus::IntCounter;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::server::Connected;

use super::{connections::ClientConnection, *};
use crate::tls::tests::TestAuthority;

type AcceptedConnections = std::pin::Pin<Box<dyn Stream<Item = io::Result<ClientConnection>> + Send>>;

/// Longer than any test takes.
const LONG_TIMEOUT: Duration = Duration::from_secs(3600);
/// Short enough to elapse in a test.
const SHORT_TIMEOUT: Duration = Duration::from_millis(50);

/// A port with a certificate for `localhost`, or without one.
struct TestPort {
    accepted: AcceptedConnections,
    address: SocketAddr,
    open: IntGauge,
    failures: IntCounter,
    authority: TestAuthority,
}

async fn bind_test_port(limit: usize, secure: Option<ListenerKind>) -> TestPort {
    bind_with_timeout(limit, secure, LONG_TIMEOUT).await
}

async fn bind_with_timeout(limit: usize, secure: Option<ListenerKind>, patience: Duration) -> TestPort {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    let security = match secure {
        None => None,
        Some(listener) => {
            authority.write(dir.path(), listener, "localhost");
            let tls = ListenerCertificates::load(Some(dir.path()), &[], &metrics)
                .await
                .unwrap();
            connection_security(tls.certificate(listener), &metrics).unwrap()
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, open) = (
        listener.local_addr().unwrap(),
        IntGauge::new("open", "test").unwrap(),
    );
    let rules = ConnectionPolicy {
        limit,
        limit_per_address: 3,
        open_connections: open.clone(),
        traffic: metrics.listener_traffic("test"),
        security,
        preface_bytes: 3,
        handshake_timeout: patience,
    };
    TestPort {
        accepted: Box::pin(connections::accept(listener, rules)),
        address,
        open,
        failures: metrics.handshake_error_counter(secure.map_or("none", ListenerKind::name)),
        authority,
    }
}

/// Connects a client that trusts the authority and uses `protocol`.
async fn connect_tls(
    bound: &TestPort,
    protocol: &str,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(bound.authority.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(bound.address).await?;
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Returns the port's answer to `request`, until it closes the connection.
async fn read_response(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_a_place() {
    let mut bound = bind_test_port(1, None).await;
    let _one = TcpStream::connect(bound.address).await.unwrap();
    let first = bound.accepted.next().await.unwrap().unwrap();
    assert!(first.connect_info().remote_addr().is_some());
    let _two = TcpStream::connect(bound.address).await.unwrap();
    assert!(bound.accepted.next().now_or_never().is_none());
    assert_eq!(bound.open.get(), 1);
    drop(first);
    let _second = bound.accepted.next().await.unwrap().unwrap();
    assert_eq!(bound.open.get(), 1);
}

#[tokio::test]
async fn a_connection_of_an_address_that_has_too_many_is_closed() {
    let mut bound = bind_test_port(9, None).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(TcpStream::connect(bound.address).await.unwrap());
    }
    let first = bound.accepted.next().await.unwrap().unwrap();
    let _second = bound.accepted.next().await.unwrap().unwrap();
    let _third = bound.accepted.next().await.unwrap().unwrap();
    let closed = async { clients[3].read(&mut [0]).await.unwrap_or(0) };
    tokio::select! {
        _ = bound.accepted.next() => panic!("it is the fourth of its address"),
        read = closed => assert_eq!(read, 0),
    }
    drop(first);
    let _again = TcpStream::connect(bound.address).await.unwrap();
    let _fourth = bound.accepted.next().await.unwrap().unwrap();
    assert_eq!(bound.open.get(), 3);
}

#[tokio::test]
async fn a_secure_connection_comes_out_while_another_client_says_nothing() {
    let mut bound = bind_test_port(2, Some(ListenerKind::Grpc)).await;
    let _silent = TcpStream::connect(bound.address).await.unwrap();
    let mut accepted = std::mem::replace(&mut bound.accepted, Box::pin(futures::stream::empty()));
    let (client, server) = future::join(connect_tls(&bound, "h2"), accepted.next()).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap().unwrap());
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(server.connect_info().remote_addr().is_some());
    client.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, bound.open.get()), (b"ping", 2));
}

#[tokio::test]
async fn another_protocol_and_plain_text_are_refused_with_the_reason() {
    let mut bound = bind_test_port(3, Some(ListenerKind::Grpc)).await;
    let mut accepted = std::mem::replace(&mut bound.accepted, Box::pin(futures::stream::empty()));
    let accepting = tokio::spawn(async move { accepted.next().await.is_some() });
    let error = connect_tls(&bound, "http/1.1").await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    let answer = read_response(bound.address, b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("use https://\n"),
        "{answer}"
    );
    let answer = read_response(bound.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(
        answer.ends_with(b"this port speaks TLS: use https://"),
        "{answer:?}"
    );
    let all_failed = async {
        while bound.failures.get() < 3 || bound.open.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), all_failed).await.unwrap();
    assert!(!accepting.is_finished(), "none of them came out");
    accepting.abort();
}

#[tokio::test]
async fn a_client_that_says_nothing_loses_its_place() {
    let mut bound = bind_with_timeout(1, Some(ListenerKind::Http), SHORT_TIMEOUT).await;
    let mut silent = TcpStream::connect(bound.address).await.unwrap();
    let mut accepted = std::mem::replace(&mut bound.accepted, Box::pin(futures::stream::empty()));
    let accepting = tokio::spawn(async move { accepted.next().await.is_some() });
    assert_eq!(
        silent.read(&mut [0]).await.unwrap_or(0),
        0,
        "the connection is closed"
    );
    assert_eq!((bound.failures.get(), bound.open.get()), (1, 0));
    accepting.abort();
}

#[tokio::test]
async fn a_client_that_does_not_begin_is_not_waited_for() {
    let mut bound = bind_with_timeout(2, None, SHORT_TIMEOUT).await;
    let mut slow = TcpStream::connect(bound.address).await.unwrap();
    let mut served = bound.accepted.next().await.unwrap().unwrap();
    slow.write_all(b"PR").await.unwrap();
    let error = served.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_client_that_has_begun_may_be_silent() {
    let mut bound = bind_with_timeout(1, None, SHORT_TIMEOUT).await;
    let mut prompt = TcpStream::connect(bound.address).await.unwrap();
    prompt.write_all(b"PRI").await.unwrap();
    let mut served = bound.accepted.next().await.unwrap().unwrap();
    let mut begin = [0; 3];
    served.read_exact(&mut begin).await.unwrap();
    let more = timeout(SHORT_TIMEOUT * 4, served.read(&mut begin)).await;
    assert!(more.is_err(), "nothing ends it: {more:?}");
}

/// Serves "fine" at `/` until `stop` is dropped; headers must arrive within `headers`.
async fn serve_http(
    secure: bool,
    headers: Duration,
) -> (
    TestPort,
    tokio::sync::oneshot::Sender<()>,
    tokio::task::JoinHandle<io::Result<()>>,
) {
    let mut bound = bind_test_port(2, secure.then_some(ListenerKind::Http)).await;
    let accepted = std::mem::replace(&mut bound.accepted, Box::pin(futures::stream::empty()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let router = Router::new().route("/", get(async || "fine"));
    let serving = tokio::spawn(http::serve_http(
        accepted,
        router,
        headers,
        stopped.map(drop).shared(),
    ));
    (bound, stop, serving)
}

#[tokio::test]
async fn pages_are_served_over_tls() {
    let (bound, stop, serving) = serve_http(true, LONG_TIMEOUT).await;
    let mut client = connect_tls(&bound, "http/1.1").await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("fine"),
        "{answer}"
    );
    drop(stop);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn headers_that_are_too_large_or_too_many_are_refused() {
    let (bound, _stop, _serving) = serve_http(false, LONG_TIMEOUT).await;
    let large = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nlarge: {}\r\n\r\n",
        "x".repeat(32 << 10)
    );
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    for (what, request) in [("large", large), ("many", many)] {
        let answer = read_response(bound.address, request.as_bytes()).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 431 "),
            "{what}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let (bound, _stop, _serving) = serve_http(false, SHORT_TIMEOUT).await;
    let mut slow = TcpStream::connect(bound.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    while bound.open.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let (bound, stop, serving) = serve_http(false, LONG_TIMEOUT).await;
    let mut idle = TcpStream::connect(bound.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut begin = [0; 12];
    idle.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    drop(stop);
    serving.await.unwrap().unwrap();
    assert_eq!(bound.open.get(), 0);
}

#[tokio::test]
async fn a_listener_on_every_interface_accepts_both_families() {
    let ports = ServerPorts::bind("[::]:0", "[::]:0", "", Vec::new())
        .await
        .unwrap();
    let (grpc, http) = ports.addresses().unwrap();
    for port in [grpc.port(), http.port()] {
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            TcpStream::connect(&address).await.unwrap();
        }
    }
}
