//! S3 as object store, against a real MinIO: the common rules, and failures of servers and
//! networks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

mod store_conformance;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use streamhouse_agent::store::{
    GetRange, ObjectStore, RetryPolicy, S3Credentials, StoreErrorKind, StoreOperation, StoreSettings,
    check_store,
    fault::{FaultStore, Toxic, ToxicKind},
    open_store, put_settled,
};
use streamhouse_core::time::{SystemEntropy, system_entropy};
use streamhouse_testkit::MinIo;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

fn settings(server: &MinIo, url: &str) -> StoreSettings {
    StoreSettings {
        url: url.to_owned(),
        endpoint: Some(server.endpoint()),
        credentials: Some(S3Credentials {
            access_key_id: server.access_key().to_owned(),
            secret_access_key: server.secret_key().to_owned(),
            session_token: None,
        }),
        ..StoreSettings::default()
    }
}

async fn bucket(server: &MinIo, name: &str) -> Arc<dyn ObjectStore> {
    server.create_bucket(name).unwrap();
    open_store(&settings(server, &format!("s3://{name}")))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minio_keeps_the_rules() {
    let store = bucket(MinIo::shared().unwrap(), "rules").await;
    store_conformance::run_all(store.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_and_a_decorator_keep_the_rules() {
    let server = MinIo::shared().unwrap();
    server.create_bucket("prefixed").unwrap();
    let store = open_store(&settings(server, "s3://prefixed/some/where/"))
        .await
        .unwrap();
    assert_eq!(store.describe(), "s3://prefixed/some/where");
    store_conformance::run_all(&FaultStore::new(store, system_entropy())).await;
    let keys = server.objects("prefixed").unwrap();
    assert!(
        !keys.is_empty() && keys.iter().all(|key| key.starts_with("some/where/")),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_good_bucket_passes_the_check_and_stays_clean() {
    let server = MinIo::shared().unwrap();
    let store = bucket(server, "checked").await;
    check_store(store.as_ref(), &SystemEntropy).await.unwrap();
    assert!(server.objects("checked").unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_bucket_is_named_by_every_operation() {
    let store = open_store(&settings(MinIo::shared().unwrap(), "s3://not-there"))
        .await
        .unwrap();
    let keys = ["a".to_owned()];
    for error in [
        check_store(store.as_ref(), &SystemEntropy).await.unwrap_err(),
        store.put_new("a", Bytes::from_static(b"a")).await.unwrap_err(),
        store.get("a", GetRange::Full).await.unwrap_err(),
        store.head("a").await.unwrap_err(),
        store.list("a", None, 1).await.unwrap_err(),
        store.delete(&keys).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::MissingBucket, "{error}");
        assert!(
            error.message().contains("no bucket not-there; create it"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_with_advice() {
    let server = MinIo::shared().unwrap();
    server.create_bucket("guarded").unwrap();
    for (id, secret) in [("minioadmin", "wrong-hush-hush"), ("nobody", "wrong-hush-hush")] {
        let mut settings = settings(server, "s3://guarded");
        settings.credentials = Some(S3Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: None,
        });
        let store = open_store(&settings).await.unwrap();
        let error = check_store(store.as_ref(), &SystemEntropy).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
        assert!(error.message().contains("check the credentials"), "{error}");
        assert!(!format!("{error} {error:?} {store:?} {settings:?}").contains("hush-hush"));
        let error = store.get("a", GetRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_without_a_server_is_unavailable() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = StoreSettings {
        endpoint: Some(format!("http://{closed}")),
        ..settings(MinIo::shared().unwrap(), "s3://somewhere")
    };
    let error = check_store(open_store(&settings).await.unwrap().as_ref(), &SystemEntropy)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert!(
        error.is_retryable() && error.message().contains("check the endpoint"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_unavailable() {
    let server = MinIo::shared().unwrap();
    let settings = StoreSettings {
        endpoint: Some(server.endpoint().replace("http://", "https://")),
        ..settings(server, "s3://somewhere")
    };
    let error = check_store(open_store(&settings).await.unwrap().as_ref(), &SystemEntropy)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_unavailable_and_a_waiting_put_survives_it() {
    let server = MinIo::start().unwrap();
    let store = bucket(&server, "outage").await;
    store.put_new("before", Bytes::from_static(b"1")).await.unwrap();
    server.stop().unwrap();
    let error = store
        .put_new("during", Bytes::from_static(b"2"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let error = store.get("before", GetRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");

    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            put_settled(
                store.as_ref(),
                "waiting",
                Bytes::from_static(b"3"),
                &RetryPolicy::default(),
            )
            .await
        }
    });
    server.start_again().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(store.get("waiting", GetRange::Full).await.unwrap(), "3");
    assert_eq!(store.get("before", GetRange::Full).await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_and_throttling_are_settled() {
    let store = bucket(MinIo::shared().unwrap(), "settled").await;
    let faults = FaultStore::new(store.clone(), system_entropy());
    let lost = faults.add(
        Toxic::new(ToxicKind::LoseReply)
            .on(&[StoreOperation::Put])
            .times(1),
    );
    let slow = faults.add(
        Toxic::new(ToxicKind::Error(StoreErrorKind::Throttled))
            .on(&[StoreOperation::Put])
            .times(3),
    );
    let body = Bytes::from(vec![9; 100_000]);
    put_settled(&faults, "a", body.clone(), &RetryPolicy::default())
        .await
        .unwrap();
    assert_eq!((faults.hits(lost), faults.hits(slow)), (1, 3));
    assert_eq!(store.get("a", GetRange::Full).await.unwrap(), body);
}

/// Forwards connections to `target` and counts them.
async fn counting_proxy(target: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let target = target.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (format!("http://{address}"), count)
}

/// Yields to the other tasks after each request, on one thread: the test is about which connections
/// the store keeps, not about whether a connection is back in the pool before the next request.
async fn yield_to_tasks<T>(answered: T) -> T {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    answered
}

#[tokio::test]
async fn connections_are_kept_and_reused() {
    let server = MinIo::shared().unwrap();
    server.create_bucket("reuse").unwrap();
    let (endpoint, connections) = counting_proxy(format!("127.0.0.1:{}", server.port())).await;
    let store = open_store(&StoreSettings {
        endpoint: Some(endpoint),
        ..settings(server, "s3://reuse")
    })
    .await
    .unwrap();
    for n in 0..20 {
        let key = format!("{n}");
        let put = || store.put_new(&key, Bytes::from(vec![0; 50_000]));
        yield_to_tasks(put().await).await.unwrap();
        yield_to_tasks(put().await).await.unwrap_err();
        yield_to_tasks(store.get(&key, GetRange::Suffix(100)).await)
            .await
            .unwrap();
        yield_to_tasks(store.get("missing", GetRange::Full).await)
            .await
            .unwrap_err();
    }
    // A request that starts before the last connection is back in the pool may open one more.
    let opened = connections.load(Ordering::SeqCst);
    assert!(opened <= 4, "80 requests opened {opened} connections");
    for _ in 0..5 {
        let got = join_all((0..4).map(|_| store.get("0", GetRange::Full))).await;
        yield_to_tasks(got)
            .await
            .into_iter()
            .for_each(|got| drop(got.unwrap()));
    }
    assert!(
        connections.load(Ordering::SeqCst) <= 5,
        "one for each request at a time"
    );
}

/// Terminates TLS in front of `target`; returns its address and the certificate of its authority.
async fn tls_proxy(target: String) -> (String, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                if let (Ok(mut client), Ok(mut server)) =
                    (acceptor.accept(client).await, TcpStream::connect(target).await)
                {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (format!("https://{address}"), authority_pem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_accepted_only_from_a_trusted_authority() {
    let server = MinIo::shared().unwrap();
    server.create_bucket("tls").unwrap();
    let (endpoint, authority) = tls_proxy(format!("127.0.0.1:{}", server.port())).await;
    let untrusting = StoreSettings {
        endpoint: Some(endpoint),
        ..settings(server, "s3://tls")
    };
    let error = check_store(open_store(&untrusting).await.unwrap().as_ref(), &SystemEntropy)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("set the CA file"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority).unwrap();
    let trusting = StoreSettings {
        ca_file: Some(ca_file),
        ..untrusting
    };
    let store = open_store(&trusting).await.unwrap();
    check_store(store.as_ref(), &SystemEntropy).await.unwrap();
    let body = Bytes::from(vec![5; 3 << 20]);
    store.put_new("a", body.clone()).await.unwrap();
    assert!(store.get("a", GetRange::Full).await.unwrap() == body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_does_not_hold_a_put_beyond_its_deadline() {
    let server = MinIo::start().unwrap();
    let store = bucket(&server, "hang").await;
    server.pause().unwrap();
    let retry = RetryPolicy {
        attempt_timeout: Duration::from_millis(300),
        deadline: Some(tokio::time::Instant::now() + Duration::from_secs(1)),
        ..RetryPolicy::default()
    };
    let error = put_settled(store.as_ref(), "a", Bytes::from_static(b"a"), &retry)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout, "{error}");
    server.resume().unwrap();
    put_settled(
        store.as_ref(),
        "b",
        Bytes::from_static(b"b"),
        &RetryPolicy::default(),
    )
    .await
    .unwrap();
    assert_eq!(store.get("b", GetRange::Full).await.unwrap(), "b");
}
