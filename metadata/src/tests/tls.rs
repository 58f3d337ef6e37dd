//! TLS to a real PostgreSQL that requires it.

use std::sync::OnceLock;

use streamhouse_testkit::{CertificateAuthority, Postgres};

use super::support::options;
use crate::{
    ConnectOptions, Error, MigrationOutcome, SCHEMA_WINDOW, SchemaState, TlsMode, TlsOptions, connect,
    drop_schema, migrate, schema,
};

const SECRET: &str = "sEcReT";

/// Returns a server whose certificate names `localhost`, but not the address 127.0.0.1 of its URLs.
fn tls_server() -> &'static (CertificateAuthority, Postgres) {
    static SERVER: OnceLock<(CertificateAuthority, Postgres)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let authority = CertificateAuthority::new().unwrap();
        let server = Postgres::start_with_tls(&authority, &["localhost"]).unwrap();
        (authority, server)
    })
}

fn tls_options(mode: TlsMode, ca: Option<&CertificateAuthority>) -> ConnectOptions {
    ConnectOptions {
        tls: Some(TlsOptions {
            mode,
            ca_pem: ca.map(|ca| ca.pem().as_bytes().to_vec()),
        }),
        ..options()
    }
}

/// Replaces the address by the name in the certificate.
fn with_host_name(url: &str) -> String {
    url.replace("127.0.0.1", "localhost")
}

/// Checks that every function that connects fails with the same message, without the password.
async fn assert_refused(url: &str, options: &ConnectOptions, says: &str) {
    let url = url.replace(":streamhouse@", &format!(":{SECRET}@"));
    for result in [
        connect(&url, options).await.map(|_| ()),
        migrate(&url, options).await.map(|_| ()),
        schema(&url, options).await.map(|_| ()),
        drop_schema(&url, options).await.map(|_| ()),
    ] {
        let Err(Error::Unavailable(message)) = result else {
            panic!("{options:?}: {result:?}")
        };
        assert!(message.contains(says), "{options:?}: {message}");
        assert!(!message.contains(SECRET), "{message}");
    }
}

#[tokio::test]
async fn a_ca_in_memory_lets_everything_in() {
    let (authority, server) = tls_server();
    let url = with_host_name(&server.create_database("trusted").unwrap());
    let options = tls_options(TlsMode::VerifyFull, Some(authority));
    assert_eq!(
        schema(&url, &options).await.unwrap(),
        SchemaState {
            found: 0,
            window: SCHEMA_WINDOW
        }
    );
    assert_eq!(
        migrate(&url, &options).await.unwrap(),
        MigrationOutcome { from: 0, to: 7 }
    );
    let store = connect(&url, &options).await.unwrap();
    store.ping().await.unwrap();
    let encrypted = "SELECT count(*) > 0, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE datname = 'trusted'";
    assert_eq!(server.admin_sql("postgres", encrypted).unwrap(), "t|t");
    assert!(drop_schema(&url, &options).await.unwrap());
}

#[tokio::test]
async fn each_mode_checks_what_it_says() {
    let (authority, server) = tls_server();
    let other = CertificateAuthority::new().unwrap();
    let url = server.create_database("modes").unwrap();
    migrate(&url, &tls_options(TlsMode::Require, None)).await.unwrap();
    for (url, mode, ca) in [
        (url.clone(), TlsMode::Require, None),
        (url.clone(), TlsMode::Require, Some(authority)),
        (url.clone(), TlsMode::VerifyCa, Some(authority)),
        (with_host_name(&url), TlsMode::VerifyFull, Some(authority)),
    ] {
        connect(&url, &tls_options(mode, ca))
            .await
            .unwrap()
            .ping()
            .await
            .unwrap();
    }
    let untrusted = "the server's certificate was refused (invalid peer certificate: UnknownIssuer)";
    for (mode, ca) in [
        (TlsMode::Require, Some(&other)),
        (TlsMode::VerifyCa, Some(&other)),
        (TlsMode::VerifyCa, None),
        (TlsMode::VerifyFull, Some(&other)),
        (TlsMode::VerifyFull, None),
    ] {
        assert_refused(&with_host_name(&url), &tls_options(mode, ca), untrusted).await;
    }
    assert_refused(
        &url,
        &tls_options(TlsMode::VerifyFull, Some(authority)),
        "certificate not valid for name \"127.0.0.1\"",
    )
    .await;
}

#[tokio::test]
async fn values_go_before_the_address() {
    let (authority, server) = tls_server();
    let url = server.create_database("addresses").unwrap();
    let plain = format!("{url}?sslmode=disable");
    assert_refused(&plain, &options(), "no encryption").await;
    migrate(&plain, &tls_options(TlsMode::VerifyCa, Some(authority)))
        .await
        .unwrap();
    let strict = format!("{}?sslmode=verify-full", with_host_name(&url));
    assert_refused(&strict, &options(), "UnknownIssuer").await;
    connect(&strict, &tls_options(TlsMode::Require, None))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_refused() {
    let url = Postgres::shared().unwrap().url("postgres");
    assert_refused(&url, &tls_options(TlsMode::Require, None), "does not support TLS").await;
}

#[tokio::test]
async fn what_is_no_certificate_is_refused_and_not_told() {
    let (authority, server) = tls_server();
    let url = server.url("postgres");
    let key = authority.issue(&["localhost"]).unwrap().key;
    let damaged = authority.pem().replace("-----END CERTIFICATE-----", "");
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, says) in [
        ("", "holds no certificate"),
        ("a word", "holds no certificate"),
        (key.as_str(), "holds no certificate"),
        (damaged.as_str(), "is damaged"),
        (empty, "is damaged"),
    ] {
        let options = ConnectOptions {
            tls: Some(TlsOptions {
                mode: TlsMode::VerifyFull,
                ca_pem: Some(pem.as_bytes().to_vec()),
            }),
            ..options()
        };
        let refusal = connect(&url, &options).await.unwrap_err().to_string();
        assert!(refusal.contains("the CA certificate for PostgreSQL"), "{refusal}");
        assert!(refusal.contains(says), "{refusal}");
        assert!(pem.is_empty() || !refusal.contains(pem), "{refusal}");
        assert!(!format!("{options:?}").contains("45, 45"), "{options:?}");
    }
}
