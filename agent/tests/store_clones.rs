//! Dialects of S3-compatible services: without conditional writes, or with the required Content-MD5
//! of older versions. A small HTTP server stands in for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::{Digest as _, Md5};
use streamhouse_agent::store::{
    GetRange, ObjectStore, RetryPolicy, S3Credentials, StoreErrorKind, StoreSettings, check_store,
    open_store, put_settled,
};
use streamhouse_core::time::SystemEntropy;
use tokio::net::TcpListener;

/// How a service treats `If-None-Match: *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConditionalWrites {
    Refused,
    Ignored,
    Kept,
}

/// An S3-compatible service.
#[derive(Debug)]
struct StoreClone {
    conditional: ConditionalWrites,
    objects: Mutex<BTreeMap<String, Bytes>>,
    requests: Mutex<Vec<Method>>,
}

fn error_response(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (status, [("content-type", "application/xml")], body).into_response()
}

async fn handle_request(
    State(clone): State<Arc<StoreClone>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    clone.requests.lock().unwrap().push(method.clone());
    let key = uri.path().trim_start_matches("/data/").to_owned();
    let mut objects = clone.objects.lock().unwrap();
    match method.as_str() {
        "PUT" => {
            let conditional = headers.contains_key("if-none-match");
            match clone.conditional {
                ConditionalWrites::Refused if conditional => {
                    let what = "A header you provided implies functionality that is not implemented.";
                    return error_response(StatusCode::NOT_IMPLEMENTED, "NotImplemented", what);
                }
                ConditionalWrites::Kept if conditional && objects.contains_key(&key) => {
                    return error_response(
                        StatusCode::PRECONDITION_FAILED,
                        "PreconditionFailed",
                        "there is one",
                    );
                }
                _ => {}
            }
            objects.insert(key, body);
            StatusCode::OK.into_response()
        }
        "GET" => {
            let Some(object) = objects.get(&key) else {
                return error_response(StatusCode::NOT_FOUND, "NoSuchKey", "there is none");
            };
            let Some(range) = headers.get("range").and_then(|range| range.to_str().ok()) else {
                return object.clone().into_response();
            };
            let suffix: usize = range.trim_start_matches("bytes=-").parse().unwrap();
            let start = object.len() - suffix;
            let content_range = format!("bytes {start}-{}/{}", object.len() - 1, object.len());
            let part = object.slice(start..);
            (
                StatusCode::PARTIAL_CONTENT,
                [("content-range", content_range)],
                part,
            )
                .into_response()
        }
        "POST" => {
            let expected = STANDARD.encode(Md5::digest(&body));
            match headers.get("content-md5").and_then(|md5| md5.to_str().ok()) {
                None => {
                    let what = "Missing required header for this request: Content-MD5.";
                    return error_response(StatusCode::BAD_REQUEST, "InvalidRequest", what);
                }
                Some(md5) if md5 != expected => {
                    return error_response(StatusCode::BAD_REQUEST, "BadDigest", "another MD5");
                }
                Some(_) => {}
            }
            for part in String::from_utf8(body.to_vec()).unwrap().split("<Key>").skip(1) {
                objects.remove(part.split("</Key>").next().unwrap());
            }
            let done = "<DeleteResult></DeleteResult>";
            ([("content-type", "application/xml")], done).into_response()
        }
        other => panic!("no {other} is expected"),
    }
}

/// Serves a service; also returns its endpoint.
async fn serve_clone(conditional: ConditionalWrites) -> (Arc<StoreClone>, String) {
    let clone = Arc::new(StoreClone {
        conditional,
        objects: Mutex::default(),
        requests: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(handle_request).with_state(clone.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (clone, endpoint)
}

async fn store(conditional: ConditionalWrites) -> (Arc<StoreClone>, Arc<dyn ObjectStore>) {
    let (clone, endpoint) = serve_clone(conditional).await;
    let settings = StoreSettings {
        url: "s3://data".to_owned(),
        endpoint: Some(endpoint),
        credentials: Some(credentials("id", "hush", None)),
        ..StoreSettings::default()
    };
    (clone, open_store(&settings).await.unwrap())
}

fn credentials(id: &str, secret: &str, token: Option<&str>) -> S3Credentials {
    S3Credentials {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        session_token: token.map(str::to_owned),
    }
}

#[tokio::test]
async fn a_store_without_conditional_writes_is_named_and_not_asked_again() {
    for conditional in [ConditionalWrites::Refused, ConditionalWrites::Ignored] {
        let (clone, store) = store(conditional).await;
        let error = check_store(store.as_ref(), &SystemEntropy).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unsupported, "{error}");
        assert!(!error.is_retryable());
        let message = error.message();
        assert!(
            message.contains("does not support conditional writes (If-None-Match)"),
            "{error}"
        );
        assert!(message.contains("use "), "{error}");
        assert!(clone.objects.lock().unwrap().is_empty(), "the canary is gone");
        if conditional == ConditionalWrites::Refused {
            let before = clone.requests.lock().unwrap().len();
            let retry = RetryPolicy::default();
            let put = put_settled(store.as_ref(), "a", Bytes::from_static(b"a"), &retry);
            assert_eq!(put.await.unwrap_err().kind(), StoreErrorKind::Unsupported);
            assert_eq!(
                clone.requests.lock().unwrap().len(),
                before + 1,
                "once and not again"
            );
        }
    }
}

#[tokio::test]
async fn a_store_that_wants_content_md5_for_a_deletion_is_given_it() {
    let (clone, store) = store(ConditionalWrites::Kept).await;
    check_store(store.as_ref(), &SystemEntropy).await.unwrap();
    for key in ["a", "b", "c"] {
        store.put_new(key, Bytes::from_static(b"x")).await.unwrap();
    }
    store.delete(&["a".to_owned(), "c".to_owned()]).await.unwrap();
    let left: Vec<String> = clone.objects.lock().unwrap().keys().cloned().collect();
    assert_eq!(left, ["b"]);
}

/// Secrets created with `echo` or from a file end in a line feed. The SDK panics on such a header.
#[tokio::test]
async fn keys_with_a_line_feed_are_trimmed_or_refused_and_no_reason_to_panic() {
    let (_, endpoint) = serve_clone(ConditionalWrites::Kept).await;
    let with = |credentials, region: &str| StoreSettings {
        url: "s3://data".to_owned(),
        endpoint: Some(endpoint.clone()),
        region: Some(region.to_owned()),
        credentials: Some(credentials),
        ..StoreSettings::default()
    };
    let trimmed = with(credentials("id\n", "hush\n", Some("token\r\n")), "us-east-1\n");
    let store = open_store(&trimmed).await.unwrap();
    check_store(store.as_ref(), &SystemEntropy).await.unwrap();
    for (credentials, named) in [
        (credentials("i\nd", "hush", None), "access key id"),
        (credentials("id", "hu\nsh", None), "secret access key"),
        (credentials("id", "hush", Some("tok\nen")), "session token"),
    ] {
        let store = open_store(&with(credentials, "us-east-1")).await.unwrap();
        let error = store.get("a", GetRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unauthorized, "{error}");
        assert!(
            error.message().contains(named) && !error.message().contains("hu"),
            "{error}"
        );
    }
    let error = open_store(&with(credentials("id", "hush", None), "us\neast"))
        .await
        .unwrap_err();
    assert!(error.message().contains("region"), "{error}");
}
